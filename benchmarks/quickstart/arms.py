"""The four runs of the quickstart, driven through `rewarm run` as a person would, and what they left behind.

corpora ──> base (scratch, general) ──┬─> without   code, no replay
                                      ├─> replay    code, 25 % general
                                      └─> control   general alone
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# Also puts the shared package on the path.
from corpora import write

from rewarm_bench import product

ROOT = product.ROOT
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
        for name, corpus in write(corpora).items():
            size = f"{corpus.documents} documents, {corpus.text_bytes / 1e6:.2f} MB of text"
            print(f"corpus {name}: {size}", file=sys.stderr)


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
    print(f"\n── {arm.title}: rewarm run examples/{arm.manifest} ──", file=sys.stderr, flush=True)
    code = product.run(ROOT / "examples" / arm.manifest, workdir, (*changes, *arm.changes, *extra))
    if code:
        raise SystemExit(code)
    return workdir
