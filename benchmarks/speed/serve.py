"""The other end of an arm: builds one object in a process of its own and does as told, a line of JSON at a time.

    python serve.py '{"paths": [...], "module": "speed.arms.training", "kind": "Rewarm", "options": {...}}'

Runs under a peer's interpreter too: nothing but the standard library is imported here; a profile
asks for torch.
"""

from __future__ import annotations

import functools
import importlib
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any


def forget_peak() -> None:
    """Let the kernel count the largest resident memory from here on (proc(5), clear_refs)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def megabytes(field: str) -> float:
    """VmHWM (peak) or VmRSS (now) of this process; 0 where the kernel does not tell."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:")), 0.0)


def cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def answer(value: dict[str, Any]) -> None:
    print(json.dumps({"answer": value}), flush=True)


def profiled(arm: Any, doing: str = "run", **arguments: Any) -> dict[str, float]:
    """Any arm that uses torch can be asked where the time of what it does goes."""
    from speed.profiling import shares

    return shares(lambda: getattr(arm, doing)(**arguments))


def main() -> None:
    asked = json.loads(sys.argv[1])
    sys.path[0:1] = asked["paths"]
    arm = getattr(importlib.import_module(asked["module"]), asked["kind"])(**asked["options"])
    answer({"facts": getattr(arm, "facts", {})})
    for line in sys.stdin:
        told = json.loads(line)
        forget_peak()
        before, cpu, began = megabytes("VmRSS"), cpu_seconds(), time.perf_counter()
        verb = functools.partial(profiled, arm) if told["verb"] == "profile" else getattr(arm, told["verb"])
        value = verb(**told["arguments"])
        seconds = time.perf_counter() - began
        answer(
            {
                "seconds": seconds,
                "cpu_seconds": cpu_seconds() - cpu,
                "before_megabytes": before,
                "peak_megabytes": megabytes("VmHWM"),
                "value": value,
            }
        )


if __name__ == "__main__":
    main()
