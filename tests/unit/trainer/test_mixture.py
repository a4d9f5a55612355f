"""The laws of the mixture tree (issue 3, section 3; trainer.md, "Mixture")."""

from __future__ import annotations

import random
from fractions import Fraction
from math import ceil, log2

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewarm_trainer import mixture as module
from rewarm_trainer.mixture import Mixture, Node, exact
from rewarm_trainer.permutation import place

ROWS_OF_2T_TOKENS = 2 * 10**12 // 4096


def name(number: int) -> str:
    return f"source{number:02d}"


@st.composite
def mixtures(draw: st.DrawFn, largest: int = 60) -> Mixture:
    """Up to `largest` sources, split over both groups, with random weights as people write them."""
    corpus = draw(st.integers(1, largest - 1))
    replay = draw(st.integers(0, largest - corpus))
    shuffled = random.Random(draw(st.integers(0, 2**32)))
    weights = {name(number): exact(round(shuffled.uniform(0.1, 10), 2)) for number in range(corpus + replay)}
    names = list(weights)
    shuffled.shuffle(names)
    ratio = exact(draw(st.integers(1, 95)) / 100) if replay else Fraction(0)
    return Mixture(ratio, {key: weights[key] for key in names[:corpus]}, {key: weights[key] for key in names[corpus:]})


def shares(mixture: Mixture) -> dict[str, Fraction]:
    result = {}
    for part, group in ((1 - mixture.ratio, mixture.corpus), (mixture.ratio, mixture.replay)):
        total = sum(group.values(), Fraction(0))
        result.update({key: part * weight / total for key, weight in group.items()})
    return result


@pytest.mark.parametrize(("weights", "order"), [({"a": 1, "b": 2}, "babbab"), ({"a": 5, "b": 3, "c": 2}, "abcaabacba")])
def test_the_orders_that_the_design_names(weights: dict[str, int], order: str) -> None:
    mixture = Mixture(Fraction(0), {key: exact(weight) for key, weight in weights.items()})
    assert "".join(mixture.locate(row)[0] for row in range(len(order))) == order


WRITTEN = st.sampled_from([1, 3, 0.1, 0.1234567890123456])


@settings(max_examples=100, deadline=None)
@given(
    mixtures()
    | st.builds(lambda one, two: Mixture(exact(0.3), {"a": exact(one), "b": exact(two)}, {"c": 1}), WRITTEN, WRITTEN),
    st.integers(0, ROWS_OF_2T_TOKENS),
    st.integers(0, 90),
)
def test_many_rows_at_once_are_each_row_by_itself(mixture: Mixture, first: int, count: int) -> None:
    found = {
        place: (share.source, share.first + number)
        for share in mixture.split(first, count)
        for number, place in enumerate(share.places.tolist())
    }
    assert found == {number: mixture.locate(first + number) for number in range(count)}


@settings(max_examples=40, deadline=None)
@given(mixtures(), st.integers(0, ROWS_OF_2T_TOKENS))
def test_every_step_adds_one_row_to_one_source_and_counts_are_the_formulas(mixture: Mixture, start: int) -> None:
    counts = mixture.counts(start)
    assert sum(counts.values()) == start
    for row in range(start, start + 40):
        source, index = mixture.locate(row)
        assert index == counts[source]
        counts[source] += 1
        assert mixture.counts(row + 1) == counts


def formula(weights: dict[str, Fraction], rows: int) -> dict[str, int]:
    """The group's counts written down once more, as trainer.md words it."""
    names = sorted(weights)
    if len(names) == 1:
        return {names[0]: rows}
    middle = ceil(len(names) / 2)
    left = {key: weights[key] for key in names[:middle]}
    right = {key: weights[key] for key in names[middle:]}
    share = sum(left.values()) / (sum(left.values()) + sum(right.values()))
    taken = int(rows * share + Fraction(1, 2))
    return formula(left, taken) | formula(right, rows - taken)


@settings(max_examples=60, deadline=None)
@given(mixtures(), st.integers(0, ROWS_OF_2T_TOKENS))
def test_counts_of_any_prefix_are_the_formula(mixture: Mixture, rows: int) -> None:
    replayed = int(rows * mixture.ratio + Fraction(1, 2))
    expected = formula(dict(mixture.corpus), rows - replayed)
    if mixture.replay:
        expected |= formula(dict(mixture.replay), replayed)
    assert mixture.counts(rows) == expected


@settings(max_examples=15, deadline=None)
@given(mixtures(), st.sampled_from([0, 10**6, ROWS_OF_2T_TOKENS - 300]))
def test_replay_within_half_a_row_and_sources_within_two_at_every_prefix(mixture: Mixture, start: int) -> None:
    wanted = shares(mixture)
    for rows in range(start, start + 300):
        counts = mixture.counts(rows)
        replayed = sum(counts[key] for key in mixture.replay)
        assert abs(replayed - rows * mixture.ratio) <= Fraction(1, 2)
        assert all(abs(counts[key] - rows * wanted[key]) <= 2 for key in counts)


