"""The version that serves now, judged beside the base: what would its users lose if the candidate took its place?

    registeredModel@promoteAlias ──> weights ──> sets, benchmarks ──> state/serving/, state/benchmarks/serving/

It is asked once, before the first update (the optimizer's memory is still free), and pinned by `state/serving.json`,
written last: whatever takes the alias later, the candidate is compared with the version that served when its run began.
A serving version that cannot be had is a warning and no comparison, never the end of a run.
"""

from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rewarm_api.errors import MissingInputError, RewarmError
from rewarm_trainer.answering import Answerer
from rewarm_trainer.base import Base, registered
from rewarm_trainer.benchmarks import Benchmarks
from rewarm_trainer.checkpoint import manifest_root
from rewarm_trainer.compare import scorer_of
from rewarm_trainer.corpus.tokenizer import TokenizerHandle
from rewarm_trainer.files import write_json
from rewarm_trainer.looks import Looks

if TYPE_CHECKING:
    from rewarm_trainer.session import Session


def serving_version(state: Path) -> dict[str, Any] | None:
    """`model`, `alias` and `version` that the run compares with; None when it has none."""
    path = state / "serving.json"
    value: dict[str, Any] | None = json.loads(path.read_text()) if path.exists() else None
    return value


def ask_serving(session: Session, looks: Looks, benchmarks: Benchmarks | None, warn: Callable[[str], None]) -> None:
    """Score the serving version on everything that the run is judged by. Rank 0 does it alone, the others wait."""
    if session.rank == 0 and session.run.snapshot.tracking.uri and not serving_version(session.run.work.state):
        try:
            _ask(session, looks, benchmarks)
        except MissingInputError:
            pass  # No version has the alias: the first release has nothing to be compared with.
        # Broken weights, a full disk, memory that does not suffice: no reason to lose the run.
        except (RewarmError, OSError, ValueError, RuntimeError) as error:
            warn(f"no comparison with the serving version: {error}")
    session.barrier()


def _ask(session: Session, looks: Looks, benchmarks: Benchmarks | None) -> None:
    run = session.run
    tracking, state = run.snapshot.tracking, run.work.state
    base = registered(run.snapshot, manifest_root(run.work), run.cache)
    if base.pin["digest"] == session.base.pin.get("digest"):
        for part, copy in (("baseline", "serving"), ("benchmarks/base", "benchmarks/serving")):
            if (state / part).is_dir():
                shutil.copytree(state / part, state / copy, dirs_exist_ok=True)
    else:
        _score(session, base, looks, benchmarks)
    named = {"model": tracking.registered_model, "alias": tracking.promote_alias}
    write_json(state / "serving.json", {**named, "version": base.pin["resolved"]["version"]})


def _score(session: Session, base: Base, looks: Looks, benchmarks: Benchmarks | None) -> None:
    run = session.run
    assert base.folder is not None
    tokenizer = TokenizerHandle.load(base.folder, run.snapshot.training.document_start)
    if (tokenizer.fingerprint, tokenizer.bos) != (run.pins.tokenizer, run.pins.bos):
        raise RewarmError(f"{base.folder}: its tokenizer is not that of this run, so no label is the same")
    scorer = scorer_of(base.folder, run.snapshot, run.pins)
    for name, chosen in looks.sets.items():
        scores = scorer.score(chosen.documents, None, looks.progress_of(name))
        write_json(run.work.state / "serving" / f"{name}.json", scores.to_json())
    if benchmarks:
        benchmarks.asking(Answerer(scorer, tokenizer)).keep("serving")
    del scorer
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
