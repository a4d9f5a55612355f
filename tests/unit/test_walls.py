"""The walls of architecture.md: imports that must never be."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Packages whose import costs seconds, or that only one module may touch.
HEAVY = {"torch", "transformers", "accelerate", "mlflow", "boto3", "prometheus_client", "kubernetes", "matplotlib"}


def modules(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Top-level packages that a file imports anywhere, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add((node.module or "").partition(".")[0])
    return names - set(sys.stdlib_module_names)


def test_import_contracts_are_kept():
    finished = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"], cwd=ROOT, capture_output=True, text=True
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr


def test_the_api_stands_on_pydantic_alone():
    for path in modules("api"):
        allowed = {"rewarm_api", "pydantic", "pydantic_core"} | (
            {"yaml"} if path.name in ("manifest.py", "crd.py", "ablation.py") else set()
        )
        assert imported(path) <= allowed, path


@pytest.mark.parametrize(
    ("package", "owners"),
    [
        ("boto3", {"trainer/storage.py"}),
        ("lm_eval", {"trainer/harness.py"}),
        ("mlflow", {"trainer/tracking.py", "operator/registry.py"}),
        ("prometheus_client", {"trainer/exporter.py", "operator/metrics.py"}),
        ("kubernetes", {"operator/cluster.py", "cli/cluster.py"}),
        ("kopf", {"operator/handlers.py"}),
    ],
)
def test_one_module_talks_to_each_service(package, owners):
    folders = ("api", "trainer", "operator", "cli")
    users = {f"{each}/{path.name}" for each in folders for path in modules(each) if package in imported(path)}
    assert users == owners


@pytest.mark.parametrize("package", ["rewarm_api", "rewarm_trainer", "rewarm_trainer.corpus", "rewarm_cli"])
def test_importing_a_package_imports_nothing_heavy(package):
    """For the trainer itself: only its `__init__`; its modules are imported by who needs them."""
    walk = package != "rewarm_trainer"
    script = (
        "import importlib, pkgutil, sys\n"
        f"package = importlib.import_module({package!r})\n"
        f"names = [m.name for m in pkgutil.walk_packages(package.__path__, {package!r} + '.')] if {walk} else []\n"
        "[importlib.import_module(name) for name in names if not name.endswith('__main__')]\n"
        f"print(sorted(set({sorted(HEAVY)}) & set(sys.modules)))"
    )
    finished = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert finished.stdout.strip() == "[]", finished.stdout + finished.stderr


def test_standard_library_operator_stays_importable_from_the_root():
    assert not (ROOT / "operator" / "__init__.py").exists()
    script = "import operator; print(operator.add(1, 2))"
    finished = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == "3"
