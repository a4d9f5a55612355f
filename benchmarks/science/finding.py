"""What one finding consists of. A finding is one module in `findings/` and one line in its list."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from matplotlib.axes import Axes

from rewarm_bench.effects import Estimate
from science.arms import Arm
from science.claims import Claim
from science.recipes import Setting
from science.results import Run, Runs


class Results:
    """The finished arms of a finding: `results["r25"]` is one run per seed."""

    def __init__(self, seeds: Sequence[Mapping[str, Run]]) -> None:
        self.seeds = seeds

    def __getitem__(self, arm: str) -> Runs:
        return [seed[arm] for seed in self.seeds]


@dataclass(frozen=True)
class Table:
    """`header` and `rows` of words; `title` says what the numbers are."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Measured:
    """What came out: comparisons of each claim by its key, the tables, and how to draw the figure's panels."""

    comparisons: Mapping[str, Mapping[str, Estimate]]
    tables: Sequence[Table]
    panels: Sequence[Callable[[Axes], None]]


@dataclass(frozen=True)
class Finding:
    """`arms` gives the arms of one seed by name; `measure` reads what they left behind, and runs nothing."""

    name: str
    title: str
    claims: Sequence[Claim]
    arms: Callable[[Setting, int], Mapping[str, Arm]]
    measure: Callable[[Results, Setting], Measured]
    setting: Setting = field(default_factory=Setting)
