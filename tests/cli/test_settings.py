"""Presets, samplers and settings as options."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.command_line import (
    PIXELS,
    RASTER,
    indices,
    misused,
    model_of,
    record,
    refused,
    run,
)
from helpers.errors import refuses
from torch import Tensor

from latentpatch import (
    PRESETS,
    SAMPLERS,
    DiffusionSettings,
    LatentPatch,
    RasterSettings,
    Settings,
    register,
    setting,
)
from latentpatch.cli.entry import COMMANDS, main
from latentpatch.methods.latent.presets import PRESET_HELP
from latentpatch.methods.latent.random_tiles import RandomCells
from latentpatch.methods.latent.search.prepared import PreparedSources


@pytest.mark.parametrize(
    "settings",
    [
        {"patch_size": 4},
        {"stride": 1},
        {"neighbors": 1},
        {"scales": 2},
        {"start_size": 8},
        {"patch_size": 5, "stride": 3, "neighbors": 12, "scales": 3, "start_size": 7},
    ],
    ids=str,
)
def test_settings_are_options(faces: Path, tmp_path: Path, settings: dict[str, int]) -> None:
    options = [text for name, value in settings.items() for text in (f"--{name.replace('_', '-')}", value)]
    run("generate", faces, *PIXELS, "-n", 2, *RASTER, *options, "-o", tmp_path / "out")
    expected = model_of(faces).generate(2, settings=RasterSettings(**settings))
    assert torch.equal(indices(tmp_path / "out"), expected.index)
    plain = model_of(faces).generate(2, settings=RasterSettings())
    assert not torch.equal(expected.index, plain.index), "the setting makes a difference"
    assert record(tmp_path / "out")["settings"].items() >= settings.items()


def text_of_help(capsys: pytest.CaptureFixture[str], command: str = "generate") -> str:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    return " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("command", ["generate", "export", "unlearn"])
def test_every_setting_of_every_sampler_is_an_option(capsys: pytest.CaptureFixture[str], command: str) -> None:
    text = text_of_help(capsys, command)
    for name, by_sampler in SAMPLERS.settings().items():
        assert f" --{name.replace('_', '-')}" in text
        for each in by_sampler.values():
            assert each.default_text in text, (name, each.default_text)
            assert not any(f"--{former.replace('_', '-')} " in text for former in each.aliases), "former names"
    for name in PRESETS:
        assert PRESET_HELP[name] in text
    for name in SAMPLERS:
        assert SAMPLERS.summary(name) in text


def test_settings_come_in_two_groups(capsys: pytest.CaptureFixture[str]) -> None:
    _, _, text = text_of_help(capsys).partition(" settings: ")
    basic, _, advanced = text.partition(" advanced settings: ")
    for name, by_sampler in SAMPLERS.settings().items():
        group = advanced if all(each.is_advanced for each in by_sampler.values()) else basic
        assert f"--{name.replace('_', '-')}" in group
    side = "of the grid's shorter side"
    assert f"(5/16 {side}; diffusion: 4/16 {side}; raster, random-patches: 6/16 {side})" in basic, (
        "defaults that differ"
    )


@pytest.mark.parametrize(
    ("sampler", "words", "settings"),
    [
        ("resynthesis", ["--draws", 3, "--keep-start", "--subset", 5, "--use-cost", 2],
         {"start_candidates": 3, "allow_start_as_donor": True, "donors": 5, "reuse_cost": 2.0}),
        ("resynthesis", ["--no-keep-start", "--no-symmetric", "--donors", "1.0", "--max-share", 1],
         {"allow_start_as_donor": False, "symmetric": False, "donors": 1.0, "max_share": 1.0}),
        ("raster", ["--neighbours", 2], {"neighbors": 2}),
        ("diffusion", ["--levels", 3, "--start-noise", 4, "--end-noise", 0.1, "--windows", "9,3", "--sweeps", 0],
         {"levels": 3, "start_noise": 4.0, "end_noise": 0.1, "windows": (9, 3), "sweeps": 0}),
    ],
    ids=str,
)  # fmt: skip
def test_settings_are_read_by_all_their_names(sampler: str, words: list[object], settings: dict[str, Any]) -> None:
    found = options_of("generate", "faces", "-o", "out", "--sampler", sampler, *words).sampler.settings()
    assert found == SAMPLERS.settings_class(sampler)(**settings)
    for name, value in settings.items():
        assert type(getattr(found, name)) is type(value), "which JSON tells apart"


def options_of(command: str, *words: object) -> Any:
    declared = importlib.import_module(f"latentpatch.cli.{command}").run
    return declared.parse(command, COMMANDS[command], [str(word) for word in words])


def test_presets_and_fitted_settings_are_where_changes_start() -> None:
    fitted = RasterSettings(patch_size=9, stride=3)
    chosen = options_of("generate", "faces", "-o", "out").sampler
    assert chosen.settings() == PRESETS["balanced"]
    assert chosen.settings(fitted) == fitted
    chosen = options_of("generate", "faces", "-o", "out", "--preset", "few", "--sweeps", 3).sampler
    assert chosen.settings(fitted) == PRESETS["few"].changed(sweeps=3)
    chosen = options_of("generate", "faces", "-o", "out", "--sampler", "raster", "--stride", 8).sampler
    assert chosen.settings(fitted) == fitted.changed(stride=8)
    with refuses("stride"):
        chosen.settings().in_cells((16, 16))
    for changes in ([], ["--sampler", "raster"]):
        chosen = options_of("inpaint", "faces", "-o", "out", "--image", "a", "--box", "0", *changes).sampler
        assert chosen.settings() == chosen.settings(PRESETS["few"]) == RasterSettings()
        assert chosen.settings(fitted) == fitted


def test_diffusion_is_at_hand_with_all_its_settings(faces: Path, tmp_path: Path) -> None:
    options = ["--sampler", "diffusion", "--levels", 4, "--windows", "16,5", "--sweeps", 1]
    run("generate", faces, *PIXELS, "-n", 1, *options, "-o", tmp_path / "out")
    settings = DiffusionSettings(levels=4, windows=(16, 5), sweeps=1)
    assert torch.equal(indices(tmp_path / "out"), model_of(faces).generate(1, settings=settings).index)
    options = [*options, "--image", faces / "face02.png", "--box", "16,20,48,36"]
    run("inpaint", faces, *PIXELS, "-n", 1, *options, "-o", tmp_path / "filled")
    region = torch.zeros(64, 64, dtype=torch.bool)
    region[20:36, 16:48] = True
    expected = model_of(faces).inpaint(faces / "face02.png", region, 1, settings=settings)
    assert torch.equal(indices(tmp_path / "filled", "inpaint.json"), expected.index)
    assert record(tmp_path / "filled", "inpaint.json")["sampler"] == "diffusion"


@dataclass(frozen=True)
class ToySettings(Settings):
    first: int = setting(1, "position of the source that every cell comes from", minimum=0, metavar="B")
    is_loud: bool = setting(False, "shout", is_advanced=True)


class Toy(RandomCells):
    """Takes everything from one source."""

    name = "toy"
    Settings = ToySettings
    is_shardable = False

    def sample(
        self,
        sources: PreparedSources,
        noise: Tensor,
        settings: Any,
        reference: Tensor | None,
        mask: Tensor | None,
    ) -> Tensor:
        return torch.full((len(noise), *sources.keys.shape[1:3]), settings.first)


@pytest.fixture
def toy() -> Iterator[None]:
    register(Toy)
    yield
    SAMPLERS.remove("toy")


def test_a_registered_sampler_is_an_option_with_its_settings(
    toy: None, faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = text_of_help(capsys)
    assert "random-patches,toy}" in text
    assert "Takes everything from one source." in text
    assert "--first B position of the source that every cell comes from (toy: 1)" in text
    assert "--is-loud, --no-is-loud" in text
    run("generate", faces, *PIXELS, "-n", 2, "--sampler", "toy", "--first", 7, "--is-loud", "-o", tmp_path / "out")
    assert indices(tmp_path / "out").unique().tolist() == [7]
    assert record(tmp_path / "out")["settings"] == {"first": 7, "is_loud": True}
    assert "--first" in misused(capsys, "generate", faces, "-o", tmp_path / "a", "--sampler", "toy", "--first", -1)
    line = refused(capsys, tmp_path, "generate", faces, *PIXELS, "--first", 3)
    assert line == "--first belongs to toy: add --sampler toy"
    model = tmp_path / "model.safetensors"
    run("fit", faces, *PIXELS, "-q", "-o", model)
    line = refused(capsys, tmp_path, "generate", model, "--sampler", "toy", "--shard-bank")
    assert "--shard-bank" in line
    assert "raster" in line
    assert "toy" not in text_of_help(capsys, "inpaint")


def test_a_bank_is_sharded_for_samplers_that_search_shards(
    faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused before processes meet and anything is loaded, also where the model file names the sampler."""
    model = tmp_path / "model.safetensors"
    run("fit", faces, *PIXELS, "-q", "-o", model)

    def load(*_: Any, **__: Any) -> None:
        raise AssertionError("loading began")

    monkeypatch.setattr(LatentPatch, "open", load)
    monkeypatch.setattr("latentpatch.runs.processes.process_group", load)
    for choice in ([], ["--preset", "few"], ["--sampler", "diffusion"]):
        line = refused(capsys, tmp_path, "generate", model, *choice, "--shard-bank")
        assert all(word in line for word in ("--shard-bank", "raster", "random-cells", "random-patches"))
