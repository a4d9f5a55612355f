"""What a row leaves behind: tables, bars with a mark each, notes. Pure; goes through JSON unchanged."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from speed.spread import Spread

MET, MISSED, UNMEASURED = "met", "missed", "not measured"


@dataclass(frozen=True)
class Bar:
    """A bound of the issue on one measured number.

    `value` None: not measured here, and `reason` says why. `at_least`: the number must not be below `limit`, else not
    above. The median decides; the range stands beside it where there were several rounds.
    """

    what: str
    limit: float
    value: float | None
    low: float | None = None
    high: float | None = None
    unit: str = "x"
    at_least: bool = True
    reason: str = ""

    @staticmethod
    def on(what: str, limit: float, spread: Spread, *, unit: str = "x", at_least: bool = True) -> Bar:
        return Bar(what, limit, spread.median, spread.low, spread.high, unit, at_least)

    @staticmethod
    def missing(what: str, limit: float, reason: str, *, unit: str = "x", at_least: bool = True) -> Bar:
        return Bar(what, limit, None, unit=unit, at_least=at_least, reason=reason)

    @property
    def state(self) -> str:
        if self.value is None:
            return UNMEASURED
        holds = self.value >= self.limit if self.at_least else self.value <= self.limit
        return MET if holds else MISSED

    @property
    def mark(self) -> str:
        """`met`, `missed by 12 %` of the bound, or `not measured: why`."""
        if self.value is None:
            return f"{UNMEASURED}: {self.reason}"
        if self.state == MET:
            return MET
        if not self.limit:
            return MISSED
        return f"{MISSED} by {abs(self.value - self.limit) / abs(self.limit):.0%}".replace("%", " %")

    @property
    def bound(self) -> str:
        return f"{'>=' if self.at_least else '<='} {number(self.limit)} {self.unit}"

    @property
    def measured(self) -> str:
        if self.value is None:
            return ""
        known = self.low is not None and self.high is not None and self.low != self.high
        around = f" ({number(self.low)} to {number(self.high)})" if known else ""  # type: ignore[arg-type]
        return f"{number(self.value)} {self.unit}{around}"


def number(value: float) -> str:
    """Two decimals where they say something, else two digits, or whole numbers with separators."""
    if 0 < abs(value) < 0.1:
        return f"{value:.2g}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2f}".rstrip("0").rstrip(".")


@dataclass(frozen=True)
class Table:
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Result:
    """One row of the bench. `size`: smoke, standard or full; `seconds`: what measuring took; `commit`: of the code."""

    name: str
    title: str
    tables: tuple[Table, ...]
    bars: tuple[Bar, ...]
    notes: tuple[str, ...] = ()
    size: str = "standard"
    seconds: float = 0.0
    machine: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    commit: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(value: dict[str, Any]) -> Result:
        tables = tuple(
            Table(each["title"], tuple(each["header"]), tuple(tuple(row) for row in each["rows"]))
            for each in value["tables"]
        )
        bars = tuple(Bar(**each) for each in value["bars"])
        return Result(**{**value, "tables": tables, "bars": bars, "notes": tuple(value["notes"])})
