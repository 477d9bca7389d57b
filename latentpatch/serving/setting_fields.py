"""Settings of samplers in requests: their JSON schema, ranges and checks, all from the declarations.

No setting and no sampler is named here. The registry is read at every call, so that a sampler which is registered
while a server runs is accepted and documented at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..errors import SettingError, SettingTypeError
from ..methods.trained.settings import TrainedSettings
from ..registry import PICTURE_METHODS, SAMPLERS
from ..settings import Setting, Settings, declared

__all__ = [
    "apply_settings",
    "check_plain_values",
    "picture_settings",
    "picture_settings_schema",
    "setting_ranges",
    "settings_schema",
]

MAX_ELEMENTS = 64  # elements of a setting that is a list

_JSON_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string"}


def check_plain_values(values: dict[str, Any]) -> dict[str, Any]:
    """Refuse values that are no scalars or short lists of scalars, before anything looks at them closely.

    Raises:
        SettingTypeError: naming the setting.
    """
    for name, value in values.items():
        elements = value if isinstance(value, list) else [value]
        if len(elements) > MAX_ELEMENTS:
            raise SettingTypeError(name, f"{len(elements)} elements", f"a list of at most {MAX_ELEMENTS}")
        if any(isinstance(element, (list, dict)) for element in elements):
            raise SettingTypeError(name, value, "a single value or a list of numbers")
    return values


def apply_settings(settings: Settings, values: Mapping[str, Any]) -> Settings:
    """Return settings with the values of a request; None keeps a value.

    Args:
        settings: of the sampler that the request is for.
        values: by present or former name, as JSON has them.

    Raises:
        SettingError: for an unknown name, a wrong type, or a value beyond the range or limit of its declaration.
    """
    declarations = declared(type(settings))
    try:
        changes = settings.renamed({name: value for name, value in values.items() if value is not None})
        for name, value in changes.items():
            if name in declarations:
                _limited(declarations[name]).check(tuple(value) if isinstance(value, list) else value)
        return settings.changed(**changes)
    except SettingError as error:
        error.group = "settings" if error.name in declarations else None
        raise


def settings_schema() -> dict[str, Any]:
    """Return the JSON schema of the settings of all registered samplers."""
    text = "Settings of the sampler; a setting that is absent or null keeps the value of the preset, or the model's. "
    text += "Inpainting takes those of the sampler that fills masks."
    return _schema("Settings", text, SAMPLERS.settings())


def picture_settings_schema() -> dict[str, Any]:
    """Return the JSON schema of the settings of all registered methods on pictures, and of trained models."""
    text = "Settings of the method; a setting that is absent or null keeps the value of the preset, or the method's."
    return _schema("PictureSettings", text, picture_settings())


def picture_settings() -> dict[str, dict[str, Setting]]:
    """Return the settings of all tasks on pictures: for each its declarations by method."""
    trained = {name: {"trained models": each} for name, each in declared(TrainedSettings).items()}
    return {**PICTURE_METHODS.settings(), **trained}


def _schema(title: str, description: str, settings: Mapping[str, Mapping[str, Setting]]) -> dict[str, Any]:
    """Return the JSON schema of settings by name and method."""
    properties: dict[str, Any] = {}
    for name, by_sampler in settings.items():
        forms: list[dict[str, Any]] = []
        samplers: dict[str, list[str]] = {}  # by help text
        for sampler, each in by_sampler.items():
            form = _value_schema(_limited(each))
            forms += [] if form in forms else [form]
            samplers.setdefault(each.help, []).append(sampler)
        description = "; ".join(f"{text} ({', '.join(names)})" for text, names in samplers.items())
        value = {"anyOf": [*forms, {"type": "null"}], "default": None}
        properties[name] = value | {"description": description}
        for former in {alias for each in by_sampler.values() for alias in each.aliases}:
            properties[former] = value | {"description": f"former name of {name}", "deprecated": True}
    return {
        "title": title,
        "description": description,
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }


def setting_ranges(grid: tuple[int, int], num_sources: int) -> dict[str, list[Any]]:
    """Return the least and the largest useful value of every setting, by name; None where there is no bound.

    Where samplers differ, the range spans all of theirs.
    """
    bounds = {"grid": min(grid), "sources": num_sources}
    ranges: dict[str, list[Any]] = {}
    for name, by_sampler in SAMPLERS.settings().items():
        lows, highs = zip(*(_range(each, bounds) for each in by_sampler.values()), strict=True)
        ranges[name] = [None if None in lows else min(lows), None if None in highs else max(highs)]
    return ranges


def _limited(each: Setting) -> Setting:
    """Return a declaration whose maximum is the limit for values from outside."""
    bounds = [bound for bound in (each.maximum, each.limit) if bound is not None]
    return replace(each, maximum=min(bounds, default=None))


def _range(each: Setting, bounds: Mapping[str, int]) -> tuple[Any, Any]:
    if each.types == (bool,):
        return False, True
    highs = [_limited(each).maximum, bounds.get(each.limited_by or "")]
    low = each.minimum if each.minimum is not None else each.above
    return low, min((high for high in highs if high is not None), default=None)


def _value_schema(each: Setting) -> dict[str, Any]:
    if tuple in each.types:
        element = _value_schema(replace(each, types=(int,)))
        return {"type": "array", "items": element, "minItems": 1, "maxItems": MAX_ELEMENTS}
    kinds = (float,) if float in each.types else each.types  # integers are numbers, too
    if each.choices:
        return {"type": "string", "enum": list(each.choices)}
    bounds = {"minimum": each.minimum, "maximum": each.maximum, "exclusiveMinimum": each.above}
    names = [_JSON_TYPES[kind] for kind in kinds]
    return {"type": names[0] if len(names) == 1 else names} | {k: v for k, v in bounds.items() if v is not None}
