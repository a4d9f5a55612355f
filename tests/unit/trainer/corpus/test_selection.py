"""Deduplication and hold-out against the definition of trainer.md, "Hold-out", written out as plainly as it stands."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from fractions import Fraction
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewarm_api.snapshot import HeldOut
from rewarm_trainer.corpus.readers import Document
from rewarm_trainer.corpus.records import DUPLICATE, HELD_OUT, TRAIN, as_records, record_of
from rewarm_trainer.corpus.selection import Rule, hold_out, mark_duplicates

TEXTS = st.lists(st.text("abc é", max_size=12), min_size=0, max_size=60)
RULES = st.builds(
    Rule,
    st.sampled_from([Fraction(0), Fraction(1, 20), Fraction(1, 10), Fraction(1, 2)]),
    st.integers(0, 12),
    st.integers(0, 20),
)


def records_of(documents: list[Document]) -> np.ndarray:
    return as_records(b"".join(record_of(document) for document in documents))


def by_definition(texts: list[str], rule: Rule) -> list[str]:
    """The held-out texts in order, as trainer.md has them."""
    unique = sorted(set(texts), key=lambda text: sha256(b"rewarm-heldout-v1" + text.encode()).hexdigest())
    count = min(max(math.ceil(rule.fraction * len(unique)), rule.minimum_documents), len(unique) // 5)
    chosen: list[str] = []
    tokens = 0
    for text in unique[:count]:
        size = len(text.encode()) // 4
        if len(chosen) >= rule.minimum_documents and tokens + size > rule.maximum_tokens:
            break
        chosen.append(text)
        tokens += size
    return chosen


def select(documents: list[Document], rule: Rule, bucket: int, split: int = 0) -> tuple[np.ndarray, list[int], int]:
    """Mask, held-out positions and number of duplicates, over one or two files."""
    records = records_of(documents)
    pieces = [records[:split], records[split:]]
    mask = np.full(len(documents), TRAIN, dtype=np.uint8)
    with TemporaryDirectory() as workspace:
        duplicates = mark_duplicates(pieces, mask, Path(workspace), bucket)
    return mask, hold_out(pieces, mask, rule, bucket).tolist(), duplicates


@given(TEXTS, RULES, st.integers(1, 70), st.integers(0, 60))
def test_held_out_documents_are_those_of_the_definition(texts: list[str], rule: Rule, bucket: int, split: int) -> None:
    mask, positions, duplicates = select([Document(text) for text in texts], rule, bucket, split)
    assert [texts[position] for position in positions] == by_definition(texts, rule)
    assert duplicates == len(texts) - len(set(texts)) == int(np.sum(mask == DUPLICATE))
    assert sorted(positions) == np.flatnonzero(mask == HELD_OUT).tolist()


@given(TEXTS, RULES, st.integers(1, 70), st.randoms(use_true_random=False))
def test_the_order_of_files_does_not_matter(texts: list[str], rule: Rule, bucket: int, chance: random.Random) -> None:
    shuffled = chance.sample(texts, len(texts))
    _, first, _ = select([Document(text) for text in texts], rule, 1000)
    _, second, _ = select([Document(text) for text in shuffled], rule, bucket)
    assert [texts[position] for position in first] == [shuffled[position] for position in second]


@given(TEXTS, st.integers(1, 70))
def test_the_first_copy_of_a_text_stays(texts: list[str], bucket: int) -> None:
    mask, _, _ = select([Document(text) for text in texts], Rule(Fraction(0), 0, 0), bucket)
    assert np.flatnonzero(mask != DUPLICATE).tolist() == sorted({texts.index(text) for text in texts})


GROUPED = st.lists(st.builds(Document, st.text("ab", max_size=6), st.sampled_from([None, *"pqrstuvw"])), max_size=60)


@given(GROUPED, RULES, st.integers(1, 70), st.randoms(use_true_random=False))
def test_groups_stay_on_one_side(documents: list[Document], rule: Rule, bucket: int, chance: random.Random) -> None:
    mask, positions, _ = select(documents, rule, bucket)
    sides = defaultdict(set)
    for document, mark in zip(documents, mask, strict=True):
        if mark != DUPLICATE and document.group is not None:
            sides[document.group].add(int(mark))
    assert all(len(each) == 1 for each in sides.values())
    assert len(positions) <= int(np.sum(mask != DUPLICATE)) // 5
    shuffled = chance.sample(documents, len(documents))
    _, again, _ = select(shuffled, rule, 1000)
    assert [documents[position].text for position in positions] == [shuffled[position].text for position in again]


def test_a_fifth_is_the_most_that_is_held_out() -> None:
    rule = Rule.of(HeldOut(fraction="5%", minimum_documents=64, maximum_tokens=10**6))
    assert [rule.documents(count) for count in (0, 4, 5, 100, 320, 1280, 1281, 2000)] == [0, 0, 1, 20, 64, 64, 65, 100]


@pytest.mark.parametrize(
    ("written", "meant"), [("5%", Fraction(1, 20)), ("0.1%", Fraction(1, 1000)), ("2.5 %", Fraction(1, 40))]
)
def test_the_fraction_is_exact(written: str, meant: Fraction) -> None:
    assert Rule.of(HeldOut(fraction=written, minimum_documents=0, maximum_tokens=1)).fraction == meant
