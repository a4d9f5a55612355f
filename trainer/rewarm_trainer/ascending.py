"""A phase's rows of a source by ascending score: the rows that it would draw anyway, the best last. Pure.

    the source's shuffled order   ... k0 [ 7  2  9  4  1 ] ...        the window: what this phase takes
    the same rows by score               [ 4  9  7  1  2 ]

So an arm with an ascending order and one without train on the same rows, and what they show is the order alone
("How learning-rate decay wastes your best data", 2511.18903). Sorting costs one walk over the window when a process
first needs it; rows that a window holds twice (a second epoch) stand side by side.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rewarm_trainer.permutation import drawn


class Window(NamedTuple):
    """Indices [start, start + length) of the order of a source of `size` rows, to be taken by score column."""

    seed: int
    source: str
    size: int
    start: int
    length: int
    column: str


class Ascending:
    """Finds places by score. `read` gives the row scores of (source, column), [rows]; each is read once."""

    def __init__(self, read: Callable[[str, str], NDArray[np.float64]]) -> None:
        self._read = read
        self._scores: dict[tuple[str, str], NDArray[np.float64]] = {}
        self._sorted: dict[Window, NDArray[np.int64]] = {}

    def drawn(self, window: Window, numbers: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(epochs, rows) of the rows with the `numbers`-th lowest scores of the window; equal ones stay shuffled."""
        if window not in self._sorted:
            self._sorted[window] = self._sort(window)
        return drawn(window.seed, window.source, self._sorted[window][numbers], window.size)

    def _sort(self, window: Window) -> NDArray[np.int64]:
        key = (window.source, window.column)
        if key not in self._scores:
            self._scores[key] = self._read(*key)
        indices = np.arange(window.start, window.start + window.length)
        _, rows = drawn(window.seed, window.source, indices, window.size)
        return indices[np.argsort(self._scores[key][rows], kind="stable")]
