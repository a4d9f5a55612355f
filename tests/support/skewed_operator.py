"""`python skewed_operator.py SECONDS`: the real operator on a machine whose wall clock is that much ahead (or behind).

Only what tells the time of day is wrong: clocks that measure spans are right, as they are on such a machine.
"""

from __future__ import annotations

import datetime
import sys
import time

_true_time = time.time


def skew(seconds: float) -> None:
    """For the operator's modules, once they are imported; libraries may compare classes, and keep theirs."""
    import rewarm_operator.main  # noqa: F401

    class Skewed(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:  # type: ignore[override]
            return datetime.datetime.fromtimestamp(_true_time() + seconds, tz)

    for name, module in list(sys.modules.items()):
        if name.startswith("rewarm_operator.") and getattr(module, "datetime", None) is datetime.datetime:
            module.datetime = Skewed  # type: ignore[attr-defined]
    time.time = lambda: _true_time() + seconds


if __name__ == "__main__":
    skew(float(sys.argv.pop(1)))
    from rewarm_operator.__main__ import start

    start()
