"""How freed memory of a CPU process is kept.

By default the C library gives every large block back to the kernel when it is freed, and each training step takes the
same blocks again, page fault by page fault (tests/unit/trainer/test_memory.py counts them).
"""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # malloc.h of the GNU C library


def keep_freed_memory() -> bool:
    """Let this process keep and reuse the blocks that it frees. True where the C library takes the hint."""
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return False
    wanted = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 64 << 20))
    return sum(mallopt(name, value) for name, value in wanted) == len(wanted)
