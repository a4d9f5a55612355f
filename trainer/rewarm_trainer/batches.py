"""From rows to arrays: inputs, labels and positions of a slice of a global batch (design: trainer.md, "Row").

Ranks take contiguous slices of the global batch: strided ones gave one rank all the replay rows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rewarm_trainer.order import Draw, Order

IGNORED = -100
AHEAD = 1 << 20
"""Tokens to be read at once: small batches are read several at a time, as a call costs more than a row."""


class Rows(Protocol):
    """A source as the loop sees it."""

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """These rows, of shape (n, S + 1), in whole numbers of any width."""
        ...


@dataclass(frozen=True)
class Batch:
    """A slice of a global batch.

    inputs, labels: [rows, S]; a label of -100 is not scored. positions: [rows, S], restarting at each document.
    sources: [rows], the number of each row's source. scored: [rows], how many labels of it are scored. pieces: how
    many of these rows make one row of the plan, which a phase of a shorter sequence length cuts.
    """

    inputs: NDArray[np.int64]
    labels: NDArray[np.int64]
    positions: NDArray[np.int64] | None
    sources: NDArray[np.int64]
    scored: NDArray[np.int64]
    pieces: int = 1

    @property
    def valid(self) -> int:
        """How many labels are scored."""
        return int(self.scored.sum())

    def __len__(self) -> int:
        return len(self.inputs)

    def part(self, start: int, stop: int) -> Batch:
        """Rows start .. stop, as a micro-batch."""
        return Batch(
            self.inputs[start:stop],
            self.labels[start:stop],
            None if self.positions is None else self.positions[start:stop],
            self.sources[start:stop],
            self.scored[start:stop],
            self.pieces,
        )

    def cut(self, parts: int) -> Iterator[Batch]:
        """So many equal parts, one after the other."""
        size = len(self) // parts
        return (self.part(size * number, size * (number + 1)) for number in range(parts))


def document_positions(inputs: NDArray[np.int64], eos: int) -> NDArray[np.int64]:
    """Position of each token within its document: 0 at the start of a row and after every EOS. [rows, S]."""
    ends = inputs == eos
    return _positions(ends, np.flatnonzero(ends))


def _positions(ends: NDArray[np.bool_], at: NDArray[np.int64]) -> NDArray[np.int64]:
    """By which tokens end a document, [rows, S], and where in all of them these stand."""
    rows, length = ends.shape
    positions = np.empty((rows, length), np.int64)
    positions[:] = np.arange(length)
    # What ends with its row changes nothing in it.
    several = np.unique(at[at % length != length - 1] // length)
    if len(several):
        positions[several] = _within_documents(ends[several])
    return positions


def _within_documents(ends: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Positions in rows of several documents: they are few beside the tokens, so each is filled as a whole."""
    rows, length = ends.shape
    starts = ends.copy()
    starts[:, -1:] = True
    # The last token of a row is followed by the next row's first, whatever it is.
    begins = np.concatenate([[0], np.flatnonzero(starts) + 1])
    positions = np.arange(ends.size)
    positions -= np.repeat(begins[:-1], np.diff(begins))
    return positions.reshape(rows, length)


def assemble(
    draws: Sequence[Draw],
    sources: Mapping[str, Rows],
    numbers: Mapping[str, int],
    *,
    eos: int,
    masking: bool,
    sequence_length: int = 0,
) -> Batch:
    """Read rows and derive labels and positions; `sequence_length` cuts every row into pieces of so many tokens.

    With document masking the label that would predict a document's first token is ignored; EOS itself is a label.
    """
    parts = [sources[draw.source].take(draw.rows) for draw in draws]
    rows, width = sum(map(len, parts)), parts[0].shape[1] - 1
    inputs, labels = np.empty((rows, width), np.int64), np.empty((rows, width), np.int64)
    of, ends = np.empty(rows, np.int64), np.empty((rows, width), np.bool_)
    for draw, part in zip(draws, parts, strict=True):
        inputs[draw.places], labels[draw.places] = part[:, :-1], part[:, 1:]
        of[draw.places] = numbers[draw.source]
        if masking:
            # Looked for in what is stored: a quarter of the bytes of what it becomes.
            ends[draw.places] = part[:, :-1] == eos
    length = sequence_length or width
    # A piece ends with the token that the next one begins with, as rows do: cutting loses no label.
    inputs, labels, pieces = inputs.reshape(-1, length), labels.reshape(-1, length), width // length
    positions, scored = None, np.full(len(inputs), length)
    if masking:
        at = np.flatnonzero(ends)
        labels.reshape(-1)[at] = IGNORED
        scored -= np.bincount(at // length, minlength=len(inputs))
        positions = _positions(ends.reshape(-1, length), at)
    return Batch(inputs, labels, positions, np.repeat(of, pieces), scored, pieces)


class Loader:
    """This rank's batches, ahead of the training thread. Stateless: a batch is a function of its step."""

    def __init__(
        self,
        sources: Mapping[str, Rows],
        *,
        eos: int,
        masking: bool,
        rank: int,
        world: int,
        rows: int,
        ahead: bool = True,
    ) -> None:
        """`ahead`: read while a step is made; without, each batch when it is asked for."""
        self._reads_ahead = ahead
        self._sources = sources
        self.numbers = {name: number for number, name in enumerate(sorted(sources))}
        self._eos, self._masking = eos, masking
        self._count = rows // world
        self._first = rank * self._count
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="rewarm-loader")
        self._order: Order | None = None
        self._next = 0
        self._read: deque[Batch] = deque()
        self._ahead: Future[deque[Batch]] | None = None

    def _load(self, order: Order, step: int, most: int) -> deque[Batch]:
        """The batches of the updates `step` + 1, ... of one phase, `most` at most."""
        steps = order.steps_left(step, most)
        whole = assemble(
            order.draws(step, steps=steps, first=self._first, count=self._count),
            self._sources,
            self.numbers,
            eos=self._eos,
            masking=self._masking,
            sequence_length=order.phase(step).sequence_length,
        )
        return deque(whole.cut(steps))

    def batch(self, order: Order, step: int) -> Batch:
        """The batch of update `step` + 1; those after it are read while that one is made."""
        follows = order is self._order and step == self._next
        if follows and not self._read and self._ahead is not None:
            self._read, self._ahead = self._ahead.result(), None
        elif not follows or not self._read:
            self._order, self._read, self._ahead = order, self._load(order, step, 1), None
        batch, self._next = self._read.popleft(), step + 1
        if not self._read and self._reads_ahead:
            self._ahead = self._worker.submit(self._load, order, step + 1, max(1, AHEAD // batch.inputs.size))
        return batch

    def close(self) -> None:
        self._worker.shutdown(wait=True, cancel_futures=True)
