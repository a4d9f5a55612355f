"""Each row once per epoch; keyed by all of seed, source and epoch; the byte encoding is frozen by golden values."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewarm_trainer.permutation import _Round, _rounds, drawn, permute, place

NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=20)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**63 - 1), source=NAMES, epoch=st.integers(0, 50), size=st.integers(1, 400))
def test_each_row_once_per_epoch(seed: int, source: str, epoch: int, size: int) -> None:
    drawn = [place(seed, source, epoch * size + index, size) for index in range(size)]
    assert {found for found, _ in drawn} == {epoch}
    assert sorted(row for _, row in drawn) == list(range(size))


@given(
    seed=st.integers(0, 2**63 - 1),
    size=st.integers(2**40, 2**50),
    places=st.lists(st.integers(0, 2**40 - 1), unique=True, max_size=20),
)
def test_a_huge_source_costs_no_more_and_never_repeats(seed: int, size: int, places: list[int]) -> None:
    rows = [permute(seed, "pubmed", 0, at, size) for at in places]
    assert len(set(rows)) == len(places)
    assert all(0 <= row < size for row in rows)


def test_seed_source_and_epoch_each_change_the_order() -> None:
    def order(seed: int, source: str, epoch: int) -> list[int]:
        return [permute(seed, source, epoch, at, 100) for at in range(100)]

    base = order(17, "pubmed", 0)
    assert base != list(range(100))
    assert base != order(18, "pubmed", 0)
    assert base != order(17, "general", 0)
    assert base != order(17, "pubmed", 1)


def test_keys_that_read_alike_do_not_collide() -> None:
    """Seed 1, source "1" and seed 11, source "" would be one text without the separator."""
    one = [permute(1, "1a", 0, at, 64) for at in range(64)]
    two = [permute(11, "a", 0, at, 64) for at in range(64)]
    assert one != two


def test_the_order_is_frozen() -> None:
    """Golden values, computed once by a separate transcription of the docstring: a change changes every run."""
    assert [permute(17, "pubmed", 0, at, 10) for at in range(10)] == GOLDEN_TEN
    assert [permute(0, "général", 3, at, 2**33 + 1) for at in (0, 1, 2**33)] == GOLDEN_HUGE


def test_threads_that_draw_at_once_draw_what_one_draws() -> None:
    """The loader's thread reads ahead while the training thread may ask for another step."""
    indices, size, before = np.arange(0, 90_000, 7), 30_000, sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for seed in range(3):
            with ThreadPoolExecutor(4) as pool:
                found = list(pool.map(lambda part, seed=seed: drawn(seed, "a", part, size), [indices] * 4))
            _rounds.cache_clear()
            epochs, rows = drawn(seed, "a", indices, size)
            assert all((each[0] == epochs).all() and (each[1] == rows).all() for each in found)
    finally:
        sys.setswitchinterval(before)


def test_a_table_that_another_thread_ends_in_the_middle_of_a_look_is_looked_at_again() -> None:
    halves = np.arange(16)
    expected = _Round("key", 0, 4).of(halves)
    overtaken = _Round("key", 0, 4)

    class Table(np.ndarray):
        def __getitem__(self, key: Any) -> Any:
            found = np.asarray(self)[key].copy()
            np.asarray(self)[:] = expected
            overtaken._is_whole = True
            return found

    assert overtaken._known is not None
    overtaken._known = overtaken._known.view(Table)
    assert (overtaken.of(halves) == expected).all()


def test_the_first_place_is_spread_over_all_rows() -> None:
    """Over 2,000 seeds each of 10 rows stands first about 200 times (standard deviation 13)."""
    counts = [0] * 10
    for seed in range(2000):
        counts[permute(seed, "pubmed", 0, 0, 10)] += 1
    assert all(135 < count < 265 for count in counts)


@pytest.mark.parametrize(("index", "size"), [(0, 0), (-1, 5)])
def test_places_that_do_not_exist(index: int, size: int) -> None:
    with pytest.raises(ValueError, match="pubmed"):
        place(0, "pubmed", index, size)


def test_a_name_that_could_forge_the_encoding_is_refused() -> None:
    with pytest.raises(ValueError, match="zero byte"):
        permute(0, "a\0b", 0, 0, 5)


GOLDEN_TEN = [5, 0, 1, 6, 8, 9, 3, 2, 7, 4]
GOLDEN_HUGE = [8563292657, 3254554195, 1261703157]
