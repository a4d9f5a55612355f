"""Decides which source each training row comes from. Never holds a cursor, a period or a random number.

A binary tree of one formula: among the first k rows of a node its left side has floor(k * share + 1/2), the right side
the rest, in integers.

                  all rows
          ratio /          \\ 1 - ratio
            replay         corpus           a group's sources, sorted by name, are halved again and again
            /    \\         /    \\           (left = the first ceil(n/2)), share = weight of left / weight of both
          ...    ...     ...    ...

So the counts of any prefix and the source of any row cost O(log sources), at the 2 T-th token as at the first. World
size, workers and micro-batches do not enter. Phases (a changed ratio) belong to rewarm_trainer.order.
Compute-equivalent replay: Ibrahim et al. 2024 (2403.08763), section 4.2.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Number = int | float | Decimal | Fraction


def exact(number: Number) -> Fraction:
    """The fraction that `number` was written as: the shortest decimal text of a float, never its binary value.

    0.3 is 3/10. As a binary double it would place rows differently at one prefix in ten.
    """
    return Fraction(Decimal(repr(float(number)))) if isinstance(number, float) else Fraction(number)


@dataclass(frozen=True, slots=True)
class Node:
    """One split: the left side's share is numerator / denominator."""

    left: Tree
    right: Tree
    numerator: int
    denominator: int

    def left_rows(self, rows: int) -> int:
        """floor(rows * share + 1/2): how many of the node's first `rows` rows are the left side's."""
        return (2 * rows * self.numerator + self.denominator) // (2 * self.denominator)

    def left_of(self, first: int, count: int) -> NDArray[np.int64]:
        """`left_rows` of first, first + 1, ... first + count, less that of first: [count + 1]."""
        step, whole = 2 * self.numerator, 2 * self.denominator
        if whole * (count + 2) >= 1 << 63:
            before = self.left_rows(first)
            return np.array([self.left_rows(row) - before for row in range(first, first + count + 1)], dtype=np.int64)
        rest = (first * step + self.denominator) % whole
        return (rest + np.arange(count + 1, dtype=np.int64) * step) // whole


Tree = str | Node


def _halved(names: Sequence[str], weights: Mapping[str, Fraction]) -> Tree:
    """The tree of one group; `names` are sorted."""
    if len(names) == 1:
        return names[0]
    middle = (len(names) + 1) // 2
    left = sum((weights[name] for name in names[:middle]), Fraction(0))
    both = left + sum((weights[name] for name in names[middle:]), Fraction(0))
    # Both weightless: the parent's share never sends a row here, so any share will do.
    share = left / both if both else Fraction(0)
    return Node(_halved(names[:middle], weights), _halved(names[middle:], weights), share.numerator, share.denominator)


def _checked(title: str, weights: Mapping[str, Fraction]) -> dict[str, Fraction]:
    converted = {name: exact(weight) for name, weight in sorted(weights.items())}
    wrong = [name for name, weight in converted.items() if weight < 0]
    if wrong or (converted and not any(converted.values())):
        raise ValueError(f"{title} weights {dict(weights)}: expected none below 0 and at least one above")
    return converted


@dataclass(frozen=True)
class Mixture:
    """The order of sources for one phase: row 0, 1, 2, ... each of exactly one source.

    `ratio` is the replay's share of all rows, 0 <= ratio < 1; `corpus` and `replay` map a source's name to its weight
    within its group. Convert numbers with `exact` first. Raises ValueError when they cannot make a mixture.
    """

    ratio: Fraction
    corpus: Mapping[str, Fraction]
    replay: Mapping[str, Fraction] = field(default_factory=dict)
    root: Tree = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        ratio, corpus, replay = exact(self.ratio), _checked("corpus", self.corpus), _checked("replay", self.replay)
        both = sorted(corpus.keys() & replay.keys())
        if not 0 <= ratio < 1:
            raise ValueError(f"replay ratio {ratio}: expected 0 <= ratio < 1")
        if not corpus or (ratio and not replay):
            raise ValueError(f"a mixture with ratio {ratio} needs sources in {'replay' if corpus else 'the corpus'}")
        if both:
            raise ValueError(f"source {both[0]} stands in corpus and in replay; names are unique across both")
        root = _halved(list(corpus), corpus)
        if replay:
            root = Node(_halved(list(replay), replay), root, ratio.numerator, ratio.denominator)
        for name, value in (("ratio", ratio), ("corpus", corpus), ("replay", replay), ("root", root)):
            object.__setattr__(self, name, value)

    @property
    def sources(self) -> tuple[str, ...]:
        """All names, sorted; those that never get a row included."""
        return tuple(sorted([*self.corpus, *self.replay]))

    def counts(self, rows: int) -> dict[str, int]:
        """How many of the first `rows` rows come from each source. They sum to `rows`."""
        if rows < 0:
            raise ValueError(f"rows {rows}: expected 0 or more")
        return dict(sorted(_counts(self.root, rows)))

    def locate(self, row: int) -> tuple[str, int]:
        """(source, index within the source) of global row `row`, from 0."""
        if row < 0:
            raise ValueError(f"row {row}: expected 0 or more")
        tree = self.root
        while isinstance(tree, Node):
            before = tree.left_rows(row)
            if tree.left_rows(row + 1) > before:
                tree, row = tree.left, before
            else:
                tree, row = tree.right, row - before
        return tree, row

    def split(self, first: int, count: int) -> list[Share]:
        """`locate` of the rows first .. first + count, by source; a source without any of them is left out."""
        if first < 0:
            raise ValueError(f"row {first}: expected 0 or more")
        return list(_split(self.root, np.arange(count, dtype=np.int64), first))


class Share(NamedTuple):
    """What one source has of some rows: `places` among them, [n]; there its rows first, first + 1, ... stand."""

    source: str
    places: NDArray[np.int64]
    first: int


def _split(tree: Tree, places: NDArray[np.int64], first: int) -> Iterator[Share]:
    """A node's rows first, first + 1, ... stand at `places`: those of each side are consecutive too."""
    if not len(places):
        return
    if isinstance(tree, Node):
        is_left = np.diff(tree.left_of(first, len(places))) > 0
        before = tree.left_rows(first)
        yield from _split(tree.left, places[is_left], before)
        yield from _split(tree.right, places[~is_left], first - before)
    else:
        yield Share(tree, places, first)


def _counts(tree: Tree, rows: int) -> Iterator[tuple[str, int]]:
    if isinstance(tree, Node):
        left = tree.left_rows(rows)
        yield from _counts(tree.left, left)
        yield from _counts(tree.right, rows - left)
    else:
        yield tree, rows
