"""Compare methods that make pictures from a few pictures of a scene, at FewGAN's protocol.

    python benchmarks/few_pictures.py SOURCES --size 64 --features FILE.py:NAME -n 200 --rival NAME=MODEL_OR_FOLDER ...

A rival is a trained model file, or a folder of pictures, such as that of ``latentpatch generate --unregistered
--offsets``, whose ``offsets.safetensors`` says which source each pixel is from. Without it, the sources of patches are
estimated by the nearest patch. The row ``sources`` is that of the sources themselves, repeated. Trained models make
their pictures from the seeds ``SEED, SEED + 1, ...``, in as many sets as there are ``--sets``. Prints a JSON table and
writes sheets of the first pictures with ``-o``.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from latentpatch.autoencoders.registry import load_autoencoder
from latentpatch.evaluation.features import load_extractor
from latentpatch.evaluation.few_pictures import few_picture_figures
from latentpatch.io.images import contact_sheet, list_images, read_image, write_image
from latentpatch.methods.trained.base import is_trained, load_trained

SHEET = 20  # pictures


def made_by(rival: Path, size: tuple[int, int], count: int, seed: int) -> tuple[Tensor, Tensor | None]:
    """Return pictures ``(count, 3, h, w)`` of a model or a folder, and the source of each pixel where it is known."""
    if is_trained(rival):
        return load_trained(rival).make("reshuffle", range(seed, seed + count)), None
    files = [path for path in list_images(rival) if path.stem.isdigit()][seed : seed + count]
    offsets = rival / "offsets.safetensors"
    maps = load_file(offsets)["offsets"][seed : seed + count, ..., 0].long() if offsets.exists() else None
    return torch.stack([read_image(path, size) for path in files]), maps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", type=Path, nargs="+")
    parser.add_argument("--rival", action="append", default=[], metavar="NAME=PATH")
    parser.add_argument("--size", type=int, nargs="+", default=[64], help="height and width in pixels, or both")
    parser.add_argument("--features", default="latents", help="as of latentpatch evaluate")
    parser.add_argument("-n", type=int, default=200)
    parser.add_argument("--sets", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    size = (options.size[0], options.size[-1])
    sources = torch.stack([read_image(path, size) for path in list_images(*options.sources)])
    extractor = load_extractor(options.features, load_autoencoder("embedded"))
    rows: dict[str, list[dict[str, object]]] = {}
    rivals = dict(each.split("=", 1) for each in options.rival)
    for name in ["sources", *rivals]:
        for k in range(options.sets):
            if name == "sources":
                images, maps = sources.repeat(options.n // len(sources), 1, 1, 1), None
            else:
                images, maps = made_by(Path(rivals[name]), size, options.n, k * options.n)
            figures = few_picture_figures(images, sources, extractor.features, maps)
            rows.setdefault(name, []).append({"pictures": len(images), **figures})
            print(name, figures, file=sys.stderr, flush=True)
            if name == "sources":
                break
        if options.output is not None:
            options.output.mkdir(parents=True, exist_ok=True)
            write_image(options.output / f"{name}.png", contact_sheet(images[:SHEET], 5))
    print(json.dumps({"size": size, "sources": len(sources), "features": options.features, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
