"""Make the fixtures and digests of the golden tests anew, in some minutes.

Run ``PYTHONPATH=tests python tests/golden/make_golden.py``.

The fixtures were made by version 0.1.0, before the package was reorganized, and say what must not change: index maps,
picture bytes, model files, pictures with their metadata, and the names in them. So run this only where results are
meant to change, and say in the commit which and why. Model files, pictures and reports that are there stay as they are,
for they stand for files that users have; ``--files`` replaces them, too. Numba is needed, for both backends are
compared.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from golden import golden_cases as golden
from golden.golden_cases import FIXTURES
from PIL import Image


def make_files() -> None:
    """Draw the sources, and write model files, settings and what the commands make."""
    from helpers.draw_faces import draw_face

    from latentpatch import LatentPatch

    shutil.rmtree(FIXTURES, ignore_errors=True)
    for size, count in ((64, 14), (128, 6)):
        folder = FIXTURES / f"faces{size}"
        folder.mkdir(parents=True)
        for seed in range(count):
            draw_face(seed, size).save(folder / f"face{seed:02d}.png", optimize=True)
    draw_face(100, 64).save(FIXTURES / "reference.png", optimize=True)
    draw_face(100, 128).save(FIXTURES / "reference128.png", optimize=True)
    small = torch.stack([torch.from_numpy(np.array(draw_face(seed, 32))) for seed in range(6)])
    small = small.movedim(-1, 1).float() / 255
    models = {name: golden.fitted(name) for name in ("plain", "mirrored", "embedded", "vq")}
    raster = golden.settings_of({"sampler": "raster", "patch_size": 4, "neighbours": 2, "scales": 2})
    models["offsets"] = LatentPatch("pixels:4", 8, raster).fit(small[:5], offsets=1)
    diffusion = golden.settings_of({"sampler": "diffusion", "levels": 6})
    models["tiny"] = LatentPatch("pixels:4", 8, diffusion).fit(small)
    for name, model in models.items():
        model.save(FIXTURES / f"{name}.safetensors")
    records = {name: golden.settings_of(record) for name, record in golden.RECORDS.items()}
    text = json.dumps({name: {"sampler": name, **asdict(settings)} for name, settings in records.items()}, indent=1)
    (FIXTURES / "settings.json").write_text(text + "\n")
    for name in golden.COMMANDS:
        with tempfile.TemporaryDirectory() as folder:
            golden.run_command(golden.arguments_of(name, Path(folder) / "out"))
            (FIXTURES / name).mkdir()
            for path in (Path(folder) / "out").iterdir():
                if path.name not in ("grid.png", "provenance.png"):
                    shutil.copy(path, FIXTURES / name)


def make_digests() -> None:
    """Compute every case and write its digest, and small pictures and weights to compare with elsewhere."""
    index: dict[str, str] = {}
    for name, case in golden.search_cases().items():
        found = {golden.digest(golden.found_index(case, backend)) for backend in golden.backends_of(case)}
        assert len(found) == 1, f"{name}: backends differ"
        (index[name],) = found
    index |= {name: golden.digest(compute()) for name, compute in golden.generate_cases().items()}
    for name in golden.EXPORTED:
        with tempfile.TemporaryDirectory() as folder:
            for graph, found_map in golden.exported_indices(name, Path(folder)).items():
                index[f"export/{name}/{graph}"] = golden.digest(found_map)
    pictures = {}
    (FIXTURES / "pictures").mkdir(exist_ok=True)
    for name, compute in golden.picture_cases().items():
        images = golden.levels(compute())
        pictures[name] = golden.digest(images)
        Image.fromarray(images[0].movedim(0, -1).numpy()).save(golden.picture_file(name), optimize=True)
    np.savez_compressed(FIXTURES / "soft.npz", **{name: golden.soft_weights(name).numpy() for name in golden.SOFT})
    banks = {path.stem: golden.load(path.stem).bank.digest() for path in sorted(FIXTURES.glob("*.safetensors"))}
    facts = {"processor": golden.processor(), "index": index, "pictures": pictures, "banks": banks}
    (FIXTURES.parent / "digests.json").write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")


def main() -> None:
    """Make what the command line asks for."""
    torch.set_num_threads(golden.NUM_THREADS)
    if "--files" in sys.argv[1:] or not list(FIXTURES.glob("*.safetensors")):
        make_files()
    make_digests()


if __name__ == "__main__":
    main()
