"""The kinds of value a manifest's fields take. Each says what it accepts and how an API server writes that down.

Values are strict: text is never read as a number, nor a number as text (a cluster would refuse what a laptop takes).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AllowInfNan, BaseModel, BeforeValidator, ConfigDict, Field, Strict, WithJsonSchema
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

from rewarm_api import quantity

NAME_PATTERN = r"^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$"
KUBERNETES_NAME_PATTERN = r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$"
LABEL_PATTERN = r"^([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$"
ENVIRONMENT_PATTERN = r"^[-._a-zA-Z][-._a-zA-Z0-9]*$"
MOUNT_PATTERN = r"^(/[^/:]+)+$"
WORD_PATTERN = r"^[A-Za-z][A-Za-z0-9]*$"
TIME_PATTERN = r"^([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]{1,6})?(Z|[+-][0-9]{2}:[0-9]{2}))?$"


class Spec(BaseModel):
    """A part of a manifest: camelCase, no unknown fields, described by the docstrings of its fields."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        alias_generator=to_camel,
        validate_by_alias=True,
        validate_by_name=False,
        use_attribute_docstrings=True,
        use_enum_values=False,
    )


def _read(parse: Callable[[Any], Any]) -> BeforeValidator:
    """A parser of quantities as a pydantic validator: its `expected` and `fix` reach the message unchanged."""

    def read(value: Any) -> Any:
        try:
            return parse(value)
        except quantity.QuantityError as error:
            raise PydanticCustomError(
                "quantity", "expected {expected}; {fix}", {"expected": error.expected, "fix": error.fix}
            ) from None

    return BeforeValidator(read)


def _int_or_text(minimum: int, pattern: str) -> WithJsonSchema:
    return WithJsonSchema(
        {
            "x-kubernetes-int-or-string": True,
            "minimum": minimum,
            "maximum": quantity.MAXIMUM,
            "maxLength": quantity.MAXIMUM_TEXT,
            "pattern": pattern,
        }
    )


def _json_object(value: dict[str, Any]) -> dict[str, Any]:
    if not _is_json(value):
        raise PydanticCustomError(
            "quantity",
            "expected {expected}; {fix}",
            {"expected": "a mapping of JSON values", "fix": "use finite numbers, text, true and false"},
        )
    return value


def _is_json(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_json(item) for key, item in value.items())
    if isinstance(value, list):
        return all(_is_json(item) for item in value)
    return isinstance(value, (str, bool, int)) or (isinstance(value, float) and value - value == 0)


Flag = Annotated[bool, Strict()]
Integer = Annotated[int, Strict()]
Number = Annotated[float, Strict(), AllowInfNan(False)]
Text = Annotated[str, Strict()]

Name = Annotated[str, Strict(), Field(pattern=NAME_PATTERN, max_length=40)]
KubernetesName = Annotated[str, Strict(), Field(pattern=KUBERNETES_NAME_PATTERN, max_length=253)]
Label = Annotated[str, Strict(), Field(min_length=1, max_length=253)]
Words = Annotated[str, Strict(), Field(min_length=1, max_length=256)]
FieldName = Annotated[str, Strict(), Field(max_length=256)]
Path = Annotated[str, Strict(), Field(min_length=1, max_length=2048)]
Uri = Annotated[str, Strict(), Field(min_length=1, max_length=2048)]
Digest = Annotated[str, Strict(), Field(pattern=r"^sha256:[0-9a-f]{64}$", max_length=71)]

TokenQuantity = Annotated[int, _read(quantity.parse_tokens), _int_or_text(1, quantity.PATTERN)]
"""A number of tokens, at least 1."""

Length = Annotated[str, _read(quantity.canonical_length), _int_or_text(0, quantity.LENGTH_PATTERN)]
"""Tokens or percent of the plan, as canonical text; may be 0."""

Mark = Annotated[
    str, _read(lambda value: quantity.canonical_length(value, minimum=1)), _int_or_text(1, quantity.LENGTH_PATTERN)
]
"""A distance between marks: tokens or percent of the plan, as canonical text; above 0."""

Percent = Annotated[
    str,
    _read(quantity.canonical_percent),
    WithJsonSchema({"type": "string", "maxLength": quantity.MAXIMUM_TEXT, "pattern": quantity.PERCENT_PATTERN}),
]

StepNumber = Annotated[int, Strict(), Field(ge=1, le=2**53 - 1)]
CheckpointName = Annotated[
    Literal["Final", "Latest", "Best"] | StepNumber,
    WithJsonSchema(
        {
            "x-kubernetes-int-or-string": True,
            "minimum": 1,
            "maximum": 2**53 - 1,
            "maxLength": 6,
            "pattern": "^(Final|Latest|Best)$",
        }
    ),
]
MicroBatchRows = Annotated[
    Literal["Auto"] | Annotated[int, Strict(), Field(ge=1, le=65536)],
    WithJsonSchema(
        {"x-kubernetes-int-or-string": True, "minimum": 1, "maximum": 65536, "maxLength": 4, "pattern": "^Auto$"}
    ),
]
FreeForm = Annotated[
    dict[str, Any],
    AfterValidator(_json_object),
    WithJsonSchema({"type": "object", "x-kubernetes-preserve-unknown-fields": True}),
]
