"""Latents joined without seams."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from latentpatch import LatentPatch
from latentpatch.ops.blending import STIFFNESS, blend, stiffness_of


def gatherer(bank: Tensor):
    rows, columns = torch.arange(bank.shape[2])[:, None], torch.arange(bank.shape[3])
    return lambda index: bank[index, :, rows, columns].movedim(-1, 1)


def solved(bank: Tensor, index: Tensor, stiffness: float) -> np.ndarray:
    """One image by dense least squares."""
    _, channels, height, width = bank.shape
    values = bank.double().numpy()
    cells = [(row, column) for row in range(height) for column in range(width)]
    rows, wanted = [], []
    own = np.array([values[index[cell], :, cell[0], cell[1]] for cell in cells])
    for a, (row, column) in enumerate(cells):
        for other in ((row + 1, column), (row, column + 1)):
            if other in cells:
                b = cells.index(other)
                line = np.zeros(len(cells))
                line[a], line[b] = -1, 1
                rows.append(line)
                sources = [int(index[row, column]), int(index[other])]
                wanted.append(
                    np.mean([values[s][:, other[0], other[1]] - values[s][:, row, column] for s in sources], 0)
                )
    system = np.concatenate([np.array(rows), np.sqrt(stiffness) * np.eye(len(cells))])
    target = np.concatenate([np.array(wanted), np.sqrt(stiffness) * own])
    return np.linalg.lstsq(system, target, rcond=None)[0].T.reshape(channels, height, width)


def test_blending_is_the_least_squares_solution():
    generator = torch.Generator().manual_seed(0)
    bank = torch.randn(5, 3, 4, 6, generator=generator)
    index = torch.randint(5, (2, 4, 6), generator=generator)
    for stiffness in (0.1, 2.0):
        found = blend(gatherer(bank), index, stiffness)
        for image in range(2):
            np.testing.assert_allclose(found[image].numpy(), solved(bank, index[image], stiffness), atol=2e-5)


def test_sources_that_differ_by_a_tone_join_without_a_step():
    """Two halves, one brighter by a constant: far from where they meet nothing changes, there the step is spread."""
    base = torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    bank = torch.cat([base, base + 1])
    index = torch.zeros(1, 16, 16, dtype=torch.int64)
    index[:, :, 8:] = 1
    tone = (blend(gatherer(bank), index, 0.5) - base)[0, 0, 3]
    steps = tone.diff()
    assert (steps >= -1e-5).all()
    assert steps.max() < 0.5
    assert abs(tone[0]) < 0.01
    assert abs(tone[-1] - 1) < 0.01


def test_a_step_of_tone_spreads_over_the_same_part_of_every_grid():
    """Two sources that differ by a ramp of tone along the seam are joined alike, whatever the number of cells."""
    assert stiffness_of(1) == STIFFNESS
    joined = []
    for side in (16, 64):
        bank = torch.stack([torch.zeros(1, side, side), torch.ones(1, side, side)])
        index = (torch.arange(side) >= side // 2).long().expand(1, side, side)
        joined.append(blend(gatherer(bank), index, stiffness_of(side // 16))[0, 0, 0].view(16, -1).mean(1))
    torch.testing.assert_close(joined[0], joined[1], atol=0.02, rtol=0)
    far = blend(gatherer(bank), index, STIFFNESS)[0, 0, 0].view(16, -1).mean(1)
    assert float((far - joined[0]).abs().max()) > 0.1


def test_a_picture_of_one_source_stays_as_it_is():
    bank = torch.randn(3, 2, 5, 7, generator=torch.Generator().manual_seed(2), dtype=torch.float32)
    index = torch.full((1, 5, 7), 2)
    assert torch.equal(blend(gatherer(bank), index), bank[2:])
    assert blend(gatherer(bank), index[:0]).shape == (0, 2, 5, 7)


def test_models_blend_on_request_and_alike_in_any_batch(model: LatentPatch):
    plain, blended = (model.generate(5, decoding=name) for name in ("gather", "blend"))
    assert torch.equal(plain.index, blended.index)
    assert not torch.equal(plain.images, blended.images)
    for seed in range(5):
        assert torch.equal(model.generate(1, seed=seed, decoding="blend").images[0], blended.images[seed])
