"""`python -m rewarm_operator` and `rewarm-operator`: everything is set by the environment (settings.py)."""

from __future__ import annotations

import os
import sys


def start() -> None:
    from rewarm_operator.main import main

    code = main()
    sys.stderr.flush()
    # Not sys.exit: the thread that talks to MLflow may wait for an answer for many seconds more.
    os._exit(code)


if __name__ == "__main__":
    start()
