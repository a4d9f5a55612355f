"""Reads a manifest: YAML 1.2 core schema, one document, no duplicate keys. Decides nothing about its meaning.

PyYAML implements YAML 1.1, where `3e-4` is text, `on` is true and `2024-01-01` is a date; only its parser is used here.
Errors name the line, because no field path exists yet (`field` is '').
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, ClassVar

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from rewarm_api.errors import ManifestError, MissingInputError, Problem

_TAG = "tag:yaml.org,2002:"
_CORE = (
    ("null", re.compile(r"~|null|Null|NULL|"), "~nN"),
    ("bool", re.compile(r"true|True|TRUE|false|False|FALSE"), "tTfF"),
    ("int", re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", re.ASCII), "-+0123456789"),
    (
        "float",
        re.compile(
            r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", re.ASCII
        ),
        "-+.0123456789",
    ),
)
_MAXIMUM_NODES = 100_000
_MAXIMUM_DEPTH = 64


class _CoreLoader(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML has no types
    """PyYAML's parser with the tags of the YAML 1.2 core schema."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}


for _name, _pattern, _first in _CORE:
    # PyYAML calls .match and looks no further, so each pattern must reach the end by itself.
    _whole = re.compile(f"(?:{_pattern.pattern})\\Z", _pattern.flags)
    _CoreLoader.add_implicit_resolver(_TAG + _name, _whole, list(_first) + ([""] if _name == "null" else []))


def load_yaml(text: str | bytes) -> Any:
    """The one YAML document in `text` as dicts with text keys, lists, str, int, float, bool and None.

    Raises ManifestError, with `field` '' and the line, for what is no YAML, several documents, a duplicate key, a key
    that is no text, a tag beyond the core schema, or an alias that holds itself.
    """
    try:
        loader = _CoreLoader(text)
        try:
            node = loader.get_single_node()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        raise _unreadable(_line(error.problem_mark), *_explain(error)) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise _unreadable(None, f"unreadable text ({_one_line(error)})", "write UTF-8 text") from None
    except RecursionError:
        raise _unreadable(None, "nesting beyond all use", "flatten it") from None
    return None if node is None else _Construction().value(node, 0)


def read_manifest(path: str | Path) -> dict[str, Any]:
    """The document of a manifest file.

    Raises MissingInputError when there is no such file, ManifestError (`field` '') when it is no single YAML mapping.
    """
    try:
        document = load_yaml(Path(path).read_bytes())
    except FileNotFoundError:
        raise MissingInputError(f"{path}: no such file; name a ContinualRun manifest") from None
    except IsADirectoryError:
        raise MissingInputError(f"{path}: found a folder, expected a file; name a ContinualRun manifest") from None
    except OSError as error:
        raise MissingInputError(f"{path}: cannot be read ({error.strerror}); mend the permissions") from None
    if not isinstance(document, dict):
        found = {type(None): "an empty file", list: "a list"}.get(type(document), "bare text")
        raise ManifestError(
            Problem("", found, "a ContinualRun manifest: a mapping", "start with `apiVersion: rewarm.dev/v1alpha1`")
        )
    return document


def set_path(document: dict[str, Any], path: str, text: str) -> None:
    """Set one field in place, as `--set path=value` does: `spec.replay.ratio`, `spec.corpus.sources[0].uri`.

    The value is read as YAML; mappings on the way are made; a list takes an index it has or the next one. Whether the
    field exists is for validation to say. Raises ManifestError when the path does not fit what stands there.
    """
    steps = _steps(path)
    value = load_yaml(text)
    place: Any = document
    for position, step in enumerate(steps):
        here = _spell(steps[: position + 1])
        if isinstance(step, int):
            if not isinstance(place, list) or step > len(place):
                length = f"a list of {len(place)}" if isinstance(place, list) else "no list"
                raise ManifestError(Problem(here, length, f"a list with an item {step}", "correct the index in --set"))
            if step == len(place):
                place.append(None)
        elif not isinstance(place, dict):
            raise ManifestError(Problem(here, "a value without fields", "a mapping", "correct the path in --set"))
        if position == len(steps) - 1:
            place[step] = value
            return
        below: Any = place.get(step) if isinstance(place, dict) else place[step]
        if below is None:
            below = place[step] = [] if isinstance(steps[position + 1], int) else {}
        place = below


