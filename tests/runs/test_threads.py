"""Results do not depend on the number of threads: banks, pictures, tasks; nor does torch's own number change."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from helpers.draw_faces import draw_face
from PIL import Image
from torch import Tensor

from latentpatch import LatentPatch, RasterSettings
from latentpatch.runs.threads import map_in_threads, num_threads, one_thread, one_thread_an_operation

THREADS = (1, 2, 3)


def pil_to_tensor(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_a_bank_and_what_it_makes_are_the_same_with_any_number_of_threads() -> None:
    """Defect H3: another number of threads gave other keys, details, digests and pictures."""
    faces = torch.stack([pil_to_tensor(draw_face(seed, 128)) for seed in range(7)])
    mask = torch.zeros(128, 128, dtype=torch.bool)
    mask[30:90, 30:90] = True
    found = []
    for threads in THREADS:
        torch.set_num_threads(threads)
        model = LatentPatch().fit(faces, mirrored=True)
        results = [
            *model.pca.fitted().values(),
            model.generate(5).images,
            model.inpaint(faces[0], mask, 2, settings=RasterSettings(patch_size=3, scales=1)).images,
            model.edit(faces[0], faces[1], mask, composite=True).images,
            model.reconstruct(faces, reduced=True),
            model.generate(2, precision="bfloat16").images,
        ]
        found.append((model.bank.digest(), results))
    for digest, results in found[1:]:
        assert digest == found[0][0]
        for result, expected in zip(results, found[0][1], strict=True):
            assert torch.equal(result, expected)


def test_parts_have_one_thread_each_and_the_modes_of_their_caller() -> None:
    torch.set_num_threads(3)

    def modes(part: int) -> tuple[int, int, bool, bool]:
        return part, torch.get_num_threads(), torch.is_grad_enabled(), torch.is_inference_mode_enabled()

    with torch.no_grad():
        assert map_in_threads(modes, range(5)) == [(part, 1, False, False) for part in range(5)]
    with torch.inference_mode():
        assert map_in_threads(modes, range(5)) == [(part, 1, False, True) for part in range(5)]
    assert map_in_threads(modes, range(5)) == [(part, 1, True, False) for part in range(5)]
    assert torch.get_num_threads() == 3


def test_an_error_ends_all_parts_and_restores_the_number_of_threads() -> None:
    torch.set_num_threads(2)

    def fails(part: int) -> Tensor:
        raise ValueError(f"part {part}")

    with pytest.raises(ValueError, match="part"):
        map_in_threads(fails, range(4))
    with pytest.raises(KeyError), one_thread():
        raise KeyError
    assert torch.get_num_threads() == 2


def test_operations_may_have_one_thread_and_parts_several() -> None:
    torch.set_num_threads(2)
    together = threading.Barrier(2, timeout=30)

    def part(_: int) -> tuple[int, int, int]:
        together.wait()  # fails where parts have one thread
        return torch.get_num_threads(), num_threads(), len(map_in_threads(str, range(2)))

    with one_thread_an_operation():
        assert (torch.get_num_threads(), num_threads()) == (1, 2)
        assert map_in_threads(part, range(2)) == [(1, 1, 2)] * 2
        assert (torch.get_num_threads(), num_threads()) == (1, 2)
    assert (torch.get_num_threads(), num_threads()) == (2, 2)
    with pytest.raises(KeyError), one_thread_an_operation():
        raise KeyError
    assert (torch.get_num_threads(), num_threads()) == (2, 2)
