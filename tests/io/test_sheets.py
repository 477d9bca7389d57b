"""Contact sheets hold every picture in its place, on white."""

from __future__ import annotations

import pytest
import torch
from helpers.errors import refuses

from latentpatch.io.sheets import contact_sheet


@pytest.mark.parametrize(
    ("count", "columns", "rows_and_columns"),
    [(1, None, (1, 1)), (2, None, (1, 2)), (5, None, (2, 3)), (9, None, (3, 3)), (3, 1, (3, 1)), (2, 4, (1, 4))],
)
def test_contact_sheets(count: int, columns: int | None, rows_and_columns: tuple[int, int]) -> None:
    rows, across = rows_and_columns
    images = torch.arange(count, dtype=torch.float64).div(10).view(-1, 1, 1, 1).expand(count, 3, 4, 6)
    sheet = contact_sheet(images, columns, padding=2)
    assert sheet.shape == (3, rows * 6 + 2, across * 8 + 2)
    assert sheet.dtype == torch.float64
    for index in range(count):
        top, left = index // across * 6 + 2, index % across * 8 + 2
        assert torch.equal(sheet[:, top : top + 4, left : left + 6], images[index])
    assert int((sheet == 1).all(0).sum()) == sheet[0].numel() - count * 24


def test_contact_sheets_of_nothing() -> None:
    assert torch.equal(contact_sheet(torch.zeros(1, 3, 4, 4), padding=0), torch.zeros(3, 4, 4))
    for shape in ((0, 3, 4, 4), (3, 4, 4)):
        with refuses("images"):
            contact_sheet(torch.zeros(shape))
    with refuses("padding"):
        contact_sheet(torch.zeros(1, 3, 4, 4), padding=-1)
    with refuses("columns"):
        contact_sheet(torch.zeros(1, 3, 4, 4), 0)
