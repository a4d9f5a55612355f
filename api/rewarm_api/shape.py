"""Looks at one field of a spec model: what it holds, how JSON Schema writes that down, and how a person reads it.

The CRD and the error messages both come from here, so that they cannot disagree.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import TypeAdapter
from pydantic.fields import FieldInfo

from rewarm_api.fields import (
    ENVIRONMENT_PATTERN,
    KUBERNETES_NAME_PATTERN,
    LABEL_PATTERN,
    MOUNT_PATTERN,
    NAME_PATTERN,
    TIME_PATTERN,
    WORD_PATTERN,
    Spec,
)

_PATTERN_WORDS = {
    NAME_PATTERN: "a name: a lower-case letter, then at most 39 lower-case letters, digits and inner hyphens",
    KUBERNETES_NAME_PATTERN: "a Kubernetes name: lower-case letters, digits, hyphens and dots",
    r"^sha256:[0-9a-f]{64}$": "sha256: and 64 lower-case hexadecimal digits",
    r"^[0-9]+$": "digits, quoted",
    "^(Final|Latest|Best)$": "Final, Latest, Best, or a step number",
    LABEL_PATTERN: "a label such as example.com/name",
    ENVIRONMENT_PATTERN: "a variable's name: letters, digits, underscores, hyphens and dots, no digit first",
    MOUNT_PATTERN: "an absolute path such as /data, without a slash at the end",
    TIME_PATTERN: "a moment such as 2026-01-31T12:00:00Z",
    WORD_PATTERN: "one word: a letter, then letters and digits",
    "^Auto$": "Auto or a whole number from 1 to 65536",
}


@dataclass(frozen=True)
class Shape:
    """One field: `model` for a mapping of known fields, `items` for a list, else a leaf read by `adapter`.

    A leaf may have `instead`: a mapping of known fields that can stand in its place, on this machine only. A server's
    schema, which knows one type for each field, has the leaf alone.
    """

    name: str
    required: bool
    annotation: Any
    description: str
    model: type[Spec] | None
    items: Shape | None
    instead: type[Spec] | None = None

    @property
    def adapter(self) -> TypeAdapter[Any]:
        return _adapter(self.annotation)

    @property
    def schema(self) -> dict[str, Any]:
        """JSON Schema of the field's own value (for a leaf or a list's bounds)."""
        return _schema(self.annotation)

    @property
    def expected(self) -> str:
        """What may stand here, in words."""
        if self.model is not None:
            return "a mapping with the fields " + ", ".join(shapes(self.model))
        if self.items is not None:
            return "a list" + _count_words(self.schema)
        return _words(self.name, self.schema)


@cache
def shapes(model: type[Spec]) -> dict[str, Shape]:
    """The fields of a model by the names that a manifest uses, in the order of the contract."""
    return {
        str(info.alias): _shape(str(info.alias), info.is_required(), _annotation(info), info.description or "")
        for info in model.model_fields.values()
    }


def _annotation(info: FieldInfo) -> Any:
    """The type of a field that is present: null is absence, so `| None` is left out."""
    annotation: Any = info.annotation
    if get_origin(annotation) in (Union, UnionType):
        present = [option for option in get_args(annotation) if option is not type(None)]
        annotation = present[0] if len(present) == 1 else Union[tuple(present)]  # noqa: UP007
    return Annotated[annotation, *info.metadata] if info.metadata else annotation


def _shape(name: str, required: bool, annotation: Any, description: str) -> Shape:
    instead = None
    if get_origin(annotation) in (Union, UnionType):
        options = {_is_model(option): option for option in get_args(annotation)}
        annotation, instead = options.get(False, annotation), options.get(True)
    bare = _bare(annotation)
    model = bare if _is_model(bare) else None
    items = _shape(name, True, get_args(bare)[0], "") if get_origin(bare) is list else None
    return Shape(name, required, annotation, " ".join(description.split()), model, items, instead)


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Spec)


def _bare(annotation: Any) -> Any:
    return _bare(get_args(annotation)[0]) if get_origin(annotation) is Annotated else annotation


# Annotated types with pydantic's Field inside compare by identity, so these caches are keyed by the object.
_ADAPTERS: dict[int, TypeAdapter[Any]] = {}
_SCHEMAS: dict[int, dict[str, Any]] = {}


def _adapter(annotation: Any) -> TypeAdapter[Any]:
    if id(annotation) not in _ADAPTERS:
        _ADAPTERS[id(annotation)] = TypeAdapter(annotation)
    return _ADAPTERS[id(annotation)]


def _schema(annotation: Any) -> dict[str, Any]:
    if id(annotation) not in _SCHEMAS:
        _SCHEMAS[id(annotation)] = _inline(_adapter(annotation).json_schema(by_alias=True))
    return _SCHEMAS[id(annotation)]


def _inline(schema: dict[str, Any]) -> dict[str, Any]:
    """Enums come as references; put them in place."""
    if "$ref" in schema:
        target = schema["$defs"][schema["$ref"].rsplit("/", 1)[1]]
        schema = {key: target[key] for key in ("type", "enum") if key in target}
    if "const" in schema:
        schema = {"type": schema.get("type", "string"), "enum": [schema["const"]]}
    return schema


def _words(name: str, schema: dict[str, Any]) -> str:
    kind = schema.get("type")
    if "enum" in schema:
        return " | ".join(str(option) for option in schema["enum"])
    if schema.get("pattern") in _PATTERN_WORDS:
        return _PATTERN_WORDS[schema["pattern"]]
    if kind in ("number", "integer"):
        bounds = _bounds(name, schema)
        whole = "a whole number" if kind == "integer" else ("a finite number" if bounds == name else "")
        return ", ".join(part for part in (whole, bounds if bounds != name else "") if part)
    if kind == "boolean":
        return "true or false"
    if kind == "object":
        return "a mapping"
    return "text" + _length_words(schema)


def _bounds(name: str, schema: dict[str, Any]) -> str:
    low, high = name, ""
    if "minimum" in schema:
        low = f"{_number(schema['minimum'])} <= {name}"
    if "exclusiveMinimum" in schema:
        low = f"{_number(schema['exclusiveMinimum'])} < {name}"
    if "maximum" in schema:
        high = f" <= {_number(schema['maximum'])}"
    if "exclusiveMaximum" in schema:
        high = f" < {_number(schema['exclusiveMaximum'])}"
    return low + high


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


def _length_words(schema: dict[str, Any]) -> str:
    low, high = schema.get("minLength", 0), schema.get("maxLength")
    if high is None:
        return "" if low == 0 else " that is not empty"
    return f" of {low} to {high} characters"


def _count_words(schema: dict[str, Any]) -> str:
    low, high = schema.get("minItems", 0), schema.get("maxItems")
    return f" of {low} to {high} items"
