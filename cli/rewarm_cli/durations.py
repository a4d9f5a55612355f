"""Spans of time as people write and read them: `90s`, `1h30m`, `4m`. Pure."""

from __future__ import annotations

import re
from datetime import datetime

from rewarm_api.errors import ManifestError, Problem

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse(text: str, option: str) -> float:
    """Seconds of `90`, `90s`, `1h30m`, `2d`. Raises ManifestError (64) that names the option."""
    given = text.strip()
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", given):
        return float(given)
    parts = re.findall(r"([0-9]+(?:\.[0-9]+)?)(ms|[smhd])", given)
    if not parts or "".join(amount + unit for amount, unit in parts) != given:
        raise ManifestError(Problem(option, text or "nothing", "a time such as 30s, 10m or 1h30m", f"correct {option}"))
    return sum(float(amount) * _UNITS.get(unit, 0.001) for amount, unit in parts)


def short(seconds: float) -> str:
    """The two largest units: `12s`, `4m10s`, `2h33m`, `3d4h`; below zero is 0s."""
    whole = max(0, round(seconds))
    for large, small, letters in ((86400, 3600, "dh"), (3600, 60, "hm"), (60, 1, "ms")):
        if whole >= large:
            first, second = whole // large, whole % large // small
            return f"{first}{letters[0]}" + (f"{second}{letters[1]}" if second and first < 10 else "")
    return f"{whole}s"


def moment(text: str | None) -> datetime | None:
    """A time of the API server; None when there is none."""
    return datetime.fromisoformat(text) if text else None


def ago(text: str | None, now: datetime) -> str:
    """How long since that time, or a dash."""
    when = moment(text)
    return "–" if when is None else short((now - when).total_seconds())
