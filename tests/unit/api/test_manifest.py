"""YAML 1.2 core, one document, each key once; and changes by path."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewarm_api.errors import ManifestError, MissingInputError
from rewarm_api.manifest import load_yaml, read_manifest, set_path


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3e-4", 3e-4), ("3.0e-4", 3e-4), ("1e3", 1000.0), (".5", 0.5), ("1.", 1.0), ("-5", -5), ("+5", 5), ("017", 17),
        ("0o17", 15), ("0x1F", 31), ("true", True), ("FALSE", False), ("null", None), ("~", None), ("", None),
        ("on", "on"), ("yes", "yes"), ("NO", "NO"), ("off", "off"), ("y", "y"), ("1_000", "1_000"), ("0b1", "0b1"),
        ("2024-01-01", "2024-01-01"), ("1:30", "1:30"), ("'5'", "5"), ('"true"', "true"), (".inf", math.inf),
        ("-.INF", -math.inf), ("1e", "1e"), ("4e20de36", "4e20de36"), ("20M", "20M"), ("5%", "5%"), ("=", "="),
        ("!!str 5", "5"), ("!!float 5", 5.0), ("[1, [a]]", [1, ["a"]]), ("{a: {b: c}}", {"a": {"b": "c"}}),
        ("a: &x 1\nb: *x", {"a": 1, "b": 1}), ("<<: {a: 1}", {"<<": {"a": 1}}), ("---\na: 1\n...\n", {"a": 1}),
        ("# only a comment", None), ("a: |\n  x\n  y\n", {"a": "x\ny\n"}), ('"\\U0001F600"', "😀"),
    ],
)  # fmt: skip
def test_plain_values_follow_the_core_schema(text, value):
    read = load_yaml(text)
    assert read == value
    assert type(read) is type(value)


def test_not_a_number():
    assert math.isnan(load_yaml(".nan"))


@pytest.mark.parametrize(
    ("text", "found", "fix"),
    [
        ("a: 1\nb:\n  c: 1\n  c: 2", "line 4: the key `c` a second time", "remove one `c`"),
        ("a: 1\n---\nb: 1", "line 2: a second document", "keep one manifest per file"),
        ("a:\n\tb: 1", "line 2: a tab used as indentation", "indent with spaces"),
        ("a: [1,", "line 1: ", "mend the YAML"),
        ("a: b: c", "line 1: mapping values are not allowed here", "mend the YAML"),
        ("a: *nothing", "line 1: ", "mend the YAML"),
        ("x: &a [*a]", "line 1: an alias that holds itself", "remove the alias"),
        ("1: a", "line 1: the key 1", "quote the key"),
        ("[a]: 1", "line 1: the key ['a']", "quote the key"),
        ("a: !!python/object:os.system x", "line 1: the tag ", "remove the tag"),
        ("a: !!int x", "line 1: the tag ", "remove the tag"),
        ("a: !mine {}", "line 1: the tag !mine", "remove the tag"),
        ('a: "\\ud800"', "line 1: half a surrogate pair", "write the character itself"),
        ("a: " + "9" * 5000, "line 1: a number with thousands of digits", "write a smaller number"),
        ("[" * 5000, "", ""),
        ("a: \x00", "unreadable text", "write UTF-8 text"),
        (b"a: \xff\xfe", "unreadable text", "write UTF-8 text"),
    ],
)
def test_unreadable_text_names_its_line(text, found, fix):
    with pytest.raises(ManifestError) as error:
        load_yaml(text)
    (problem,) = error.value.problems
    assert problem.field == ""
    assert problem.found.startswith(found)
    assert problem.fix.startswith(fix)
    assert "\n" not in str(error.value)
    assert error.value.exit_code == 64


def test_aliases_cannot_multiply_without_end():
    bomb = "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" if i else "a0: &a0 [x]" for i in range(9))
    with pytest.raises(ManifestError, match="more content than any manifest has"):
        load_yaml(bomb)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=40), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(json_values)
def test_json_is_yaml(value):
    assert load_yaml(json.dumps(value, allow_nan=False)) == value


def test_a_missing_file_is_66(tmp_path):
    with pytest.raises(MissingInputError, match=r"run\.yaml: no such file") as error:
        read_manifest(tmp_path / "run.yaml")
    assert error.value.exit_code == 66
    with pytest.raises(MissingInputError, match="found a folder, expected a file"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(("text", "found"), [("", "an empty file"), ("[1]", "a list"), ("hello", "bare text")])
def test_a_manifest_is_a_mapping(tmp_path, text, found):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(ManifestError) as error:
        read_manifest(path)
    assert (error.value.problems[0].field, error.value.problems[0].found) == ("", found)


def test_a_byte_order_mark_is_no_content(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_bytes(b"\xef\xbb\xbfkind: ContinualRun\n")
    assert read_manifest(path) == {"kind": "ContinualRun"}


def test_values_are_set_by_path():
    document = {"spec": {"corpus": {"sources": [{"uri": "a"}]}, "replay": None}}
    set_path(document, "spec.corpus.sources[0].uri", "b")
    set_path(document, "spec.corpus.sources[1].name", "second")
    set_path(document, "spec.replay.ratio", "2.5e-1")
    set_path(document, "spec.evaluation.sets[0]", "{name: x, role: New}")
    set_path(document, "spec.gates", "null")
    assert document["spec"] == {
        "corpus": {"sources": [{"uri": "b"}, {"name": "second"}]},
        "replay": {"ratio": 0.25},
        "evaluation": {"sets": [{"name": "x", "role": "New"}]},
        "gates": None,
    }


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("spec.list[3]", "spec.list[3]"),
        ("spec.text.deeper", "spec.text.deeper"),
        ("spec.text[0]", "spec.text[0]"),
        ("spec[0]", "spec[0]"),
        ("spec.list.name", "spec.list.name"),
        ("spec..x", "spec..x"),
        ("", ""),
        ("spec.list[-1]", "spec.list[-1]"),
    ],
)
def test_a_path_that_does_not_fit_is_64(path, field):
    document = {"spec": {"list": [1], "text": "x"}}
    with pytest.raises(ManifestError) as error:
        set_path(document, path, "1")
    assert error.value.problems[0].field == field
    assert "--set" in error.value.problems[0].fix
    assert document == {"spec": {"list": [1], "text": "x"}}
