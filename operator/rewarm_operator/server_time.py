"""What time it is for the API server: deadlines compare moments that it wrote with now, so both are of one clock.

Clocks of machines differ, by minutes on a bad day. Each answer tells the server's time to a second (`Date`), and our
own clock counts on from there; where the two agree, nothing is changed. A process has one API server, so one clock.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime


class ServerClock:
    """`now` is our own clock and what it lacks; `told` hears how late it is over there."""

    def __init__(self) -> None:
        self._ahead = timedelta(0)

    def now(self) -> datetime:
        return datetime.now(UTC) + self._ahead

    def told(self, date: str | None, took: float) -> None:
        """An answer that says `date` has come now, `took` seconds after it was asked for: written somewhere between."""
        try:
            written = parsedate_to_datetime(date or "").astimezone(UTC)
        except (TypeError, ValueError):
            return
        came = datetime.now(UTC)
        least, most = written - came, written + timedelta(seconds=1.0 + took) - came
        self._ahead = min(max(self._ahead, least), most)


SERVER = ServerClock()
"""Of the API server that this process talks to."""