class _Construction:
    """Nodes to values; counts them, so that aliases cannot multiply without end."""

    def __init__(self) -> None:
        self.nodes = 0
        self.open: set[int] = set()

    def value(self, node: Node, depth: int) -> Any:
        self.nodes += 1
        if id(node) in self.open:
            raise _unreadable(_line(node.start_mark), "an alias that holds itself", "remove the alias")
        if self.nodes > _MAXIMUM_NODES or depth > _MAXIMUM_DEPTH:
            raise _unreadable(_line(node.start_mark), "more content than any manifest has", "remove nested aliases")
        if isinstance(node, ScalarNode):
            return _scalar(node)
        self.open.add(id(node))
        result = self.mapping(node, depth) if isinstance(node, MappingNode) else self.sequence(node, depth)
        self.open.discard(id(node))
        return result

    def sequence(self, node: Node, depth: int) -> list[Any]:
        assert isinstance(node, SequenceNode)
        _expect_tag(node, "seq")
        return [self.value(child, depth + 1) for child in node.value]

    def mapping(self, node: MappingNode, depth: int) -> dict[str, Any]:
        _expect_tag(node, "map")
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key, line = self.value(key_node, depth + 1), _line(key_node.start_mark)
            if not isinstance(key, str):
                raise _unreadable(
                    line, f"the key {_one_line(key)}", "quote the key: keys are text", "a key that is text"
                )
            if key in result:
                raise _unreadable(line, f"the key `{key}` a second time", f"remove one `{key}`", "each key once")
            result[key] = self.value(value_node, depth + 1)
        return result


def _scalar(node: ScalarNode) -> Any:
    text = node.value
    kind = node.tag.removeprefix(_TAG)
    line = _line(node.start_mark)
    try:
        # JSON spells characters beyond 16 bits as two escapes; the parser leaves them apart.
        text = text.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:
        raise _unreadable(line, "half a surrogate pair", "write the character itself") from None
    if kind == "str":
        return text
    pattern = next((pattern for name, pattern, _ in _CORE if name == kind), None)
    if pattern is None or not pattern.fullmatch(text):
        raise _unreadable(line, f"the tag {node.tag} on `{text}`", "remove the tag", "plain YAML 1.2 values")
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    if kind == "float":
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    try:
        return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
    except ValueError:
        raise _unreadable(line, "a number with thousands of digits", "write a smaller number") from None


def _expect_tag(node: Node, kind: str) -> None:
    if node.tag != _TAG + kind:
        raise _unreadable(_line(node.start_mark), f"the tag {node.tag}", "remove the tag", "plain YAML 1.2 values")


def _steps(path: str) -> list[str | int]:
    if not re.fullmatch(r"[^.\[\]=]+(\[[0-9]{1,6}\])*(\.[^.\[\]=]+(\[[0-9]{1,6}\])*)*", path, re.ASCII):
        raise ManifestError(
            Problem(path, f"`{path}`", "a field path, such as spec.corpus.sources[0].uri", "correct the path in --set")
        )
    steps: list[str | int] = []
    for part in path.split("."):
        name, *indices = part.replace("]", "").split("[")
        steps += [name, *(int(index) for index in indices)]
    return steps


def _spell(steps: list[str | int]) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).removeprefix(".")


def _line(mark: Any) -> int | None:
    return None if mark is None else int(mark.line) + 1


def _explain(error: yaml.MarkedYAMLError) -> tuple[str, str]:
    problem = error.problem or error.context or "something that is no YAML"
    if "single document" in (error.context or "") or "another document" in problem:
        return "a second document", "keep one manifest per file"
    if "\\t" in problem:
        return "a tab used as indentation", "indent with spaces"
    return problem, "mend the YAML"


def _unreadable(
    line: int | None, found: str, fix: str, expected: str = "one readable YAML 1.2 document"
) -> ManifestError:
    where = "" if line is None else f"line {line}: "
    return ManifestError(Problem("", where + found, expected, fix))


def _one_line(value: object) -> str:
    return " ".join(str(value).split())[:200]
