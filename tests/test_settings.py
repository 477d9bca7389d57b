"""Declarations of settings and what follows from them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from helpers.errors import refuses

from latentpatch import DiffusionSettings, ResynthesisSettings, SettingError, Settings, setting
from latentpatch.methods.inversion.settings import InversionSettings
from latentpatch.methods.single_image.settings import GPNNSettings
from latentpatch.methods.single_image.texture_settings import StyleOptimizationSettings, TextureOptimizationSettings
from latentpatch.settings import aliases_of, check_limits, declared, settings_table


@dataclass(frozen=True)
class Example(Settings):
    """Settings of every type."""

    count: int = setting(2, "a number of things", minimum=1, limit=16, symbol="n", aliases=("number",))
    share: float | None = setting(None, "a share", above=0, maximum=1, default_help="0.3")
    amount: int | float = setting(0.5, "a number or a share", above=0)
    sides: tuple[int, ...] = setting((4, 2), "sides", minimum=1)
    flag: bool = setting(True, "whether something is done", is_advanced=True)

    def check_together(self) -> None:
        if self.count > 10 and not self.flag:
            raise SettingError("count", self.count, "at most 10 without flag")


def test_declarations_are_complete() -> None:
    count, share, amount, sides, flag = declared(Example).values()
    assert (count.name, count.default, count.types, count.is_optional) == ("count", 2, (int,), False)
    assert (share.types, share.is_optional, share.default_text) == ((float,), True, "0.3")
    assert (amount.types, sides.types, flag.types) == ((int, float), (tuple,), (bool,))
    assert [each.range_text for each in (count, share, flag)] == [
        "at least 1",
        "above 0 and at most 1",
        "True or False",
    ]
    assert sides.default_text == "4,2"
    assert flag.default_text == "yes"


@pytest.mark.parametrize(
    ("changes", "name", "error"),
    [
        ({"count": 0}, "count", SettingError),
        ({"count": 2.0}, "count", TypeError),
        ({"count": True}, "count", TypeError),
        ({"count": None}, "count", TypeError),
        ({"share": 0}, "share", SettingError),
        ({"share": float("nan")}, "share", SettingError),
        ({"share": "0.5"}, "share", TypeError),
        ({"amount": float("inf")}, "amount", SettingError),
        ({"sides": ()}, "sides", TypeError),
        ({"sides": 3}, "sides", TypeError),
        ({"sides": (3, 0)}, "sides", SettingError),
        ({"sides": (3, 1.5)}, "sides", TypeError),
        ({"flag": 1}, "flag", TypeError),
        ({"count": 11, "flag": False}, "count", SettingError),
    ],
)
def test_what_is_refused(changes: dict[str, object], name: str, error: type[Exception]) -> None:
    with refuses(name, error):
        Example(**changes)  # type: ignore[arg-type]


def test_errors_have_fields_and_one_form() -> None:
    with refuses("share") as caught:
        Example(share=1.5)
    assert (caught.value.value, caught.value.constraint) == (1.5, "above 0 and at most 1")
    assert str(caught.value) == "share must be above 0 and at most 1, got 1.5"
    assert len(str(SettingError("name", "x" * 100_000, "short"))) < 300


def test_lists_become_tuples_and_integers_are_numbers() -> None:
    assert Example(sides=[3, 1]).sides == (3, 1)  # type: ignore[arg-type]
    assert Example(share=1).share == 1


def test_former_names_stay_valid() -> None:
    settings = Example(number=5)  # type: ignore[call-arg]
    assert settings == Example(count=5)
    assert settings.number == 5
    assert settings.changed(number=6) == replace(settings, count=6)
    assert aliases_of(ResynthesisSettings) == {
        "neighbours": "neighbors",
        "draws": "start_candidates",
        "keep_start": "allow_start_as_donor",
        "subset": "donors",
        "use_cost": "reuse_cost",
    }
    with refuses("count"):
        Example(number=5, count=5)  # type: ignore[call-arg]
    with pytest.raises(AttributeError):
        _ = settings.nothing
    with pytest.raises(TypeError):
        Example(nothing=1)  # type: ignore[call-arg]


def test_unknown_changes_name_the_settings_there_are() -> None:
    with pytest.raises(SettingError) as caught:
        Example().changed(nothing=1)
    assert "nothing" in str(caught.value)
    assert "count" in str(caught.value)


def test_tables_have_a_row_a_setting() -> None:
    rows = settings_table(Example).splitlines()
    assert len(rows) == 2 + 5
    assert "`--count`" in rows[2]
    assert "formerly `number`" in rows[2]


def test_limits_hold_for_settings_from_outside() -> None:
    for allowed in (Example(count=16), DiffusionSettings(windows=(64, 1)), ResynthesisSettings(donors=10**9)):
        check_limits(allowed)
    for name, settings in (
        ("count", Example(count=17)),
        ("windows", DiffusionSettings(windows=(3, 65))),
        ("start_candidates", ResynthesisSettings(draws=10**12)),
    ):
        with refuses(name):
            check_limits(settings)


def test_names_are_checked_apart_from_values() -> None:
    assert Example.checked_names({"number": 0}) == {"count": 0}
    with refuses("settings"):
        Example.checked_names({"color": "red"})


@pytest.mark.parametrize("value", [5e-324, 1e-40, 1e39, 1e308, -1e308, 10**400, 2**64, float("nan"), float("inf")])
def test_numbers_that_methods_cannot_compute_with_are_refused(value: float) -> None:
    """Numbers beyond float32, and integers beyond int64, would become 0, infinity or an overflow on the way."""
    for kind in (StyleOptimizationSettings, InversionSettings, GPNNSettings, TextureOptimizationSettings):
        for name, each in declared(kind).items():
            if float in each.types:
                with refuses(name):
                    kind(**{name: value})
