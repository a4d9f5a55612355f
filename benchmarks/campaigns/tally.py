"""What a campaign found, as a row of the table. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from rewarm_bench.pages import table

LOSSES = {
    "tokens lost": "tokens_lost",
    "tokens doubled": "tokens_doubled",
    "checkpoints lost": "checkpoints_lost",
    "attempts without a cause": "attempts_without_cause",
    "Jobs doubled": "jobs_doubled",
}
"""Columns that must be zero, and the field of each. A campaign counts what its faults can lose."""
OF_TRAINERS = ("tokens lost", "tokens doubled", "checkpoints lost")
OF_OPERATORS = ("attempts without a cause", "Jobs doubled")


class CannotRun(Exception):
    """What a campaign needs is not on this machine; the text says what, and how to get it."""


@dataclass
class Tally:
    """Counts of one campaign.

    injected: faults that really struck. survived: those after which everything was as it must be. tokens_lost:
    committed tokens that a resume did not begin from. tokens_doubled: trained more often than the plan says, in the
    state of the finished run. checkpoints_lost: committed, and later not whole or gone without having been pruned.
    attempts_without_cause: Jobs of attempts whose end the run's status does not name. jobs_doubled: made beside the one
    of their attempt. columns: those of the losses that this campaign counts.
    problems: one line for each thing that was not as it must be. notes: measured beside it.
    """

    campaign: str
    injected: int = 0
    survived: int = 0
    tokens_lost: int = 0
    tokens_doubled: int = 0
    checkpoints_lost: int = 0
    attempts_without_cause: int = 0
    jobs_doubled: int = 0
    columns: tuple[str, ...] = OF_TRAINERS
    by_kind: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def struck(self, kind: str, problems: Sequence[str] = (), count: int = 1) -> None:
        """`count` faults of a kind struck; `problems` is what came of them that must not be."""
        self.injected += count
        self.by_kind[kind] = self.by_kind.get(kind, 0) + count
        if problems:
            self.problems += [f"{kind}: {problem}" for problem in problems]
        else:
            self.survived += count

    def row(self, columns: Sequence[str]) -> tuple[str, ...]:
        """Its row; a dash for what it does not count."""
        losses = (f"{getattr(self, LOSSES[column]):,}" if column in self.columns else "–" for column in columns)
        return (self.campaign, f"{self.injected:,}", f"{self.survived:,}", *losses)

    @property
    def is_clean(self) -> bool:
        lost = sum(getattr(self, name) for name in LOSSES.values())
        return not self.problems and not lost and self.survived == self.injected


def summary(tallies: Iterable[Tally]) -> str:
    """The one table, with the columns of these campaigns."""
    rows = list(tallies)
    columns = [column for column in LOSSES if any(column in tally.columns for tally in rows)]
    return table(("campaign", "faults injected", "survived", *columns), [tally.row(columns) for tally in rows])


def kinds(by_kind: Mapping[str, int]) -> str:
    """`3 × commit.file, 1 × prune.done`, the most frequent first."""
    ordered = sorted(by_kind.items(), key=lambda pair: (-pair[1], pair[0]))
    return ", ".join(f"{count} × {kind}" for kind, count in ordered)


def section(tally: Tally, command: str, machine: str, date: str) -> str:
    """What of one campaign stands in docs/reliability.md."""
    lines = [summary([tally]), "", f"Faults: {kinds(tally.by_kind)}."]
    lines += [f"{note}." for note in tally.notes]
    lines += [f"**Not as it must be:** {problem}" for problem in tally.problems]
    lines += ["", f"`{command}`, {date}, {tally.seconds / 60:.0f} minutes on {machine}."]
    return "\n".join(lines)
