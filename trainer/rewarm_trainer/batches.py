"""From rows to arrays: inputs, labels and positions of a slice of a global batch (design: trainer.md, "Row").

Ranks take contiguous slices of the global batch: strided ones gave one rank all the replay rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rewarm_trainer.order import Order, RowAddress

IGNORED = -100


class Rows(Protocol):
    """A source as the loop sees it."""

    def row(self, index: int) -> NDArray[np.int64]: ...


@dataclass(frozen=True)
class Batch:
    """A slice of a global batch.

    inputs, labels: [rows, S]; a label of -100 is not scored. positions: [rows, S], restarting at each document.
    sources: [rows], the number of each row's source. valid: how many labels are scored. pieces: how many of these rows
    make one row of the plan, which a phase of a shorter sequence length cuts.
    """

    inputs: NDArray[np.int64]
    labels: NDArray[np.int64]
    positions: NDArray[np.int64] | None
    sources: NDArray[np.int64]
    valid: int
    pieces: int = 1

    def __len__(self) -> int:
        return len(self.inputs)

    def part(self, start: int, stop: int) -> Batch:
        """Rows start .. stop, as a micro-batch."""
        labels = self.labels[start:stop]
        positions = None if self.positions is None else self.positions[start:stop]
        return Batch(
            self.inputs[start:stop],
            labels,
            positions,
            self.sources[start:stop],
            int((labels != IGNORED).sum()),
            self.pieces,
        )


def document_positions(inputs: NDArray[np.int64], eos: int) -> NDArray[np.int64]:
    """Position of each token within its document: 0 at the start of a row and after every EOS. [rows, S]."""
    columns = np.arange(inputs.shape[1])
    starts = np.zeros_like(inputs)
    starts[:, 1:] = np.where(inputs[:, :-1] == eos, columns[1:], 0)
    return columns - np.maximum.accumulate(starts, axis=1)


def assemble(
    addresses: Sequence[RowAddress],
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
    tokens = np.stack([sources[address.source].row(address.row) for address in addresses])
    length = sequence_length or tokens.shape[1] - 1
    pieces = (tokens.shape[1] - 1) // length
    # A piece ends with the token that the next one begins with, as rows do: cutting loses no label.
    inputs, labels = tokens[:, :-1].reshape(-1, length), tokens[:, 1:].reshape(-1, length).copy()
    positions = None
    if masking:
        labels[inputs == eos] = IGNORED
        positions = document_positions(inputs, eos)
    return Batch(
        np.ascontiguousarray(inputs),
        labels,
        positions,
        np.repeat(np.array([numbers[address.source] for address in addresses], dtype=np.int64), pieces),
        int((labels != IGNORED).sum()),
        pieces,
    )


class Loader:
    """This rank's batches, one step ahead of the training thread. Stateless: a batch is a function of its step."""

    def __init__(
        self, sources: Mapping[str, Rows], *, eos: int, masking: bool, rank: int, world: int, rows: int
    ) -> None:
        self._sources = sources
        self.numbers = {name: number for number, name in enumerate(sorted(sources))}
        self._eos, self._masking = eos, masking
        self._count = rows // world
        self._first = rank * self._count
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="rewarm-loader")
        self._ahead: tuple[Order, int, Future[Batch]] | None = None

    def _load(self, order: Order, step: int) -> Batch:
        addresses = order.rows(step, self._first, self._count)
        length = order.phase(step).sequence_length
        return assemble(
            addresses, self._sources, self.numbers, eos=self._eos, masking=self._masking, sequence_length=length
        )

    def batch(self, order: Order, step: int) -> Batch:
        """The batch of update `step` + 1; starts to read the next one."""
        ahead, self._ahead = self._ahead, None
        is_read = ahead is not None and ahead[0] is order and ahead[1] == step
        batch = ahead[2].result() if ahead and is_read else self._load(order, step)
        self._ahead = (order, step + 1, self._worker.submit(self._load, order, step + 1))
        return batch

    def close(self) -> None:
        self._worker.shutdown(wait=True, cancel_futures=True)
