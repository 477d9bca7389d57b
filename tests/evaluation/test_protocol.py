"""The protocol in Python: figures against the metrics themselves, and the log."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.errors import refuses

from latentpatch import FileError, LatentPatch
from latentpatch.evaluation import (
    Evaluation,
    Extractor,
    Protocol,
    Row,
    frechet_distance,
    kernel_distance,
    parse_row,
    random_pairs,
    recalls,
)
from latentpatch.evaluation.log import EvaluationLog, read_log
from latentpatch.evaluation.protocol import with_copier
from latentpatch.io.images import read_image


def test_figures_are_those_of_the_images(portraits: tuple[Path, Path], tmp_path: Path) -> None:
    sources, held_out = (sorted(folder.iterdir()) for folder in portraits)
    model = LatentPatch("pixels:16").fit(sources, size=64)
    extractor = Extractor("means", lambda x: torch.nn.functional.adaptive_avg_pool2d(x, 2).flatten(1))
    protocol = Protocol(samples=7, seeds=2, pairs=50, directions=0, resamples=0)
    evaluation = Evaluation(model, held_out, tmp_path, extractor, sources=sources, protocol=protocol)
    entry = evaluation.run(Row("patches", "random-patches", {"patch_size": 2}))
    made = [model.generate(7, seed=7 * s, sampler="random-patches", settings=row_settings(model)) for s in range(2)]
    reference = extractor.features(torch.stack([read_image(path, (64, 64)) for path in held_out]))
    features = [extractor.features(each.images) for each in made]
    figures = entry["figures"]
    assert figures["distance"]["sets"] == pytest.approx([frechet_distance(each, reference) for each in features])
    assert figures["kernel"]["sets"] == pytest.approx([kernel_distance(each, reference) for each in features])
    assert figures["recall"]["sets"] == pytest.approx([float(recalls(each, reference).mean()) for each in features])
    assert figures["distance"]["interval"] is None
    assert figures["largest_share"]["sets"] == pytest.approx(
        [np.mean([max(shares.values()) for shares in each.shares()]) for each in made]
    )
    assert figures["sources"]["sets"] == pytest.approx([np.mean([len(s) for s in each.shares()]) for each in made])
    pictures = torch.stack([read_image(path, (64, 64)) for path in sources])
    spread = extractor.pair_distances(pictures, *random_pairs(12, 50)).mean()
    pairs = random_pairs(7, 50)
    assert figures["diversity"]["sets"] == pytest.approx(
        [float(extractor.pair_distances(each.images, *pairs).mean() / spread) for each in made]
    )
    assert figures["nearest"]["value"] > 0.1
    assert 1 / 16 < figures["regions"]["value"] <= 0.25  # patches of four cells
    verbatim = evaluation.run(Row("verbatim", "sources"))
    assert verbatim["figures"]["nearest"]["value"] == 0
    assert verbatim["figures"]["regions"]["value"] == 1 / 16
    assert verbatim["figures"]["diversity"]["value"] == pytest.approx(1, abs=0.3)
    reconstructed = evaluation.run(Row("held-out", "held-out"))
    assert reconstructed["figures"]["distance"]["value"] == pytest.approx(0, abs=1e-6)  # raw pixels lose nothing
    assert reconstructed["figures"]["psnr"]["value"] > 60
    reduced = evaluation.run(Row("held-out, reduced", "held-out-reduced"))
    assert 10 < reduced["figures"]["psnr"]["value"] < 40
    few = evaluation.run(Row("few", "random-cells", bank=3))
    assert few["figures"]["sources"]["value"] <= 3
    assert not any(model.bank.attributes)  # unchanged


def row_settings(model: LatentPatch) -> object:
    return Row("patches", "random-patches", {"patch_size": 2}).settings_for(model)


def test_the_copier_is_in_every_table() -> None:
    assert [row.sampler for row in with_copier([Row("a", "raster")])] == ["sources", "raster"]
    assert len(with_copier([Row("mine", "sources")])) == 1


def test_sample_sizes_are_checked() -> None:
    for name, value in (("samples", 5), ("seeds", 0), ("pairs", 0), ("directions", -1), ("resamples", 1)):
        with refuses(name):
            Protocol(**{name: value})
    with refuses("samples", TypeError):
        Protocol(samples=7.0)


def test_a_log_with_former_names_of_settings_is_read(model: LatentPatch, tmp_path: Path) -> None:
    row = parse_row("resynthesis draws=3").identity(model)
    former = {"neighbors": "neighbours", "start_candidates": "draws", "donors": "subset"}
    settings = {former.get(name, name): value for name, value in row["settings"].items()}
    entry = {"conditions": {"version": "1"}, "row": {**row, "settings": settings}, "figures": {}}
    path = tmp_path / "evaluation.jsonl"
    path.write_text(json.dumps(entry) + "\n")
    assert read_log(path)[0]["row"] == row
    log = EvaluationLog(tmp_path, {"version": "1"})
    assert log.find(row=row) is not None
    assert log.find(row=row, seconds=...) is None
    assert EvaluationLog(tmp_path, {"version": "2"}).find(row=row) is None
    for line in ("[]", "{", '{"conditions": {}, "row": {"sampler": "raster"}}', '{"conditions": {}, "row": 3}'):
        path.write_text(f"{json.dumps(entry)}\n{line}\n")
        with pytest.raises(FileError) as caught:
            read_log(path)
        assert caught.value.path == path
        assert caught.value.reason.startswith("line 2 is damaged")
