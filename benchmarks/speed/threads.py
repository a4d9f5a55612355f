"""How long OpenMP's threads spin: tokens per second alone, and beside another busy process.

`python benchmarks/speed/threads.py` trains a small model alone and beside a process that wants a core, in turn with
OpenMP's own spinning, with ours and with almost none. Ours should be near the first alone, and near the last
beside others.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys
sys.path[:0] = sys.argv[1:4]
import os, time
spin = os.environ.get("SPIN")
if spin != "ours":
    os.environ["GOMP_SPINCOUNT"] = spin
import rewarm_trainer
from speed.arms.training import Rewarm
arm = Rewarm({"hidden": 128, "layers": 4, "vocabulary": 2048, "length": 256, "rows": 16}, bf16=False, compiled=False)
arm.run(2)
began = time.perf_counter()
arm.run(6)
print(256 * 16 * 6 / (time.perf_counter() - began))
"""
# libgomp's own default when OMP_WAIT_POLICY is not set and threads do not outnumber cores.
ARMS = {"spinning (libgomp's own)": "300000", "ours": "ours", "almost none": "1000"}


def rate(spin: str) -> float:
    paths = [str(ROOT / "api"), str(ROOT / "trainer"), str(Path(__file__).parents[1])]
    environment = {key: value for key, value in os.environ.items() if key != "GOMP_SPINCOUNT"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *paths],
        env={**environment, "SPIN": spin},
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout.split()[-1])


def main() -> None:
    for beside in (False, True):
        busy = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if beside else None
        try:
            rates: dict[str, list[float]] = {name: [] for name in ARMS}
            for _ in range(3):
                for name, spin in ARMS.items():
                    rates[name].append(rate(spin))
        finally:
            if busy:
                busy.kill()
                busy.wait()
        print("beside a busy process" if beside else "alone")
        for name, values in rates.items():
            print(f"  {name:26} {statistics.median(values):8,.0f} tokens/s ({min(values):,.0f} to {max(values):,.0f})")


if __name__ == "__main__":
    main()