@settings(max_examples=30, deadline=None)
@given(
    weights=st.lists(st.integers(0, 10**9), min_size=1, max_size=60).filter(any),
    rows=st.lists(st.integers(0, 10**6), min_size=1, max_size=10),
)
def test_any_weights_stay_within_half_a_row_for_each_level(weights: list[int], rows: list[int]) -> None:
    """The law behind "within two rows": half a row at each split on the way down, however lopsided the weights."""
    mixture = Mixture(Fraction(0), {name(number): Fraction(weight) for number, weight in enumerate(weights)})
    wanted, bound = shares(mixture), Fraction(max(1, ceil(log2(len(weights)))), 2)
    for prefix in rows:
        for key, count in mixture.counts(prefix).items():
            assert abs(count - prefix * wanted[key]) <= bound
            assert count == 0 or wanted[key] > 0


def test_a_decimal_is_not_its_binary_double() -> None:
    assert exact(0.3) == Fraction(3, 10) != Fraction(0.3)
    assert exact(5) == 5
    assert exact(1e-5) == Fraction(1, 100000)
    assert exact(Fraction(1, 3)) == Fraction(1, 3)
    decimal, binary = (Mixture(ratio, {"a": Fraction(1)}, {"b": Fraction(1)}) for ratio in (exact(0.3), Fraction(0.3)))
    differing = sum(decimal.counts(rows) != binary.counts(rows) for rows in range(1, 1001))
    assert differing == 100


@pytest.mark.parametrize("row", [0, 10**3, ROWS_OF_2T_TOKENS])
def test_any_position_costs_a_walk_down_the_tree(row: int, monkeypatch: pytest.MonkeyPatch) -> None:
    mixture = Mixture(
        exact(0.25),
        {name(number): Fraction(number + 1) for number in range(30)},
        {name(number): Fraction(number) for number in range(30, 60)},
    )
    asked = []
    formula_of_a_node = Node.left_rows

    def counted(node: Node, rows: int) -> int:
        asked.append(rows)
        return formula_of_a_node(node, rows)

    monkeypatch.setattr(module.Node, "left_rows", counted)
    mixture.locate(row)
    assert 0 < len(asked) <= 2 * (1 + ceil(log2(30)))


@settings(max_examples=20, deadline=None)
@given(mixtures(largest=8), st.integers(0, 2**32))
def test_each_row_of_a_source_once_per_epoch(mixture: Mixture, seed: int) -> None:
    size, seen = 7, {}
    for row in range(150):
        source, index = mixture.locate(row)
        epoch, drawn = place(seed, source, index, size)
        seen.setdefault((source, epoch), []).append(drawn)
    for drawn_rows in seen.values():
        assert len(set(drawn_rows)) == len(drawn_rows)
    finished = mixture.counts(150)
    for source, taken in finished.items():
        for epoch in range(taken // size):
            assert sorted(seen[source, epoch]) == list(range(size))


def test_ratio_zero_never_replays_and_the_names_are_still_known() -> None:
    mixture = Mixture(Fraction(0), {"new": Fraction(1)}, {"old": Fraction(1)})
    assert mixture.counts(1000) == {"new": 1000, "old": 0}
    assert mixture.sources == ("new", "old")


def test_the_order_in_which_sources_are_listed_does_not_matter() -> None:
    weights = {"b": Fraction(3), "a": Fraction(5), "c": Fraction(2)}
    one, two = Mixture(Fraction(0), weights), Mixture(Fraction(0), dict(sorted(weights.items())))
    assert [one.locate(row) for row in range(50)] == [two.locate(row) for row in range(50)]


@pytest.mark.parametrize(
    ("ratio", "corpus", "replay", "message"),
    [
        (Fraction(6, 5), {"a": Fraction(1)}, {"b": Fraction(1)}, "0 <= ratio < 1"),
        (Fraction(1), {"a": Fraction(1)}, {"b": Fraction(1)}, "0 <= ratio < 1"),
        (Fraction(1, 4), {"a": Fraction(1)}, {}, "needs sources in replay"),
        (Fraction(0), {}, {}, "needs sources in the corpus"),
        (Fraction(1, 4), {"a": Fraction(1)}, {"a": Fraction(1)}, "source a stands in corpus and in replay"),
        (Fraction(0), {"a": Fraction(0)}, {}, "corpus weights"),
        (Fraction(0), {"a": Fraction(1), "b": Fraction(-1)}, {}, "corpus weights"),
    ],
)
def test_what_cannot_be_mixed(
    ratio: Fraction, corpus: dict[str, Fraction], replay: dict[str, Fraction], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Mixture(ratio, corpus, replay)


def test_rows_before_the_first_are_refused() -> None:
    mixture = Mixture(Fraction(0), {"a": Fraction(1)})
    for ask in (mixture.counts, mixture.locate):
        with pytest.raises(ValueError, match="expected 0 or more"):
            ask(-1)
