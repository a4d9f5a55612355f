"""The work folder of the reproductions, and running arms in it through `rewarm run`.

corpora/ debian/            texts, written once
manifests/NAME.yaml         what was run; `rewarm run` on it alone does the same
runs/NAME/ logs/NAME.log    work folders; a finished one is found again, an interrupted one taken up
cache/                      prepared shards, tokenizers, baselines
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import yaml

from rewarm_bench import product
from science.arms import Arm
from science.corpora import prepare
from science.results import Run


class Lab:
    """Arms run once each; `jobs` of them at a time, each on one thread."""

    def __init__(self, root: Path, jobs: int = 1) -> None:
        self.root, self.jobs = root.resolve(), jobs
        for name in ("manifests", "logs", "runs"):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        self.corpora = prepare(self.root / "corpora")
        self._texts = {name: corpus.sha256 for name, corpus in self.corpora.items()}
        self._stopped = threading.Event()

    def run(self, arms: Iterable[Arm]) -> None:
        """Train whatever is not finished, bases before what continues them. SystemExit with the first failure."""
        order = {self.folder(arm): arm for chosen in arms for arm in chosen.lineage()}
        missing = {folder: arm for folder, arm in order.items() if not finished(folder)}
        if not missing:
            return
        print(f"{len(order)} runs, {len(order) - len(missing)} of them finished", file=sys.stderr, flush=True)
        # Bases were submitted first, so an arm never waits for one that has no worker.
        waiting: dict[Path, Future[None]] = {}
        with ThreadPoolExecutor(self.jobs) as pool:
            for folder, arm in sorted(missing.items(), key=lambda item: len(list(item[1].lineage()))):
                base = waiting.get(self.folder(arm.base)) if arm.base else None
                waiting[folder] = pool.submit(self._train, folder, arm, base)
        for future in waiting.values():
            future.result()

    def _train(self, folder: Path, arm: Arm, base: Future[None] | None) -> None:
        try:
            if base is not None:
                base.result()
            if self._stopped.is_set():
                raise SystemExit(f"{folder.name}: not run, because another one failed")
            self._rewarm(folder, arm)
        except BaseException:
            self._stopped.set()
            raise

    def _rewarm(self, folder: Path, arm: Arm) -> None:
        manifest = self.root / "manifests" / f"{folder.name}.yaml"
        manifest.write_text(yaml.safe_dump(arm.manifest(self._texts), sort_keys=False))
        log = self.root / "logs" / f"{folder.name}.log"
        print(f"rewarm run {manifest} --workdir {folder}", file=sys.stderr, flush=True)
        # One database, so that MLflow shows all arms side by side; no part of the arm, so no part of its key.
        tracking = (f"spec.tracking.uri=sqlite:///{self.root}/mlflow.db", "spec.tracking.experiment=science")
        threads = str(max(1, (os.cpu_count() or 1) // self.jobs))
        environment = {"XDG_CACHE_HOME": str(self.root / "cache"), "OMP_NUM_THREADS": threads}
        code = product.run(manifest, folder, tracking, environment=environment, log=log)
        if code or not finished(folder):
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
            raise SystemExit(f"{tail}\n{manifest}: rewarm run ended with {code}; all of it in {log}")

    def folder(self, arm: Arm) -> Path:
        return self.root / "runs" / arm.folder(self._texts)

    def result(self, arm: Arm) -> Run:
        return Run(self.folder(arm))


def finished(folder: Path) -> bool:
    report = folder / "report.json"
    return report.exists() and json.loads(report.read_text())["outcome"] == "Succeeded"
