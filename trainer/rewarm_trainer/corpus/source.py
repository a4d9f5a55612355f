"""A prepared source as rows: memory-mapped, opened in no time, any row at once.

Definition (trainer.md, "Row"): row i of a stream is its tokens [i*S, i*S + S]: S inputs and S labels, one token of
overlap with the next row; a tail shorter than S + 1 is dropped.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from rewarm_api.errors import DataError
from rewarm_trainer.corpus.shards import Index
from rewarm_trainer.permutation import drawn


class Rows(Protocol):
    """What the mixture draws from."""

    name: str
    rows: int
    tokens: int
    documents: int

    def row(self, index: int) -> np.ndarray:
        """Row `index` as int64 of shape (S + 1,)."""

    def take(self, rows: NDArray[np.int64]) -> np.ndarray:
        """These rows, of shape (n, S + 1), in whole numbers of any width."""


class TokenSource:
    """The token stream of one prepared source, in rows of S + 1."""

    def __init__(self, folder: Path, name: str, sequence_length: int) -> None:
        self.folder, self.name, self.sequence_length = folder, name, sequence_length
        self.index = Index.read(folder).at(sequence_length)
        self.rows, self.tokens, self.documents = self.index.rows, self.index.tokens, self.index.documents
        self.dropped_tokens = self.tokens - (self.rows * sequence_length + 1 if self.rows else 0)
        self._ends = np.cumsum([shard.tokens for shard in self.index.shards], dtype=np.int64)
        self._begins = self._ends - [shard.tokens for shard in self.index.shards]
        self._maps: dict[int, np.ndarray] = {}

    def _shard(self, number: int) -> np.ndarray:
        if number not in self._maps:
            shard = self.index.shards[number]
            kind = np.dtype(self.index.dtype).newbyteorder("<")
            path = self.folder / shard.file
            try:
                # A plain array over the same pages: slicing a memmap costs four times as much as the slice.
                self._maps[number] = np.asarray(np.memmap(path, dtype=kind, mode="r", shape=(shard.tokens,)))
            except (OSError, ValueError) as error:
                raise DataError(
                    f"{path}: cannot be mapped as {shard.tokens} {kind.name} tokens ({error}); "
                    "remove the folder so that it is prepared again"
                ) from error
        return self._maps[number]

    def slice(self, start: int, end: int) -> np.ndarray:
        """Tokens [start, end) of the stream as int64; crosses shards."""
        if not 0 <= start <= end <= self.tokens:
            raise IndexError(f"source {self.name!r}: tokens [{start}, {end}) of {self.tokens}")
        result = np.empty(end - start, dtype=np.int64)
        number, filled = int(np.searchsorted(self._ends, start, side="right")), 0
        while filled < len(result):
            first = int(self._begins[number])
            part = self._shard(number)[start + filled - first : end - first]
            result[filled : filled + len(part)] = part
            filled, number = filled + len(part), number + 1
        return result

    def row(self, index: int) -> np.ndarray:
        """Row `index` as int64 of shape (S + 1,). Raises IndexError outside [0, rows)."""
        if not 0 <= index < self.rows:
            raise IndexError(f"source {self.name!r}: row {index} of {self.rows}")
        start = index * self.sequence_length
        return self.slice(start, start + self.sequence_length + 1)

    def take(self, rows: NDArray[np.int64]) -> np.ndarray:
        """These rows as they are stored, of shape (n, S + 1). Raises IndexError outside [0, rows)."""
        if not len(rows):
            return np.empty((0, self.sequence_length + 1), dtype=self.index.dtype)
        if rows.min() < 0 or rows.max() >= self.rows:
            raise IndexError(f"source {self.name!r}: rows {rows.min()} to {rows.max()} of {self.rows}")
        starts, width = rows * self.sequence_length, self.sequence_length + 1
        numbers = np.searchsorted(self._ends, starts, side="right")
        first = int(numbers[0])
        if starts.max() + width <= self._ends[first] and (numbers == first).all():
            return self._windows(first, width)[starts - self._begins[first]]
        result = np.empty((len(rows), width), dtype=self.index.dtype)
        crossing = starts + width > self._ends[numbers]
        for number in np.unique(numbers[~crossing]).tolist():
            chosen = (numbers == number) & ~crossing
            result[chosen] = self._windows(number, width)[starts[chosen] - self._begins[number]]
        for at in np.flatnonzero(crossing).tolist():
            result[at] = self.row(int(rows[at]))
        return result

    def _windows(self, number: int, width: int) -> np.ndarray:
        """What a shard holds from each of its places on: a view, so nothing is read but what is taken."""
        shard = self._shard(number)
        return as_strided(shard, (max(0, len(shard) - width + 1), width), 2 * shard.strides, writeable=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": {}}


class SubsetSource:
    """The rows of a source that an earlier run really saw, as a source of its own.

    `taken`, `seed` and `size` come from the earlier run's state: it drew the source's indices k = 0 .. taken - 1, index
    k being row place(seed, source, k, size). Its whole first epoch covers every row; before that, row i here is the row
    of its k = i, so each row stands here once.
    """

    def __init__(
        self, whole: TokenSource | SubsetSource, *, taken: int, seed: int, size: int, source: str = ""
    ) -> None:
        if size != whole.rows:
            raise DataError(
                f"{whole.folder}: holds {whole.rows} rows of {whole.sequence_length} tokens, but the earlier run drew "
                f"from {size}; use the earlier run's sequenceLength and its own prepared shards"
            )
        self.whole, self.name = whole, whole.name
        self.seed, self.size, self.source = seed, size, source or whole.name
        self.rows = min(taken, size)
        self.tokens = self.rows * whole.sequence_length + min(1, self.rows)
        self.documents = whole.documents
        self.sequence_length, self.index, self.folder = whole.sequence_length, whole.index, whole.folder
        self.dropped_tokens = 0

    def row(self, index: int) -> np.ndarray:
        """Row `index` of those seen, as int64 of shape (S + 1,)."""
        return np.asarray(self.take(np.array([index]))[0], dtype=np.int64)

    def take(self, rows: NDArray[np.int64]) -> np.ndarray:
        """These of the rows seen, of shape (n, S + 1)."""
        if len(rows) and (rows.min() < 0 or rows.max() >= self.rows):
            raise IndexError(f"source {self.name!r}: rows {rows.min()} to {rows.max()} of {self.rows} seen")
        return self.whole.take(drawn(self.seed, self.source, rows, self.size)[1])


def open_source(folder: Path, name: str, sequence_length: int) -> TokenSource:
    """Opens a prepared folder; reads only its index. Raises as `Index.read` does."""
    return TokenSource(folder, name, sequence_length)
