"""Laws over broken manifests: validation never crashes, agrees with the models, and what it passes resolves."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from rewarm_api.manifest import read_manifest
from rewarm_api.quantity import MAXIMUM
from rewarm_api.reading import without_nulls
from rewarm_api.resolve import resolve
from rewarm_api.run import ContinualRun
from rewarm_api.snapshot import Snapshot
from rewarm_api.validate import validate

HERE = Path(__file__).parent
FULL = read_manifest(HERE / "full.yaml")
JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 5), st.just(MAXIMUM), st.just(10**400), st.floats(), st.text(max_size=8),
    st.sampled_from(["5%", "20M", "1e-3", "", "None", "s3://b/k.jsonl", "file:///x.txt", "claim://c/p.txt", "a"]),
    st.sampled_from([[], {}, [None], [{}], {"name": "a"}, {"x": None}, [[1]], {"sources": 1}]).map(copy.deepcopy),
)  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of everything in a document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, child in items for place in places(child, (*path, key)))]


PLACES = places(FULL)[1:]


def broken(changes: list[tuple[tuple[Any, ...], Any]]) -> dict[str, Any]:
    document = copy.deepcopy(FULL)
    for place, value in changes:
        parent: Any = document
        try:
            for key in place[:-1]:
                parent = parent[key]
            parent[place[-1]] = copy.deepcopy(value)
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change took this place away
    return document


@settings(max_examples=400)
@given(st.lists(st.tuples(st.sampled_from(PLACES), JUNK), min_size=1, max_size=4), st.sampled_from([True, False, None]))
def test_validation_never_crashes_and_what_it_passes_resolves(changes, local):
    document = broken(changes)
    before = copy.deepcopy(document)
    result = validate(document, local=local)
    assert repr(document) == repr(before)
    assert result.valid == (result.run is not None)
    for problem in result.problems:
        assert all(isinstance(text, str) for text in problem.to_json().values())
        assert problem.found
        assert problem.expected
        assert problem.fix
    if result.run is not None:
        snapshot = resolve(result.run, uid="u")
        assert Snapshot.model_validate_json(json.dumps(snapshot.to_json(), allow_nan=False)) == snapshot
        assert snapshot.digest == resolve(result.run, uid="v").digest


@settings(max_examples=300)
@given(st.sampled_from(PLACES), JUNK)
def test_validation_reads_what_the_models_read(place, value):
    document = without_nulls(broken([(place, value)]))
    result = validate(document, local=None)
    try:
        model = ContinualRun.model_validate(document)
    except ValidationError:
        assert not result.valid
    else:
        assert result.run in (None, model)


@pytest.mark.parametrize("place", [place for place in PLACES if isinstance(place[-1], str)], ids=str)
def test_every_field_may_be_null_or_is_required(place):
    document = broken([(place, None)])
    removed = copy.deepcopy(document)
    parent: Any = removed
    for key in place[:-1]:
        parent = parent[key]
    del parent[place[-1]]
    assert validate(document, local=None).problems == validate(removed, local=None).problems
