"""TrainState: the one small JSON beside the weights that holds everything that must survive a restart.

Its sums are asserted whenever it is loaded; a history that does not add up, or that was edited, is refused.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from typing import Any

from rewarm_api.errors import DataError
from rewarm_api.snapshot import Plan
from rewarm_trainer.order import Order, Phase


@dataclass
class TrainState:
    """Where a run stands after `step` updates.

    rows, cursors: by source, trained and taken (skipped rows included in taken).
    evaluations: every look so far, the baseline first. rollbacks: how much of the divergence budget is spent.
    environment: what a bit-exact resume depends on; a difference on resume is a warning that names it.
    lowest: the lowest look of each New set, per document (overfitting.py).
    teacher: the teacher's loss on each corpus set, `full` and on the documents of a `look` (teacher.py).
    """

    experiment: str
    step: int = 0
    tokens: int = 0
    rows: dict[str, int] = field(default_factory=dict)
    cursors: dict[str, int] = field(default_factory=dict)
    phases: list[dict[str, Any]] = field(default_factory=list)
    seed: int = 0
    sources: dict[str, dict[str, Any]] = field(default_factory=dict)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    decisions: list[dict[str, Any]] = field(default_factory=list)
    rollbacks: int = 0
    stopped: str = ""
    fence_epoch: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    lowest: dict[str, Any] = field(default_factory=dict)
    teacher: dict[str, dict[str, float]] = field(default_factory=dict)
    version: int = 1

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(value: dict[str, Any]) -> TrainState:
        return TrainState(**value)

    def phase_log(self) -> list[Phase]:
        return [Phase.from_json(phase) for phase in self.phases]

    def replayed(self, replay_names: Collection[str]) -> int:
        """Rows trained so far that came from replay sources."""
        return sum(count for name, count in self.rows.items() if name in replay_names)

    def advance(self, order: Order, plan: Plan, step: int) -> None:
        """Move to after `step` updates; every derived sum follows from the order."""
        self.step = step
        self.tokens = step * plan.tokens_per_step
        self.rows = order.trained(step)
        self.cursors = order.cursors(step)
        self.phases = [phase.to_json() for phase in order.phases]

    def check(self, order: Order, plan: Plan, where: str) -> None:
        """Everything must add up: rows to tokens, phases to rows, cursors to rows and skips (DataError otherwise)."""
        expected = {
            "tokens": (self.tokens, self.step * plan.tokens_per_step),
            "rows of all sources": (sum(self.rows.values()), self.step * plan.rows_per_step),
            "rows by source": (self.rows, order.trained(self.step)),
            "cursors": (self.cursors, order.cursors(self.step)),
        }
        for what, (found, wanted) in expected.items():
            if found != wanted:
                raise DataError(
                    f"{where}: state does not add up: {what} found {found}, expected {wanted}; "
                    "this checkpoint was edited or belongs to another run and is not used"
                )


def best_step(state: dict[str, Any], committed: list[int]) -> int | None:
    """The committed step with the lowest mean delta over all sets, None while nothing was paired."""
    means: list[tuple[float, int]] = []
    for look in state["evaluations"]:
        deltas = [line["delta"]["mean"] for line in look["sets"].values() if line["delta"]]
        if deltas and look["step"] in committed:
            means.append((sum(deltas) / len(deltas), look["step"]))
    return min(means)[1] if means else None
