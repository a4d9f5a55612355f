"""Trains on one GPU for a while; fails when a loss is not finite or memory grows: `stability.py --minutes 30`."""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path

# `speed` is a package beside this one's folder, which itself must not be searched.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from speed.arm import Arm  # noqa: E402
from speed.rows.gpu import LARGE, MODULE, VARIANTS  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--rows", type=int, default=2)
    options = parser.parse_args()
    work = {**LARGE, "rows": options.rows}
    with Arm(MODULE, "Gpu", {"work": work, "micro_rows": options.rows, **VARIANTS["all"]}) as arm:
        first = float(arm.ask("run", steps=20).value["peak_bytes"])
        end, steps = time.monotonic() + 60 * options.minutes, 20
        while time.monotonic() < end:
            found = arm.ask("run", steps=20)
            steps += 20
            loss = float(arm.ask("loss").value)
            now = found.value["peak_bytes"]
            if not math.isfinite(loss) or now > 1.01 * first:
                print(f"unstable after {steps} steps: loss {loss}, {now:,} bytes (first {first:,.0f})")
                return 1
    print(f"stable: {steps} steps in {options.minutes:g} minutes, the last loss is {loss:.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
