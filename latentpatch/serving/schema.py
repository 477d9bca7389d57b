"""Requests: one class an operation, validated before anything is decoded or computed.

Fields are the arguments of the methods of :class:`~latentpatch.LatentPatch`. Pictures are base64 in JSON (or a
``data:`` URL) and bytes elsewhere. Clients may generate code from :func:`json_schema`.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    WithJsonSchema,
    model_validator,
)

from ..errors import SettingError
from ..methods.latent.presets import PRESETS
from ..methods.single_image.presets import PICTURE_PRESETS
from ..ops.blending import DECODINGS
from ..ops.symmetry import SYMMETRIES
from ..registry import PICTURE_METHODS, SAMPLERS, TASKS
from ..validation import check_choice
from .setting_fields import check_plain_values, picture_settings_schema, settings_schema

__all__ = [
    "FIELDS",
    "Answer",
    "EditRequest",
    "GenerateRequest",
    "InfoRequest",
    "InpaintRequest",
    "PictureFormat",
    "PictureRequest",
    "ProvenanceRequest",
    "ReconstructRequest",
    "Request",
    "SeededRequest",
    "json_schema",
    "parse",
]

PictureFormat = Literal["png", "jpeg", "webp"]
Answer = Literal["image", "json", "zip"]

_LARGEST_SEED = 2**63 - 1
MAX_PICTURES = 16  # pictures that one task takes patches from
MAX_SIDE = 1 << 16  # pixels


def _picture(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if value.startswith("data:"):
        value = value.partition(",")[2]
    try:
        return base64.b64decode("".join(value.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("not base64 of a picture file") from error


def _donor(value: Any) -> Any:
    return value if isinstance(value, str) and value.startswith("source:") else _picture(value)


_BASE64 = {"type": "string", "contentEncoding": "base64", "contentMediaType": "image/*", "minLength": 1}
Picture = Annotated[bytes, BeforeValidator(_picture), Field(min_length=1), WithJsonSchema(_BASE64)]
Donor = Annotated[
    bytes | str,
    BeforeValidator(_donor),
    WithJsonSchema({"anyOf": [_BASE64, {"type": "string", "pattern": "^source:"}]}),
]
Box = Annotated[
    tuple[int, int, int, int], BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)
]
Pictures = Annotated[
    list[Picture],
    BeforeValidator(lambda value: [value] if isinstance(value, (str, bytes)) else value),
    Field(min_length=1, max_length=MAX_PICTURES),
]
Side = Annotated[int, Field(ge=1, le=MAX_SIDE)]
Size = Annotated[tuple[Side, Side], BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)]
Weight = Annotated[float, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, le=_LARGEST_SEED)]
Seeds = Annotated[list[Seed], Field(min_length=1, fail_fast=True)]  # a list of all that is wrong could take a minute
# The registry is read at every request: samplers may be registered while a server runs.
SamplerName = Annotated[str, AfterValidator(lambda name: check_choice("sampler", name, SAMPLERS))]
MethodName = Annotated[str, AfterValidator(lambda name: check_choice("method", name, PICTURE_METHODS))]
TaskName = Annotated[str, AfterValidator(lambda name: check_choice("task", name, _tasks()))]
SettingValues = Annotated[dict[str, Any], AfterValidator(check_plain_values)]


def _tasks() -> list[str]:
    return [task for task in TASKS if PICTURE_METHODS.having(task)]


class _Fields(BaseModel):
    # Strict: "3" is no number and 1 no truth value, so that a slip is reported and not interpreted.
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class _Request(_Fields):
    answer: Answer | None = Field(
        default=None,
        description="form of the answer; by default what the Accept header wants, else a picture or a zip",
    )
    image_format: PictureFormat | None = Field(default=None, description="of every picture in the answer (png)")


class SeededRequest(_Request):
    """Pictures of seeds."""

    n: int = Field(default=1, ge=1, description="number of pictures")
    seed: Seed = Field(default=0, description="of the first picture; each further picture has the next")
    seeds: Seeds | None = Field(default=None, description="of each picture, in place of n and seed")
    settings: SettingValues = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check_seeds(self) -> SeededRequest:
        if self.seeds is not None and self.model_fields_set & {"n", "seed"}:
            raise SettingError("seeds", self.seeds, "absent where n or seed is there")
        if self.seed + self.n - 1 > _LARGEST_SEED:
            raise SettingError("seed", self.seed, f"at most {_LARGEST_SEED} for the last of n pictures")
        return self

    @property
    def all_seeds(self) -> list[int]:
        return self.seeds if self.seeds is not None else list(range(self.seed, self.seed + self.n))


class _Seeded(SeededRequest):
    where: str | None = Field(default=None, max_length=1000, description='sources to use, such as "gender=female"')


class _Sampled(_Seeded):
    sampler: SamplerName | None = Field(default=None, description="how pictures are put together; default: the model's")
    preset: Literal[tuple(PRESETS)] | None = Field(  # type: ignore[valid-type]
        default=None, description="a sampler with settings that go together, in place of sampler"
    )
    reference: Picture | None = Field(default=None, description="picture that the new ones resemble")

    @model_validator(mode="after")
    def _check_preset(self) -> _Sampled:
        if self.preset is not None and self.sampler is not None:
            raise SettingError("preset", self.preset, "absent where sampler is there")
        return self


class GenerateRequest(_Sampled):
    """New pictures."""

    operation: Literal["generate"] = "generate"
    decoding: Literal[DECODINGS] | None = None  # type: ignore[valid-type]


class ProvenanceRequest(_Sampled):
    """Sources of the pictures of the same ``generate`` request: maps, one hue a source, and shares."""

    operation: Literal["provenance"]


class _Masked(_Request):
    image: Picture = Field(description="the picture to change")
    mask: Picture | None = Field(default=None, description="picture that is white where the region is")
    box: Box | None = Field(
        default=None, description="the region as left, top, right, bottom, in pixels of the model's image size"
    )
    composite: bool = Field(default=True, description="keep the picture's own pixels outside the region")

    @model_validator(mode="after")
    def _check_region(self) -> _Masked:
        if (self.mask is None) == (self.box is None):
            raise ValueError("exactly one of mask and box is needed")
        return self


class InpaintRequest(_Masked, _Seeded):
    """A region filled with what fits its surroundings, in n ways."""

    operation: Literal["inpaint"]


class EditRequest(_Masked):
    """A region copied from a donor, in latent space."""

    operation: Literal["edit"]
    donor: Donor = Field(description='picture to copy from, or "source:ID" for a source of the model')


class ReconstructRequest(_Request):
    """A picture through the autoencoder and back."""

    operation: Literal["reconstruct"]
    image: Picture
    reduced: bool = Field(default=False, description="also through the principal components and back")


class PictureRequest(SeededRequest):
    """A task on one picture or a few, without the model; its fields are those of the functions of the task."""

    operation: Literal["picture"]
    task: TaskName
    pictures: Pictures = Field(
        default_factory=list, description="the pictures that give patches: one, or a list; channels are kept"
    )
    trained: str | None = Field(
        default=None, description="in place of pictures: a trained model of this server, by its name in info"
    )
    target: Picture | None = Field(
        default=None,
        description="for tasks that have one: the picture that gives structure, content or edges, or has the region",
    )
    mask: Picture | None = Field(default=None, description="picture of the target's size, white where the region is")
    size: Size | None = Field(
        default=None, description="height and width of the results; by default those of the target or first picture"
    )
    weights: list[Weight] | None = Field(
        default=None, min_length=1, max_length=MAX_PICTURES, description="shares of the pictures in a texture, for each"
    )
    map: Picture | None = Field(
        default=None, description="grey picture of which of the pictures is where in a texture, in place of weights"
    )
    symmetric: Literal[tuple(SYMMETRIES)] | None = Field(  # type: ignore[valid-type]
        default=None, description="symmetry of a texture"
    )
    method: MethodName | None = Field(default=None, description="default: that of the task")
    preset: Literal[tuple(PICTURE_PRESETS)] | None = Field(  # type: ignore[valid-type]
        default=None, description="a method with settings that go together, in place of method"
    )
    provenance: bool = Field(
        default=False, description="maps of where each pixel was copied from, in place of the pictures"
    )

    @model_validator(mode="after")
    def _check_pictures(self) -> PictureRequest:
        if bool(self.pictures) == (self.trained is not None):
            raise SettingError("pictures", len(self.pictures), "one or more, or trained in place of them")
        return self


class InfoRequest(_Fields):
    """The model's card: autoencoder, sources, ranges of settings, limits, and this schema."""

    operation: Literal["info"]
    answer: Literal["json"] | None = None


