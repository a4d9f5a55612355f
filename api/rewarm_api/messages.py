"""Words for problems: how a found value is shown, and what to do about an unknown field."""

from __future__ import annotations

import difflib
import json
import re
from typing import Any

from rewarm_api.errors import Problem

NOTHING = "nothing"
_LONGEST = 80
_LINE = 1024
_LOOKS_LIKE_ANOTHER_TYPE = re.compile(r"[-+.]?[0-9][-+.0-9e_]*|true|false|null|~|\s.*|.*\s|", re.IGNORECASE | re.DOTALL)


def found_text(value: Any) -> str:
    """A value as the reader of a message knows it from the manifest; text that looks like a number is quoted."""
    if value is None:
        return NOTHING
    if isinstance(value, dict):
        return "a mapping" + (f" with {', '.join(map(str, value))}" if value else " without fields")
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, str):
        text = json.dumps(value, ensure_ascii=False) if _LOOKS_LIKE_ANOTHER_TYPE.fullmatch(value) else value
    elif isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        text = str(int(value))
    else:
        text = json.dumps(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def unknown_field(path: str, key: str, known: list[str]) -> Problem:
    """The problem of a field that does not exist here, with the name that was perhaps meant."""
    expected = "one of " + ", ".join(known)
    folded = {name.lower(): name for name in known}
    near = difflib.get_close_matches(key.lower().replace("_", "").replace("-", ""), folded, n=1)
    fix = f"did you mean {folded[near[0]]}?" if near else f"remove {key}"
    return Problem(path, f"the unknown field {key}", expected, fix)


def one_line(text: str, longest: int = _LINE) -> str:
    """Text made fit for a status, an event and a terminal: one line, printable, cut with an ellipsis."""
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return line if len(line) <= longest else line[: longest - 1] + "…"
