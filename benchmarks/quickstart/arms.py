"""The four runs of the quickstart, driven through `rewarm run` as a person would, and what they left behind.

corpora ──> base (scratch, general) ──┬─> without   code, no replay
                                      ├─> replay    code, 25 % general
                                      └─> control   general alone
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from corpora import write
from effects import Estimate, PerDocument

ROOT = Path(__file__).resolve().parents[2]
NEW, OLD = "code", "general"


@dataclass(frozen=True)
class Arm:
    """One continual run: its folder's name, its words in the table, its manifest and what differs from it."""

    name: str
    title: str
    manifest: str
    changes: tuple[str, ...] = ()


BASE = Arm("base", "base", "quickstart-base.yaml")
WITHOUT = Arm("without", "code, no replay", "quickstart.yaml", ("spec.replay.ratio=0",))
REPLAY = Arm("replay", "code, 25 % replay", "quickstart.yaml")
CONTROL = Arm("control", "general text alone", "quickstart-control.yaml")
ARMS = (WITHOUT, REPLAY, CONTROL)


def prepare(folder: Path) -> None:
    """Write the corpora unless they stand there."""
    corpora = folder / "corpora"
    if not all((corpora / f"{name}.jsonl").exists() for name in (NEW, OLD)):
        for name, (documents, size) in write(corpora).items():
            print(f"corpus {name}: {documents} documents, {size / 1e6:.2f} MB of text", file=sys.stderr)


def run(arm: Arm, folder: Path, corpora: Path, extra: Sequence[str] = ()) -> Path:
    """One `rewarm run` in folder/NAME; a finished or interrupted one is taken up again. Exits as the run does."""
    source = {name: (corpora / f"{name}.jsonl").resolve() for name in (NEW, OLD)}
    corpus, replay = (OLD, NEW) if arm in (BASE, CONTROL) else (NEW, OLD)
    changes = [f"metadata.name=quickstart-{arm.name}", f"spec.corpus.sources[0].uri={source[corpus]}"]
    if arm is not BASE:
        changes += [f"spec.replay.sources[0].uri={source[replay]}", f"spec.baseModel.run.path={folder.resolve()}/base"]
    # One database, so that MLflow shows the arms side by side.
    changes += [f"spec.tracking.uri=sqlite:///{folder.resolve()}/mlflow.db", "spec.tracking.experiment=quickstart"]
    workdir = folder / arm.name
    command = [
        sys.executable,
        "-m",
        "rewarm_cli",
        "run",
        str(ROOT / "examples" / arm.manifest),
        "--workdir",
        str(workdir),
    ]
    for change in (*changes, *arm.changes, *extra):
        command += ["--set", change]
    print(f"\n── {arm.title}: rewarm run examples/{arm.manifest} ──", file=sys.stderr, flush=True)
    code = subprocess.run(command, stdout=subprocess.DEVNULL).returncode
    if code:
        raise SystemExit(code)
    return workdir


def report(workdir: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((workdir / "report.json").read_text())
    return loaded


def per_document(workdir: Path, name: str) -> PerDocument:
    """What a run measured on each document of one set, before and after."""
    baseline, final = (
        json.loads((workdir / "state" / kind / f"{name}.json").read_text()) for kind in ("baseline", "final")
    )
    if baseline["hashes"] != final["hashes"]:
        raise ValueError(f"{workdir}: baseline and final of {name} scored different documents")
    nats = [np.array(item["nats"], dtype=np.float64) for item in (baseline, final)]
    return PerDocument(tuple(final["hashes"]), *nats, np.array(final["labels"], dtype=np.float64))


def delta(facts: dict[str, Any], name: str) -> Estimate:
    """Final minus baseline of one set, as the run's own report has it."""
    value = facts["sets"][name]["delta"]
    return Estimate(value["mean"], value["low"], value["high"])


def words(estimate: Estimate, digits: int = 3) -> str:
    return f"{estimate.value:+.{digits}f} [{estimate.low:+.{digits}f}, {estimate.high:+.{digits}f}]"


def percent(estimate: Estimate) -> str:
    return f"{estimate.value:.1%} [{estimate.low:.1%}, {estimate.high:.1%}]"
