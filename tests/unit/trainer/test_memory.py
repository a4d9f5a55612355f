"""Freed blocks are reused, not given back to the kernel and taken again."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import numpy as np
from rewarm_trainer.memory import keep_freed_memory
kept = keep_freed_memory() if sys.argv[1] == "keep" else False
def fill():
    np.ones(8_000_000)  # 64 MB, 15,625 pages
fill()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    fill()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt belongs to the GNU C library")
def test_a_block_that_was_freed_costs_no_page_faults_again() -> None:
    def faults(choice: str) -> tuple[str, int]:
        done = subprocess.run([sys.executable, "-c", PROGRAM, choice], capture_output=True, text=True, check=True)
        kept, count = done.stdout.split()
        return kept, int(count)

    plain, (kept, few) = faults("leave")[1], faults("keep")
    assert kept == "True"
    assert few < plain / 10
