"""What may be asked: one class an operation, validated before anything is decoded or computed.

Fields are those of the methods of :class:`~latentpatch.LatentPatch`. Pictures are base64 in JSON (a ``data:`` URL is
taken too) and bytes elsewhere. :func:`json_schema` is what clients may generate code from.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, WithJsonSchema, model_validator

from ..methods.latent.presets import PRESETS
from ..ops.blending import DECODINGS
from ..registry import SAMPLERS

__all__ = [
    "FIELDS",
    "Answer",
    "EditRequest",
    "GenerateRequest",
    "InfoRequest",
    "InpaintRequest",
    "PictureFormat",
    "ProvenanceRequest",
    "ReconstructRequest",
    "Request",
    "SettingsFields",
    "json_schema",
    "parse",
]

PictureFormat = Literal["png", "jpeg", "webp"]
Answer = Literal["image", "json", "zip"]

_LARGEST_SEED = 2**63 - 1


def _picture(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if value.startswith("data:"):
        value = value.partition(",")[2]
    try:
        return base64.b64decode("".join(value.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("base64 of a picture file is expected") from error


def _donor(value: Any) -> Any:
    return value if isinstance(value, str) and value.startswith("source:") else _picture(value)


_BASE64 = {"type": "string", "contentEncoding": "base64", "contentMediaType": "image/*"}
Picture = Annotated[bytes, BeforeValidator(_picture), Field(min_length=1), WithJsonSchema(_BASE64)]
Donor = Annotated[
    bytes | str,
    BeforeValidator(_donor),
    WithJsonSchema({"anyOf": [_BASE64, {"type": "string", "pattern": "^source:"}]}),
]
Seed = Annotated[int, Field(ge=0, le=_LARGEST_SEED)]
Seeds = Annotated[list[Seed], Field(min_length=1, fail_fast=True)]  # a list of all that is wrong could take a minute


class _Fields(BaseModel):
    # Strict: "3" is no number and 1 no truth, so that a slip is told and not interpreted.
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


_SAMPLER: Any = Field(default=None, description="how pictures are put together; by default as the model says")
_PRESET: Any = Field(default=None, description="a sampler with settings that go together, in place of sampler")


class SettingsFields(_Fields):
    """Settings of samplers; what is absent keeps the value of the preset, or the model's. Inpainting takes those of the
    raster sampler.
    """

    patch_size: int | None = Field(
        default=None, ge=1, le=256, description="side of the compared patches in latent cells"
    )
    stride: int | None = Field(default=None, ge=1, le=256, description="side of the copied blocks in latent cells")
    neighbors: int | None = Field(default=None, ge=1, description="nearest sources drawn from")
    neighbours: int | None = Field(default=None, ge=1, description="former name of neighbors")
    scales: int | None = Field(default=None, ge=1, le=16, description="grid sizes, coarse to fine")
    start_size: int | None = Field(default=None, ge=1, le=256, description="shorter side of the coarsest grid in cells")
    sweeps: int | None = Field(default=None, ge=1, le=16, description="how often every block is resynthesised")
    max_share: float | None = Field(default=None, gt=0, le=1, description="share of a picture one source gives at most")
    draws: int | None = Field(
        default=None, ge=1, le=64, description="sources drawn to start with, of which the most unusual is taken"
    )
    keep_start: bool | None = Field(
        default=None, description="whether the source that is started with may give patches, too"
    )
    subset: int | float | None = Field(
        default=None,
        gt=0,
        description="sources drawn for each picture that alone give patches: a number, or up to 1.0 a share of them",
    )
    symmetric: bool | None = Field(
        default=None, description="whether blocks on the left and on the right are compared and copied together"
    )
    switch_cost: float | None = Field(
        default=None, ge=0, le=100, description="of a source that no neighbouring cell comes from"
    )
    use_cost: float | None = Field(default=None, ge=0, le=100, description="of each cell that a source gave already")
    best_of: int | None = Field(default=None, ge=1, le=16, description="pictures made for one, the best being kept")
    strength: float | None = Field(
        default=None, gt=0, le=1, description="with a reference, how much noise diffusion gives it"
    )


class _Request(_Fields):
    answer: Answer | None = Field(
        default=None,
        description="form of the answer; by default what the Accept header asks for, else a picture or a zip",
    )
    image_format: PictureFormat | None = Field(default=None, description="of every picture in the answer (png)")


class _Drawn(_Request):
    n: int = Field(default=1, ge=1, description="number of pictures")
    seed: Seed = Field(default=0, description="of the first picture; the next has the next")
    seeds: Seeds | None = Field(default=None, description="of each picture, in place of n and seed")
    settings: SettingsFields = SettingsFields()
    where: str | None = Field(default=None, max_length=1000, description='sources to use, such as "gender=female"')

    @model_validator(mode="after")
    def _one_way_to_count(self) -> _Drawn:
        if self.seeds is not None and self.model_fields_set & {"n", "seed"}:
            raise ValueError("seeds takes the place of n and seed; they go without it")
        if self.seed + self.n - 1 > _LARGEST_SEED:
            raise ValueError(f"seed: with n {self.n} it goes beyond {_LARGEST_SEED}")
        return self

    @property
    def all_seeds(self) -> list[int]:
        return self.seeds if self.seeds is not None else list(range(self.seed, self.seed + self.n))


class GenerateRequest(_Drawn):
    """New pictures."""

    operation: Literal["generate"] = "generate"
    sampler: Literal[tuple(SAMPLERS)] | None = _SAMPLER  # type: ignore[valid-type]
    preset: Literal[tuple(PRESETS)] | None = _PRESET  # type: ignore[valid-type]
    reference: Picture | None = Field(default=None, description="picture the new ones are to resemble")
    decoding: Literal[DECODINGS] | None = None  # type: ignore[valid-type]


class ProvenanceRequest(_Drawn):
    """Where the pictures of the same ``generate`` request come from: maps, one hue a source, and shares."""

    operation: Literal["provenance"]
    sampler: Literal[tuple(SAMPLERS)] | None = _SAMPLER  # type: ignore[valid-type]
    preset: Literal[tuple(PRESETS)] | None = _PRESET  # type: ignore[valid-type]
    reference: Picture | None = None


class _Masked(_Request):
    image: Picture = Field(description="the picture to change")
    mask: Picture | None = Field(default=None, description="picture that is white where the region is")
    box: tuple[int, int, int, int] | None = Field(
        default=None, description="the region as left, top, right, bottom, in pixels of the model's image size"
    )
    composite: bool = Field(default=True, description="keep the picture's own pixels outside the region")

    @model_validator(mode="before")
    @classmethod
    def _box_of_list(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("box"), list):
            return {**data, "box": tuple(data["box"])}
        return data

    @model_validator(mode="after")
    def _one_region(self) -> _Masked:
        if (self.mask is None) == (self.box is None):
            raise ValueError("either mask or box is expected")
        return self


class InpaintRequest(_Masked, _Drawn):
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


class InfoRequest(_Fields):
    """The model's card: autoencoder, sources, ranges of settings, limits, and this schema."""

    operation: Literal["info"]
    answer: Literal["json"] | None = None


Request = GenerateRequest | ProvenanceRequest | InpaintRequest | EditRequest | ReconstructRequest | InfoRequest
#: Names of all fields, those of the settings too.
FIELDS = frozenset(
    name
    for kind in (GenerateRequest, ProvenanceRequest, InpaintRequest, EditRequest, ReconstructRequest, SettingsFields)
    for name in kind.model_fields
)
_ADAPTER: TypeAdapter[Request] = TypeAdapter(Annotated[Request, Field(discriminator="operation")])


def parse(fields: dict[str, Any]) -> Request:
    """A request of its fields; without ``operation`` it is ``generate``.

    Raises:
        pydantic.ValidationError: where they are not one.
    """
    return _ADAPTER.validate_python({"operation": "generate", **fields})


def json_schema() -> dict[str, Any]:
    """JSON schema (draft 2020-12) of a request."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **_ADAPTER.json_schema()}


if __name__ == "__main__":
    print(json.dumps(json_schema(), indent=2))
