"""Decisions are pure: no I/O, no environment, no clock, no Kubernetes client, whatever they import."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[3] / "operator" / "rewarm_operator"
PURE = [
    "actions", "admission", "attempts", "cleaning", "conditions", "deletion", "ending", "finishing", "hangs", "kueue",
    "moments", "names", "objects", "observed", "pod_objects", "pods", "preparation", "promotion", "reconcile",
    "look", "reports", "resources", "running", "settings", "snapshots", "starting", "status_changes", "study_fit",
    "study_plans", "study_runs", "study_visit", "studying", "tracking", "trim",
    "visit", "waits",
]  # fmt: skip
FORBIDDEN = {
    "os", "io", "pathlib", "time", "random", "socket", "subprocess", "shutil", "asyncio", "threading", "logging",
    "aiohttp", "kubernetes", "kopf", "mlflow", "prometheus_client",
}  # fmt: skip


@pytest.mark.parametrize("name", PURE)
def test_a_pure_module_reads_nothing_but_what_it_is_given(name):
    tree = ast.parse((PACKAGE / f"{name}.py").read_text())
    imported = {
        alias.name.partition(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    } | {(node.module or "").partition(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not imported & FORBIDDEN
    called = {
        node.func.attr for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    }
    assert not called & {"now", "utcnow", "today", "getenv"}


def test_deciding_loads_no_client():
    script = (
        "import sys; from rewarm_operator.reconcile import decide; "
        "print(sorted({'kubernetes', 'kopf', 'mlflow', 'aiohttp', 'prometheus_client', 'torch'} & set(sys.modules)))"
    )
    paths = ":".join(str(PACKAGE.parents[1] / folder) for folder in ("api", "operator"))
    finished = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env={"PYTHONPATH": paths}, cwd="/"
    )
    assert finished.stdout.strip() == "[]", finished.stderr
