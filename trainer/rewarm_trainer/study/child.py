"""One child of a study in a process of its own: a run on this machine, exactly as `rewarm run` does it.

Children are forked from a server that has imported everything once: a study of many short runs would else spend most of
its time on imports. The server computes nothing, so it holds no accelerator and no threads. It ends with the study.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from multiprocessing.context import ForkServerContext
from pathlib import Path

from rewarm_api.errors import RewarmError
from rewarm_trainer.run import run_local
from rewarm_trainer.signals import die_with_parent

_PRELOADED = ["rewarm_trainer.worker", "rewarm_trainer.corpus.prepare", "mlflow.store.tracking.sqlalchemy_store"]


def context(threads: int) -> ForkServerContext:
    """Where children come from; `threads` of each, unless OMP_NUM_THREADS says otherwise (read by imports)."""
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(_PRELOADED)
    return found


def work(document: Path, manifest: Path, workdir: Path, log: Path) -> None:
    """The run to its end; everything it says is appended to `log`. Exits with its code."""
    _detach(log)
    try:
        sys.exit(run_local(json.loads(document.read_text()), manifest, workdir))
    except RewarmError as error:
        for line in str(error).splitlines() or [error.cause]:
            print(f"error: {line}", file=sys.stderr)
        sys.exit(error.exit_code)


def _detach(log: Path) -> None:
    """A session of its own, in which a Ctrl-C of the terminal reaches the study alone; gone when the study is."""
    os.setsid()
    die_with_parent()
    study = multiprocessing.parent_process()
    if study is None or not study.is_alive():
        os._exit(70)
    written = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.dup2(written, 1)
    os.dup2(written, 2)
    os.close(written)
