"""`rewarm version`: what is installed, read from package metadata, so that nothing heavy is imported."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed

from rewarm_cli.output import Output, emit

PACKAGES = ("rewarm", "torch", "transformers", "accelerate", "tokenizers", "mlflow")


def versions() -> dict[str, str | None]:
    """Version of each package, None where it is not installed; Python's under `python`."""
    found: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            found[name] = installed(name)
        except PackageNotFoundError:
            found[name] = None
    return {**found, "python": platform.python_version()}


def execute(output: Output) -> int:
    found = versions()
    if output is Output.JSON:
        emit(found)
        return 0
    for name, version in found.items():
        print(f"{name} {version or 'not installed'}")
    return 0
