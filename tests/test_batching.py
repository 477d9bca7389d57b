"""Operations in a batch: one call a stage, the results of each alone, and errors that concern one operation only."""

from __future__ import annotations

from collections.abc import Generator

import torch
from helpers.errors import refuses
from torch import Tensor

from latentpatch import LatentPatch, RasterSettings
from latentpatch.batching import Costs, Decode, Encode, Operation, Step, run_together


def doubling(x: float, stages: int = 1) -> Operation[float]:
    value = torch.full((1, 1), x)
    for _ in range(stages):
        value = yield Decode(value)
    return float(value)


def double(step: Step) -> Tensor:
    assert isinstance(step, Decode)
    if bool((step.latents == 13).any()):
        raise RuntimeError("unlucky")
    return step.latents * 2


def test_steps_of_one_stage_are_one_call() -> None:
    calls = []

    def counted(step: Step) -> Tensor:
        calls.append(len(step))
        return double(step)

    assert run_together([doubling(1), doubling(2), doubling(3, stages=2)], counted) == [2, 4, 12]
    assert calls == [3, 1]


def test_a_step_that_fails_costs_only_its_own_operation() -> None:
    first, second, third = run_together([doubling(1), doubling(13), doubling(2)], double)
    assert (first, third) == (2, 4)
    assert isinstance(second, RuntimeError)
    assert str(second) == "unlucky"


def test_an_operation_that_refuses_before_its_first_step_costs_only_itself() -> None:
    def refusing() -> Generator[Step, Tensor, float]:
        raise ValueError("no")
        yield

    refused, done = run_together([refusing(), doubling(4)], double)
    assert isinstance(refused, ValueError)
    assert done == 8


def test_early_stages_wait_for_nobody_and_late_ones_for_all() -> None:
    order = []

    def late() -> Operation[None]:
        yield Decode(torch.zeros(1, 1))

    def early() -> Operation[None]:
        yield Encode(torch.zeros(1, 3, 4, 4))
        yield Decode(torch.zeros(1, 1))

    def record(step: Step) -> Tensor:
        order.append((type(step).__name__, len(step)))
        return torch.zeros(len(step), 1)

    run_together([late(), early(), late()], record)
    assert order == [("Encode", 1), ("Decode", 3)]


def test_a_check_that_raises_ends_what_waits() -> None:
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise TimeoutError("late")

    quick, slow = run_together([doubling(1), doubling(1, stages=2)], double, check=check)
    assert quick == 2
    assert isinstance(slow, TimeoutError)


def test_costs_count_images_of_each_stage(model: LatentPatch) -> None:
    costs = Costs()
    model.run_together([model.generating(seeds=[1, 2]), model.generating(seeds=[3])], costs=costs)
    assert costs.images == {"encode": 0, "search": 3, "decode": 3}
    assert costs.seconds["search"] > 0
    assert costs.seconds["encode"] == 0


def test_different_requests_together_are_what_they_are_alone(model: LatentPatch, face_images: Tensor) -> None:
    size = model.image_size
    mask = torch.zeros(size, dtype=torch.bool)
    mask[size[0] // 4 : size[0] // 2, size[1] // 4 : size[1] // 2] = True
    picture, other = face_images[0], face_images[1]
    few = RasterSettings(patch_size=4, neighbors=2)

    def requests() -> list[Operation[object]]:
        return [
            model.generating(seeds=[5, 6, 7]),
            model.generating(seeds=[6], settings=few),
            model.generating(seeds=[8], reference=picture),
            model.generating(seeds=[9, 10], reference=torch.stack([picture, other])),
            model.generating(seeds=[11], sampler="random-cells"),
            model.inpainting(picture, mask, seeds=[12]),
            model.editing(picture, other, mask, composite=True),
            model.editing(picture, f"source:{model.bank.ids[2]}", mask),
            model.reconstructing(other),
            model.generating(seeds=[13], where="colour=blue"),  # refused: no source has it
        ]

    together = model.run_together(requests())
    alone = [model.run_together([operation])[0] for operation in requests()]
    assert isinstance(together[-1], ValueError)
    assert isinstance(alone[-1], ValueError)
    for a, b in zip(together[:-1], alone[:-1], strict=True):
        images = [x if isinstance(x, Tensor) else x.images for x in (a, b)]  # type: ignore[attr-defined]
        assert torch.equal(images[0], images[1])


def test_the_public_calls_go_the_same_way(model: LatentPatch) -> None:
    (result,) = model.run_together([model.generating(seeds=[3])])
    assert not isinstance(result, Exception)
    assert torch.equal(result.images, model.generate(1, seed=3).images)
    with refuses("sampler"):
        model.generate(1, sampler="x")


def test_nothing_is_kept_for_the_garbage_collector() -> None:
    import gc
    import weakref

    big = torch.zeros(1, 1)
    kept = weakref.ref(big)

    def holding(value: Tensor) -> Operation[Tensor]:
        result = yield Decode(value)
        return result

    gc.disable()
    try:
        run_together([holding(big), doubling(13)], double)
        del big
        assert kept() is None
    finally:
        gc.enable()
