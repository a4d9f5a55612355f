"""The score matrix of a chain as one SVG that stands by itself: in the page, and as an artefact in MLflow. Pure.

A cell's number is the loss; its colour is the change since the stage that introduced the set (grey before it): orange
is worse, blue is better, white is no change, and the darkest is the largest change of the chain.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

WIDTH, HEIGHT, LEFT, TOP = 92, 34, 170, 88
WORSE, BETTER, UNKNOWN = (214, 112, 26), (49, 108, 196), (238, 238, 234)
NAME_LENGTH = 24


def heat_map(chain: Mapping[str, Any]) -> str:
    """SVG of `chain` of report.json: a row for each model between two stages, a column for each set."""
    sets, rows = chain["sets"], chain["rows"]
    changes = {
        (number, name): _change(rows, name, value["stage"], number)
        for name, value in sets.items()
        for number in range(len(rows))
    }
    largest = max((abs(change) for change in changes.values() if change is not None), default=0.0) or 1.0
    width, height = LEFT + WIDTH * len(sets) + 90, TOP + HEIGHT * len(rows) + 34
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'font-family="system-ui, sans-serif" font-size="12" style="max-width:{width}px;width:100%">',
        "<title>Loss of each model of the chain on each evaluation set</title>",
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    for column, name in enumerate(sets):
        x = LEFT + WIDTH * column + WIDTH // 2
        parts.append(_text(x, TOP - 10, _short(name), f'text-anchor="start" transform="rotate(-24 {x} {TOP - 10})"'))
    for number, row in enumerate(rows):
        y = TOP + HEIGHT * number
        words = f"after {row['after']}" if row["after"] else "before the chain"
        parts.append(_text(LEFT - 10, y + HEIGHT / 2 + 4, _short(words), 'text-anchor="end"'))
        for column, name in enumerate(sets):
            parts += _cell(LEFT + WIDTH * column, y, row["loss"][name], changes[number, name], largest)
    note = "loss in nats per token; orange: worse than after the stage that introduced the set, blue: better"
    parts.append(_text(10, height - 12, note, 'font-size="11"'))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _change(rows: list[Mapping[str, Any]], name: str, stage: int, number: int) -> float | None:
    """Change of a cell since its set was introduced; None before that, and where a loss is unknown."""
    now, then = rows[number]["loss"][name], rows[stage]["loss"][name]
    return None if number < stage or now is None or then is None else now - then


def _cell(x: int, y: int, loss: float | None, change: float | None, largest: float) -> list[str]:
    colour = UNKNOWN if change is None else _mixed(WORSE if change > 0 else BETTER, abs(change) / largest)
    shape = (
        f'<rect x="{x + 1}" y="{y + 1}" width="{WIDTH - 2}" height="{HEIGHT - 2}" '
        f'fill="rgb({colour[0]},{colour[1]},{colour[2]})"/>'
    )
    dark = change is not None and abs(change) / largest > 0.7
    text = "not scored" if loss is None else f"{loss:.3f}"
    middle = f'text-anchor="middle" fill="{"#ffffff" if dark else "#1d2126"}"'
    return [shape, _text(x + WIDTH / 2, y + HEIGHT / 2 + 4, text, middle)]


def _mixed(colour: tuple[int, int, int], share: float) -> tuple[int, int, int]:
    red, green, blue = (round(255 + (part - 255) * share) for part in colour)
    return red, green, blue


def _short(text: str) -> str:
    return text if len(text) <= NAME_LENGTH else text[: NAME_LENGTH - 1] + "…"


def _text(x: float, y: float, text: str, attributes: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" {attributes}>{escape(text)}</text>'
