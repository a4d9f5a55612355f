"""Driving the product as a person would: `rewarm run`, and what a run left behind."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from rewarm_bench.effects import Estimate, PerDocument

ROOT = Path(__file__).resolve().parents[2]


def arguments(verb: str, manifest: Path, workdir: Path, changes: Iterable[str] = ()) -> list[str]:
    """`VERB FILE --workdir DIR --set CHANGE …`, what follows `rewarm`."""
    words = [verb, str(manifest), "--workdir", str(workdir)]
    for change in changes:
        words += ["--set", change]
    return words


def run(manifest: Path, workdir: Path, changes: Iterable[str] = ()) -> int:
    """One `rewarm run` that reports to standard error; a finished or interrupted one is taken up again. Its exit
    code."""
    command = [sys.executable, "-m", "rewarm_cli", *arguments("run", manifest, workdir, changes)]
    return subprocess.run(command, stdout=subprocess.DEVNULL).returncode


def report(workdir: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((workdir / "report.json").read_text())
    return loaded


def scores(path: Path) -> dict[str, Any]:
    """Summed nats and labels of each document of one set, by hash."""
    loaded: dict[str, Any] = json.loads(path.read_text())
    return loaded


def per_document(workdir: Path, name: str, look: Path | None = None) -> PerDocument:
    """What a run measured on each document of one set, before and after; or at a look, on the documents it scored."""
    baseline = scores(workdir / "state" / "baseline" / f"{name}.json")
    later = scores(look or workdir / "state" / "final" / f"{name}.json")
    count = len(later["hashes"])
    if baseline["hashes"][:count] != later["hashes"]:
        raise ValueError(f"{workdir}: baseline and later look of {name} scored different documents")
    before, after = (np.array(item["nats"], dtype=np.float64)[:count] for item in (baseline, later))
    return PerDocument(tuple(later["hashes"]), before, after, np.array(later["labels"], dtype=np.float64))


def delta(facts: dict[str, Any], name: str) -> Estimate:
    """Final minus baseline of one set, as the run's own report has it."""
    value = facts["sets"][name]["delta"]
    return Estimate(value["mean"], value["low"], value["high"])
