"""Models as folders and on the Hugging Face Hub, which is stood for by objects of its interface."""

from __future__ import annotations

import shutil
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers.errors import refuses, refuses_file

from latentpatch import PRESETS, FileError, LatentPatch, MissingDependencyError

hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed: the Hub was not tested")


@pytest.fixture
def without_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if huggingface_hub were not installed."""
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)


def test_folders_need_no_hub(tmp_path, model, without_hub):
    folder = tmp_path / "my" / "model"
    model.save_pretrained(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "model.safetensors"]
    for name in (folder, str(folder), folder / "model.safetensors"):
        loaded = LatentPatch.from_pretrained(name)
        assert torch.equal(loaded.generate(2).images, model.generate(2).images)
    assert LatentPatch.from_pretrained(folder, autoencoder=model.autoencoder).autoencoder is model.autoencoder


def test_cards_say_what_is_in_the_file(tmp_path, face_images):
    model = LatentPatch("pixels:4", 8, PRESETS["balanced"])
    model.fit(face_images, attributes={"3": {"mood": "glad", "age": "30"}})
    model.save_pretrained(tmp_path, repo_id="someone/faces")
    card = (tmp_path / "README.md").read_text()
    metadata = hub.ModelCard.load(tmp_path / "README.md").data.to_dict()
    assert metadata["library_name"] == "latentpatch"
    assert "license" not in metadata, "the sources' is not ours to give"
    for text in (
        "# someone/faces",
        'from_pretrained("someone/faces")',
        "| sources | 12 |",
        "| attributes | age, mood |",
        "| autoencoder | pixels:4 (not in this repository), licence of its weights: none |",
        model.autoencoder.fingerprint(),
        model.bank.digest(),
        '"sampler": "resynthesis", "patch_size": 5',
        "64x64 pixels",
        "consent of everyone in it",
    ):
        assert text in card


def test_copies_are_no_sources_of_a_card(tmp_path, face_images):
    """Defect L2: the card of 8 mirrored and moved pictures said 144 registered examples."""
    LatentPatch("pixels:4", 8).fit(face_images[:8], mirrored=True, offsets=1).save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert "from 8 registered examples" in card
    assert "| sources | 8 |" in card
    assert "| copies of each, mirrored or moved | 18 |" in card


def test_the_card_names_the_autoencoder_of_the_sources(tmp_path, face_images):
    from latentpatch import RasterSettings, load_autoencoder

    teacher, student = (load_autoencoder(name, pretrained=False) for name in ("taef2", "embedded"))
    LatentPatch(teacher, settings=RasterSettings(patch_size=2)).fit(face_images[:4]).save_pretrained(tmp_path / "a")
    LatentPatch.from_pretrained(tmp_path / "a", autoencoder=student).save_pretrained(tmp_path / "b")
    assert "| autoencoder | taef2 " in (tmp_path / "b" / "README.md").read_text()


def test_models_are_downloaded(tmp_path, model, monkeypatch):
    model.save_pretrained(tmp_path / "remote")
    asked = []

    def download(repo_id: str, filename: str, **options: object) -> str:
        asked.append((repo_id, filename, options["revision"], options["token"]))
        return str(tmp_path / "remote" / filename)

    monkeypatch.setattr(hub, "hf_hub_download", download)
    loaded = LatentPatch.from_pretrained("someone/faces", revision="v2", token="secret")
    assert asked == [("someone/faces", "model.safetensors", "v2", "secret")]
    assert loaded.bank.ids == model.bank.ids


def test_models_are_published_with_their_card(tmp_path, model, monkeypatch):
    calls = []

    class Api:
        def __init__(self, token: str | None, library_name: str) -> None:
            calls.append(token)

        def create_repo(self, repo_id: str, *, private: bool | None, exist_ok: bool) -> SimpleNamespace:
            calls.append((repo_id, private, exist_ok))
            return SimpleNamespace(repo_id=f"someone/{repo_id}")

        def upload_folder(self, *, repo_id: str, folder_path: str, **options: object) -> str:
            calls.append((repo_id, options["commit_message"]))
            shutil.copytree(folder_path, tmp_path / "published")
            return "https://hub/commit/1"

    monkeypatch.setattr(hub, "HfApi", Api)
    assert model.push_to_hub("faces", private=True, token="secret", commit_message="all") == "https://hub/commit/1"
    assert calls == ["secret", ("faces", True, True), ("someone/faces", "all")]
    assert "# someone/faces" in (tmp_path / "published" / "README.md").read_text()
    published = LatentPatch.from_pretrained(tmp_path / "published")
    assert torch.equal(published.generate(1).images, model.generate(1).images)


def test_publishing_has_a_time_limit(model, monkeypatch):
    release = threading.Event()
    monkeypatch.setattr(hub, "HfApi", lambda **_: release.wait(20))
    with refuses_file("someone/faces", "no answer within 0.1 s"):
        model.push_to_hub("someone/faces", timeout=0.1)
    release.set()
    with refuses("timeout"):
        model.push_to_hub("someone/faces", timeout=float("nan"))


def test_what_cannot_be_had_is_named(tmp_path, model, monkeypatch):
    for name in ("someone/none", "a/b/c/d", tmp_path):
        with pytest.raises(FileError) as caught:
            LatentPatch.from_pretrained(name, cache_dir=tmp_path, local_files_only=True)
        assert caught.value.path == name
    assert "model.safetensors" in caught.value.reason
    with pytest.raises(RuntimeError, match="no sources yet"):
        LatentPatch("pixels:4").save_pretrained(tmp_path / "empty")
    assert not (tmp_path / "empty").exists()
    Path(tmp_path / "file").write_text("")
    with pytest.raises(FileError, match=r"file.*: cannot be written"):
        model.save_pretrained(tmp_path / "file")


def test_the_hub_asks_for_its_package(model, without_hub):
    for action in (lambda: LatentPatch.from_pretrained("someone/faces"), lambda: model.push_to_hub("someone/faces")):
        with pytest.raises(MissingDependencyError) as caught:
            action()
        assert (caught.value.package, caught.value.extra) == ("huggingface_hub", "huggingface")


@pytest.mark.parametrize(("name", "named"), [("taef2", 'autoencoder="taef2"'), ("embedded", "")])
def test_a_card_names_weights_that_must_be_fetched(name, named):
    """A model file alone fetches no weights: who follows the card has to name the autoencoder."""
    from latentpatch import load_autoencoder
    from latentpatch.model_card import model_card

    model = LatentPatch(load_autoencoder(name, pretrained=False), components=4).fit(torch.rand(3, 3, 64, 64))
    (line,) = [line for line in model_card(model, "owner/name").splitlines() if "from_pretrained" in line]
    assert line == f'model = LatentPatch.from_pretrained("owner/name"{", " if named else ""}{named})'
