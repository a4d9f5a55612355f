"""Reads a document against the spec models, field by field, and goes on after a mistake.

pydantic stops at the edge of a broken part; this reader keeps whatever is valid, so that the rules that join fields can
still speak (trainer.md, "all problems come at once"). What is broken or missing stands as None in the result.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from pydantic import ValidationError

from rewarm_api.errors import Problem
from rewarm_api.fields import Spec
from rewarm_api.messages import NOTHING, found_text, unknown_field
from rewarm_api.shape import Shape, shapes


@dataclass
class Reader:
    """Collects problems while it builds models."""

    problems: list[Problem] = field(default_factory=list)

    def model(self, model: type[Spec], document: Any, path: str) -> Any:
        """An instance of `model`; invalid fields are None. Adds a problem for each field that cannot be read."""
        known = shapes(model)
        values: dict[str, Any] = {}
        by_alias = _names(model)
        for key, value in document.items():
            here = f"{path}.{key}".removeprefix(".")
            if key not in known:
                self.problems.append(unknown_field(here, key, list(known)))
            elif value is not None:
                values[by_alias[key]] = self.value(known[key], value, here)
        given = set(values)
        for key, shape in known.items():
            if shape.required and by_alias[key] not in values:
                here = f"{path}.{key}".removeprefix(".")
                self.problems.append(Problem(here, NOTHING, shape.expected, f"add {key}: it is required"))
                values[by_alias[key]] = None
        for name, default in _defaults(model).items():
            if name not in values:
                values[name] = default()
        return model.model_construct(_fields_set=given, **values)

    def value(self, shape: Shape, value: Any, path: str) -> Any:
        if shape.instead is not None and isinstance(value, dict):
            return self.model(shape.instead, value, path)
        if shape.model is not None:
            if isinstance(value, dict):
                return self.model(shape.model, value, path)
        elif shape.items is not None:
            if isinstance(value, list):
                return self.items(shape, shape.items, value, path)
        else:
            return self.leaf(shape, value, path)
        kind = "a mapping" if shape.model is not None else "a list"
        self.problems.append(Problem(path, found_text(value), shape.expected, f"write {kind}"))
        return None

    def items(self, shape: Shape, item: Shape, values: list[Any], path: str) -> list[Any] | None:
        low, high = shape.schema.get("minItems", 0), shape.schema.get("maxItems", len(values))
        if not low <= len(values) <= high:
            self.problems.append(
                Problem(
                    path, f"{len(values)} items", shape.expected, "add an item" if len(values) < low else "use fewer"
                )
            )
            return None
        result = []
        for index, value in enumerate(values):
            here = f"{path}[{index}]"
            if value is None:
                self.problems.append(Problem(here, NOTHING, item.expected, "fill in this item or remove it"))
            result.append(None if value is None else self.value(item, value, here))
        return result

    def leaf(self, shape: Shape, value: Any, path: str) -> Any:
        try:
            return shape.adapter.validate_python(value)
        except ValidationError as error:
            self.problems.append(_leaf_problem(shape, value, path, error))
            return None


@cache
def _names(model: type[Spec]) -> Mapping[str, str]:
    """Field names by the key that a manifest uses."""
    return {str(info.alias): name for name, info in model.model_fields.items()}


@cache
def _defaults(model: type[Spec]) -> Mapping[str, Callable[[], Any]]:
    """What stands in each field that may be left out. pydantic would inspect the factories anew for every document."""

    def constant(value: Any) -> Callable[[], Any]:
        return lambda: value

    return {
        name: info.default_factory or constant(info.default)  # type: ignore[misc]
        for name, info in model.model_fields.items()
        if not info.is_required()
    }


def without_nulls(value: Any) -> Any:
    """Null means absent, everywhere: mappings lose the keys that hold it."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


def _leaf_problem(shape: Shape, value: Any, path: str, error: ValidationError) -> Problem:
    detail = error.errors(include_url=False)[0]
    context = detail.get("ctx", {})
    if detail["type"] == "quantity":
        return Problem(path, found_text(value), context["expected"], context["fix"])
    return Problem(path, found_text(value), shape.expected, _fix(shape, value))


def _fix(shape: Shape, value: Any) -> str:
    schema = shape.schema
    if "enum" in schema:
        options = {str(option).lower(): str(option) for option in schema["enum"]}
        near = difflib.get_close_matches(str(value).lower(), options, n=1)
        return f"did you mean {options[near[0]]}?" if near else f"use {' or '.join(options.values())}"
    kind = schema.get("type")
    if kind == "string" and isinstance(value, (bool, int, float)):
        return "quote it: this field is text"
    if kind in ("number", "integer", "boolean") and isinstance(value, str):
        return "write it without quotes" if _reads_as(kind, value) else "write " + shape.expected
    if kind in ("number", "integer"):
        return f"change {shape.name} to a number in this range"
    if kind == "string" and isinstance(value, str):
        return "shorten it" if len(value) > schema.get("maxLength", len(value)) else f"change {shape.name}"
    return f"change {shape.name} to {shape.expected}"


def _reads_as(kind: str, text: str) -> bool:
    if kind == "boolean":
        return text in ("true", "false")
    try:
        float(text)
    except ValueError:
        return False
    return True
