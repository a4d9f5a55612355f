"""Now is what the API server says, wherever our own clock stands."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from rewarm_operator.server_time import ServerClock


def ahead(clock: ServerClock) -> float:
    return (clock.now() - datetime.now(UTC)).total_seconds()


def date(seconds: float) -> str:
    """Of an answer by a server whose clock is that much ahead of ours."""
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize("seconds", [600.0, -600.0])
def test_a_clock_that_is_minutes_away_is_followed_to_a_second(seconds):
    clock = ServerClock()
    for _ in range(3):
        clock.told(date(seconds), 0.01)
        assert abs(ahead(clock) - seconds) < 1.1
    clock.told(date(0.0), 0.01)
    assert abs(ahead(clock)) < 1.1, "somebody has set our clock right"


def test_where_both_agree_nothing_is_changed():
    clock = ServerClock()
    for took in (0.0, 0.4, 30.0):
        clock.told(date(-took), took)
    assert abs(ahead(clock)) < 0.05


@pytest.mark.parametrize("text", [None, "", "yesterday", "Sat, 99 Nov 2026 23:48:11 GMT"])
def test_what_is_no_date_is_left_aside(text):
    clock = ServerClock()
    clock.told(text, 0.1)
    assert abs(ahead(clock)) < 0.05
