"""Benchmarks in words: the facts of report.json's `benchmarks` as rows, for the terminal and for the page. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

NO_NUMBER = "–"
COLUMNS = ("benchmark", "task", "items", "before", "after", "change [95 %]", "McNemar p", "lost", "won", "verdict")


def rows(benchmarks: Mapping[str, Any], serving: Mapping[str, Any] | None = None) -> Iterator[dict[str, str]]:
    """A row for each task, by the names in COLUMNS, and one against the version that serves, where it was asked.

    Shares are percent, the change is in points.
    """
    for name, benchmark in benchmarks.items():
        for task, line in benchmark["tasks"].items():
            yield _row(name, task, line)
            if line.get("serving"):
                yield _row(name, f"{task}, against {serving_words(serving)}", line["serving"])


def _row(name: str, task: str, line: Mapping[str, Any]) -> dict[str, str]:
    flips = line["flips"]
    cells = (
        name,
        task,
        str(line["items"]),
        _asked(line["baseline"] if "baseline" in line else line["first"]),
        _asked(line["final"] if "final" in line else line["second"]),
        points(line["delta"]),
        NO_NUMBER if flips["mcnemar_p"] is None else f"{flips['mcnemar_p']:.2g}",
        share(flips["negative"]),
        share(flips["positive"]),
        line["verdict"] or "too few items",
    )
    return dict(zip(COLUMNS, cells, strict=True))


def flip_rows(report: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """(what is compared, its flips of the next token) of each set, against the base and the version that serves."""
    found = []
    for name, value in report["sets"].items():
        if value.get("flips"):
            found.append((name, value["flips"]))
        if value.get("serving"):
            found.append((f"{name}, against {serving_words(report.get('serving'))}", value["serving"]))
    return found


def serving_words(serving: Mapping[str, Any] | None) -> str:
    """`champion (version 7)`."""
    return f"{serving['alias']} (version {serving['version']})" if serving else "the serving version"


def _asked(model: Mapping[str, Any]) -> str:
    """`41.7 %`, with the prompt form where there was a choice."""
    form = f" ({model['form']})" if model["form"] else ""
    return f"{model['accuracy']:.1%}{form}".replace("%", " %")


def points(delta: Mapping[str, Any]) -> str:
    """`+4.2 [-1.0, +9.4]`: a difference of two shares, in points of a hundred."""
    values = [delta[name] for name in ("mean", "low", "high")]
    if values[0] is None:
        return NO_NUMBER
    mean, *ends = (NO_NUMBER if value is None else f"{100 * value + 0.0:+.1f}" for value in values)
    return f"{mean} [{ends[0]}, {ends[1]}]"


def share(value: Mapping[str, Any]) -> str:
    """`4.2 % [1.0, 9.4]`."""
    if value["mean"] is None:
        return NO_NUMBER
    if value["low"] is None or value["high"] is None:
        return f"{100 * value['mean']:.1f} %"
    return f"{100 * value['mean']:.1f} % [{100 * value['low']:.1f}, {100 * value['high']:.1f}]"


def count(benchmarks: Mapping[str, Any]) -> str:
    """`1 win, 2 ties, 0 losses, 1 undecided` over all tasks: verdicts are counted, accuracies are not averaged."""
    found = [line["verdict"] for benchmark in benchmarks.values() for line in benchmark["tasks"].values()]
    words = [_counted(found.count(which), one, many) for which, one, many in _COUNTED]
    undecided = found.count(None)
    return ", ".join([*words, *([f"{undecided} undecided"] if undecided else [])])


_COUNTED = (("Win", "win", "wins"), ("Tie", "tie", "ties"), ("Lose", "loss", "losses"))


def _counted(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
