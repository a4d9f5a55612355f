"""Results as Markdown: the table of all bars with a mark beside each, then a section for each row. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from rewarm_bench.pages import table
from speed.result import MET, MISSED, UNMEASURED, Result

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
    """One row: its tables and notes, and how long it took on what."""
    parts = [f"## {result.title}", ""]
    for each in result.tables:
        parts += [f"**{each.title}**", "", table(each.header, each.rows), ""]
    parts += [f"- {note}" for note in result.notes]
    parts += [""] if result.notes else []
    told = ", ".join([f"{name} {version}" for name, version in sorted(result.versions.items())])
    command = f"make bench NAME={result.name}" + ("" if result.size == "standard" else f" SIZE={result.size}")
    parts.append(f"`{command}`, {result.seconds:.0f} s on {result.machine}. {told}.")
    return "\n".join(parts)


def page(results: Sequence[Result]) -> str:
    return "\n\n".join([f"{count(results)}.", bars(results), *(section(result) for result in results)])


def marked(results: Sequence[Result]) -> str:
    """The same bars for a terminal: a line each."""
    lines = [
        f"{MARKS[bar.state]} {result.name:12} {bar.what}: {bar.measured or '–'} (bar {bar.bound}) {bar.mark}"
        for result in results
        for bar in result.bars
    ]
    return "\n".join([*lines, count(results)])
