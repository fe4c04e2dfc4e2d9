"""What reports read in a `results.json`, by kind: one that was edited is refused by the key's name, not met half-way.

Numbers that JSON does not have were written as null, and are nan again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from hyperpelt.errors import UserError, cut


def _or_nan(value: Any) -> Any:
    if isinstance(value, float) and math.isinf(value):  # which Python's JSON reads
        raise ValueError("expected a finite number or null")
    return math.nan if value is None else value


Number = Annotated[float, BeforeValidator(_or_nan)]
Numbers = dict[str, Number]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Whole = Annotated[int, Field(ge=-(2**63), lt=2**63)]


def _same_length(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    if any(len(row) != len(names) for row in rows):
        raise ValueError(f"expected {len(names)} values a row, one for each of {', '.join(names[:3])}, ...")


def _square(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    _same_length(names, [rows, *rows])


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)


class _Scores(_Part):
    metrics: Numbers


class _Confusion(_Part):
    choices: list[str]
    counts: list[list[Whole]]

    @model_validator(mode="after")
    def _whole(self) -> Self:
        _square(self.choices, self.counts)
        return self


class _Row(_Part):
    row: Whole
    input: str
    loss: Number
    probability: Finite | None = None


class _Task(_Scores):
    kind: str
    rows: Whole
    majority: _Scores | None
    frozen: _Scores | None
    invalid: Whole
    num_cut: Whole
    num_bad_images: Whole = 0
    seconds: Finite
    notes: list[str]
    intervals: dict[str, Numbers] | None = None
    templates: dict[str, Numbers] | None = None
    confusion: _Confusion | None = None
    worst: list[_Row] = []

    @model_validator(mode="after")
    def _measured_alike(self) -> Self:
        for scores in (self.templates or {}).values():
            _same_length(list(self.metrics), [[name for name in scores if name in self.metrics]])
        return self


class _Model(_Part):
    backbone: str | None = None
    method: str | None = None
    trainable: Whole | None = None


class _Map(_Part):
    tasks: list[str]
    cosines: list[list[Number]]
    apart: list[Number]

    @model_validator(mode="after")
    def _whole(self) -> Self:
        _square(self.tasks, self.cosines)
        _same_length(self.tasks, [self.apart])
        return self


class _Training(_Part):
    seed: Whole | None = None
    steps: Whole | None = None
    tokens: Whole | None = None
    seconds: Finite | None = None
    task_map: _Map | None = None


class _Results(_Part):
    tasks: dict[str, _Task]
    model: _Model
    versions: dict[str, str]
    intervals: dict[str, Numbers] | None = None
    training: _Training | None = None


def checked(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content, its kinds checked. Raises UserError that names the first key that is not as it was written."""
    try:
        return _Results.model_validate(content).model_dump(exclude_unset=True)
    except ValidationError as problem:
        first = problem.errors()[0]
        raise UserError(f"{cut('.'.join(map(str, first['loc'])))}: {first['msg']}") from None
