"""How many processors this container may use: what the kernel would show is the whole node's."""

from __future__ import annotations

import math
import os
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")


def processors(groups: Path = _GROUPS) -> int:
    """At least 1: the smaller of the processors that it may run on, and its CPU limit (rounded up)."""
    allowed = len(os.sched_getaffinity(0))
    limit = _limit(groups)
    return max(1, min(allowed, allowed if limit is None else math.ceil(limit)))


def _limit(groups: Path) -> float | None:
    """CPU limit of the container's control group, of either version; None without one."""
    try:
        quota, period = (groups / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        pass
    try:
        quota_us = int((groups / "cpu" / "cpu.cfs_quota_us").read_text())
        period_us = int((groups / "cpu" / "cpu.cfs_period_us").read_text())
        return quota_us / period_us if quota_us > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None
