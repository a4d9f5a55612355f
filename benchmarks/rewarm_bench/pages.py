"""What scripts write into the documentation: numbers with intervals, Markdown tables, text between two marks.

Pure but for `replace_in`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from rewarm_bench.effects import Estimate


def words(estimate: Estimate, digits: int = 3) -> str:
    return f"{estimate.value:+.{digits}f} [{estimate.low:+.{digits}f}, {estimate.high:+.{digits}f}]"


def percent(estimate: Estimate, digits: int = 1) -> str:
    return f"{estimate.value:.{digits}%} [{estimate.low:.{digits}%}, {estimate.high:.{digits}%}]"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; a bar inside a cell does not end it. ValueError for a row of another length."""
    lines = [header, ["---"] * len(header)]
    for row in rows:
        if len(row) != len(header):
            raise ValueError(f"{len(row)} cells under {len(header)} headings: {row}")
        lines.append([cell.replace("|", "\\|") for cell in row])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def between(page: str, begin: str, end: str, text: str) -> str:
    """The page with what stands between the two marks replaced. ValueError unless each mark stands there once."""
    if page.count(begin) != 1 or page.count(end) != 1 or page.index(begin) > page.index(end):
        raise ValueError(f"the page needs {begin} and then {end}, once each")
    before, _, rest = page.partition(begin)
    return f"{before}{begin}\n{text}\n{end}{rest.partition(end)[2]}"


def replace_in(page: Path, begin: str, end: str, text: str) -> None:
    page.write_text(between(page.read_text(), begin, end, text))
