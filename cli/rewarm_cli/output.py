"""What people and scripts see: results on standard output, everything else on standard error.

Decides only looks. JSON goes out through `emit`, untouched by terminal width or colour.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table


class Output(StrEnum):
    """The forms of a result."""

    TABLE = "table"
    JSON = "json"


class Form(StrEnum):
    """The forms of objects of a cluster, as kubectl has them."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"
    NAME = "name"


def emit(value: Any) -> None:
    """One JSON document on standard output."""
    print(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False))


def emit_yaml(value: Any) -> None:
    """One YAML document on standard output."""
    import yaml

    print(yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=120), end="")


def say(line: str) -> None:
    """One plain line on standard error."""
    print(line, file=sys.stderr, flush=True)


def warn(messages: Iterable[str]) -> None:
    for message in messages:
        say(f"warning: {message}")


def console() -> Console:
    """Standard output for tables. In a pipe there is no edge to fold at, so lines stay whole for grep."""
    from rich.console import Console

    piped = not sys.stdout.isatty()
    return Console(width=200 if piped else None, soft_wrap=False, highlight=False)


def show(*parts: RenderableType) -> None:
    """Tables and lines on standard output."""
    target = console()
    for part in parts:
        target.print(part)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *, words: int = 1) -> Table:
    """A plain table: the first `words` columns hold words, the rest numbers that line up to the right."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    result = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold", pad_edge=False)
    for index, column in enumerate(columns):
        result.add_column(column, justify="left" if index < words else "right", overflow="fold")
    for row in rows:
        result.add_row(*(Text(cell) for cell in row))
    return result
