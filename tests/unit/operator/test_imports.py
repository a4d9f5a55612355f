"""The operator starts light: without torch, numpy and their like, and without what only some installations need."""

from __future__ import annotations

import subprocess
import sys

import pytest

BLOCKED = ("torch", "numpy", "pandas", "scipy", "pyarrow", "transformers", "boto3", "matplotlib")
SCRIPT = f"""
import sys
for name in {BLOCKED!r}:
    sys.modules[name] = None
import rewarm_operator.main
print(sorted(name for name in ("mlflow", "kubernetes", "kubernetes.aio") if name in sys.modules))
"""


def test_it_is_imported_with_the_heavy_libraries_blocked():
    """Also without MLflow's client and the asynchronous Kubernetes client: a pod without tracking never loads them."""
    finished = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.strip() == "[]"


@pytest.mark.parametrize("entry", [["-m", "rewarm_operator"]])
def test_wrong_settings_end_it_with_64_and_a_line_for_each(entry):
    environment = {"REWARM_LEASE_SECONDS": "x", "PATH": "/usr/bin"}
    finished = subprocess.run([sys.executable, *entry], capture_output=True, text=True, env=environment)
    assert finished.returncode == 64
    lines = finished.stderr.strip().splitlines()
    assert len(lines) == 2
    assert "REWARM_TRAINER_IMAGE" in lines[0]
    assert "REWARM_LEASE_SECONDS" in lines[1]
