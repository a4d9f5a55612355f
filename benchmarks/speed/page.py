"""Results as Markdown: for each hardware the table of all bars with a mark beside each, then its rows. Pure."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Sequence

from rewarm_bench.pages import table
from speed.result import MET, MISSED, UNMEASURED, Bar, Result

MARKS = {MET: "✓", MISSED: "✗", UNMEASURED: "–"}


def bars(results: Sequence[Result]) -> str:
    """Every bar of every row."""
    lines = [
        (MARKS[bar.state], result.name, bar.what, bar.bound, bar.measured, bar.mark)
        for result in results
        for bar in result.bars
    ]
    return table(("", "row", "what", "bar", "measured", "mark"), lines)


def count(results: Iterable[Result]) -> str:
    """How many bars are met, missed, not measured."""
    states = Counter(bar.state for result in results for bar in result.bars)
    return ", ".join(f"{states[state]} {state}" for state in (MET, MISSED, UNMEASURED))


def section(result: Result) -> str:
    """One row: its tables and notes, and how long it took."""
    parts = [f"### {result.title}", ""]
    for each in result.tables:
        parts += [f"**{each.title}**", "", table(each.header, each.rows), ""]
    parts += [f"- {note}" for note in result.notes]
    parts += [""] if result.notes else []
    told = ", ".join([f"{name} {version}" for name, version in sorted(result.versions.items())])
    command = f"make bench NAME={result.name}" + ("" if result.size == "standard" else f" SIZE={result.size}")
    code = f" at {result.commit}" if result.commit else ", of code whose commit was not kept"
    parts.append(f"`{command}`, {result.seconds:.0f} s{code}. {told}.")
    return "\n".join(parts)


def page(results: Sequence[Result], names: Iterable[str] = ()) -> str:
    """`results`: those of one hardware beside each other. `names`: of all rows; one that a hardware lacks is named."""
    parts = []
    for machine, found in itertools.groupby(results, lambda result: result.machine):
        rows = list(found)
        lacking = [name for name in names if name not in {row.name for row in rows}]
        absent = [absence(name, f"not on this hardware; `make bench NAME={name}`") for name in lacking]
        parts += [f"## {machine}", f"{count(rows + absent)}.", bars(rows + absent), *map(section, rows)]
    return "\n\n".join(parts)


def absence(name: str, reason: str) -> Result:
    """A row without a number."""
    return Result(name, name, (), (Bar.missing("all of it", 0.0, reason),))


def marked(results: Sequence[Result], earlier: Collection[str] = ()) -> str:
    """The same bars for a terminal: a line each. `earlier`: rows that were not measured now."""
    lines = [
        f"{MARKS[bar.state]} {result.name:12} {bar.what}: {bar.measured or '–'} (bar {bar.bound}) {bar.mark}"
        + (", measured earlier" if result.name in earlier and bar.measured else "")
        for result in results
        for bar in result.bars
    ]
    return "\n".join([*lines, count(results)])
