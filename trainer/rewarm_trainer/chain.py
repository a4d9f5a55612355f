"""Decides what a chain of runs kept, forgot and prepared for. Never reads a file: it reads scores that were measured.

    row 0   before the first stage         L[0, news]   L[0, wiki]     .            loss of the model between two
    row 1   after stage 1 (news)           L[1, news]   L[1, wiki]     .            stages on each set of the chain,
    row 2   after stage 2 (wiki)           L[2, news]   L[2, wiki]   L[2, code]     nats per token; a later set is
    row T   after stage 3 (code)           L[3, news]   L[3, wiki]   L[3, code]     first known one row before its stage

Row i is the model that stage i + 1 began from, scored by that stage as its baseline; row T is the final verdict. For a
set j that stage s(j) introduced (science.md, section 21; accuracies there, so signs are turned here):

    backwardTransfer     mean over j with s(j) < T of L[s(j), j] - L[T, j]                       above 0: got better
    forgetting           mean over the same of L[T, j] - min over i <= T of L[i, j]              never below 0
    forgettingFromBest   mean over the same of L[T, j] - min over i <  T of L[i, j]              below 0: best is last
    forwardTransfer      mean over New j with s(j) > 1 of ln(vocabulary) - L[s(j) - 1, j]        above 0: knew some

`forgetting` is that of the code of mammoth (Boschini et al. 2022), `forgettingFromBest` that of Chaudhry et al. 2018;
backward and forward transfer are those of Lopez-Paz and Ranzato 2017. Rows i include row 0: what the first base knew
can be forgotten too. The minimum over noisy rows is biased downward, so forgetting is biased upward: read it beside its
interval. The papers' reference for forward transfer is a model with random weights; ours is the model that thinks
every token equally likely, which a random one is within a percent and which needs no model. Where the first base was
scored on all of these sets, `forwardTransferFromBase` takes its loss, L[0, j], instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rewarm_api.snapshot import Role
from rewarm_trainer.statistics import Delta, Numbers, paired_delta, verdict


@dataclass(frozen=True)
class Cell:
    """One model on one set: summed nats, scored labels and UTF-8 bytes of each document, in the set's order."""

    nats: Numbers
    labels: Numbers
    bytes: Numbers

    @property
    def loss(self) -> float:
        return float(self.nats.sum() / self.labels.sum()) if self.labels.sum() else math.nan

    @property
    def bits_per_byte(self) -> float:
        return float(self.nats.sum() / (math.log(2) * self.bytes.sum())) if self.bytes.sum() else math.nan


@dataclass(frozen=True)
class Column:
    """An evaluation set of the chain: the stage (from 1) that introduced it, its role there, and its cells by row."""

    name: str
    stage: int
    role: Role
    cells: Mapping[int, Cell]

    def loss(self, row: int) -> float:
        return self.cells[row].loss if row in self.cells else math.nan

    def best(self, before: int) -> int | None:
        """The row with the lowest loss among those before row `before`."""
        known = [row for row in self.cells if row < before]
        return min(known, key=self.loss, default=None)

    def difference(self, first: int | None, second: int) -> Delta | None:
        """Row `second` minus row `first`, paired per document; None where one is unknown or scored other labels."""
        if first is None or first not in self.cells or second not in self.cells:
            return None
        one, two = self.cells[first], self.cells[second]
        if one.labels.shape != two.labels.shape or (one.labels != two.labels).any():
            return None
        return paired_delta(two.nats - one.nats, two.labels)


@dataclass(frozen=True)
class Chain:
    """Names of the stages, oldest first, this run last; and the sets of all of them."""

    stages: Sequence[str]
    columns: Sequence[Column]
    vocabulary: int

    @property
    def last(self) -> int:
        return len(self.stages)

    def earlier(self) -> list[Column]:
        """The sets of stages before the last: what can have been forgotten."""
        return [column for column in self.columns if column.stage < self.last]

    def backward_transfer(self) -> float | None:
        return _mean([column.loss(column.stage) - column.loss(self.last) for column in self.earlier()])

    def forgetting(self) -> float | None:
        return self._above_best(self.last + 1)

    def forgetting_from_best(self) -> float | None:
        return self._above_best(self.last)

    def _above_best(self, before: int) -> float | None:
        return _mean(
            [
                column.loss(self.last) - (math.nan if (row := column.best(before)) is None else column.loss(row))
                for column in self.earlier()
            ]
        )

    def forward_transfer(self) -> float | None:
        return self._known_before(lambda column: math.log(self.vocabulary))

    def forward_transfer_from_base(self) -> float | None:
        return self._known_before(lambda column: column.loss(0))

    def _known_before(self, reference: Callable[[Column], float]) -> float | None:
        new = [column for column in self.columns if column.stage > 1 and column.role is Role.NEW]
        return _mean([reference(column) - column.loss(column.stage - 1) for column in new])

    def summary(self) -> dict[str, float | None]:
        """The figures of a chain, nats per token."""
        return {
            "backwardTransfer": self.backward_transfer(),
            "forwardTransfer": self.forward_transfer(),
            "forwardTransferFromBase": self.forward_transfer_from_base(),
            "forgetting": self.forgetting(),
            "forgettingFromBest": self.forgetting_from_best(),
        }

    def to_json(self) -> dict[str, Any]:
        """`chain` of report.json but for what only files know."""
        rows = [
            {
                "after": self.stages[row - 1] if row else None,
                "loss": {column.name: _number(column.loss(row)) for column in self.columns},
                "bits_per_byte": {
                    column.name: column.cells[row].bits_per_byte if row in column.cells else None
                    for column in self.columns
                },
            }
            for row in range(self.last + 1)
        ]
        return {**self.summary(), "rows": rows, "sets": {column.name: self._set(column) for column in self.columns}}

    def _set(self, column: Column) -> dict[str, Any]:
        value: dict[str, Any] = {
            "stage": column.stage,
            "introduced": self.stages[column.stage - 1],
            "role": str(column.role),
        }
        if column.stage == self.last:
            return value
        best = column.best(self.last)
        since, from_best = column.difference(column.stage, self.last), column.difference(best, self.last)
        return {
            **value,
            "since": _judged(since),
            "forgettingFromBest": _judged(from_best),
            "best": None if best is None else (self.stages[best - 1] if best else None),
            "best_row": best,
        }


def _judged(delta: Delta | None) -> dict[str, Any] | None:
    return None if delta is None else {**delta.to_json(), "verdict": verdict(delta)}


def _mean(values: Sequence[float]) -> float | None:
    """None without values, or where one of them is unknown."""
    return _number(float(np.mean(values))) if len(values) else None


def _number(value: float) -> float | None:
    return value + 0.0 if math.isfinite(value) else None
