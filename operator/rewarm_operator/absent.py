"""Imports as they would be without a package that is installed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast


@contextmanager
def absent(package: str) -> Iterator[None]:
    """Inside, importing the package raises ImportError. One that is imported already stays as it is."""
    if package in sys.modules:
        yield
        return
    modules = cast("dict[str, Any]", sys.modules)
    modules[package] = None
    try:
        yield
    finally:
        del modules[package]