Request = (
    GenerateRequest
    | ProvenanceRequest
    | InpaintRequest
    | EditRequest
    | ReconstructRequest
    | PictureRequest
    | InfoRequest
)
#: Names of all fields but the settings.
FIELDS = frozenset(
    name
    for kind in (GenerateRequest, ProvenanceRequest, InpaintRequest, EditRequest, ReconstructRequest, PictureRequest)
    for name in kind.model_fields
)
_ADAPTER: TypeAdapter[Request] = TypeAdapter(Annotated[Request, Field(discriminator="operation")])


def parse(fields: dict[str, Any]) -> Request:
    """Return the request of some fields; without ``operation`` it is ``picture`` if it has a task, else ``generate``.

    The settings are checked later, against those of the sampler: see :func:`~.setting_fields.apply_settings`.

    Raises:
        pydantic.ValidationError: for fields that are no request.
    """
    return _ADAPTER.validate_python({"operation": "picture" if "task" in fields else "generate", **fields})


def json_schema() -> dict[str, Any]:
    """Return the JSON schema (draft 2020-12) of a request, with all samplers that are registered now."""
    schema = _ADAPTER.json_schema()
    for definition in schema["$defs"].values():
        properties = definition["properties"]
        if "settings" in properties:
            name = "PictureSettings" if "task" in properties else "Settings"
            properties["settings"] = {"$ref": f"#/$defs/{name}", "default": {}}
        if "sampler" in properties:
            properties["sampler"]["anyOf"][0]["enum"] = list(SAMPLERS)
        if "task" in properties:
            properties["task"]["enum"] = _tasks()
            properties["method"]["anyOf"][0]["enum"] = list(PICTURE_METHODS)
    schema["$defs"] |= {"Settings": settings_schema(), "PictureSettings": picture_settings_schema()}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


if __name__ == "__main__":
    print(json.dumps(json_schema(), indent=2))
