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
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import yaml

from rewarm_bench import product
from rewarm_bench.warm import Warm
from science.arms import Arm, Edges
from science.corpora import prepare
from science.results import Run


class Lab:
    """Arms run once each, `jobs` of them at a time; the cores are divided among them unless OMP_NUM_THREADS says."""

    def __init__(self, root: Path, jobs: int = 1) -> None:
        self.root, self.jobs = root.resolve(), jobs
        for name in ("manifests", "logs", "runs"):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        self.corpora = prepare(self.root / "corpora")
        self._texts = {name: corpus.sha256 for name, corpus in self.corpora.items()}
        self._stopped = threading.Event()
        threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // jobs))
        self._warm = Warm({**os.environ, "XDG_CACHE_HOME": str(self.root / "cache"), "OMP_NUM_THREADS": threads})

    def run(self, arms: Iterable[Arm]) -> None:
        """Train whatever is not finished, bases before what continues them. SystemExit with the first failure."""
        order = {self.folder(arm): arm for chosen in arms for arm in chosen.lineage()}
        missing = {folder: arm for folder, arm in order.items() if not finished(folder)}
        if not missing:
            return
        print(f"{len(order)} runs, {len(order) - len(missing)} of them finished", file=sys.stderr, flush=True)
        # What is needed was submitted first, so an arm never waits for one that has no worker.
        waiting: dict[Path, Future[None]] = {}
        with ThreadPoolExecutor(self.jobs) as pool:
            for folder, arm in sorted(missing.items(), key=lambda item: item[1].depth()):
                needed = [waiting[each] for each in map(self.folder, arm.needs()) if each in waiting]
                waiting[folder] = pool.submit(self._train, folder, arm, needed)
        for future in waiting.values():
            future.result()

    def _train(self, folder: Path, arm: Arm, needed: list[Future[None]]) -> None:
        try:
            for other in needed:
                other.result()
            if self._stopped.is_set():
                raise SystemExit(f"{folder.name}: not run, because another one failed")
            self._rewarm(folder, arm)
        except BaseException:
            self._stopped.set()
            raise

    def _rewarm(self, folder: Path, arm: Arm) -> None:
        manifest = self.root / "manifests" / f"{folder.name}.yaml"
        manifest.write_text(yaml.safe_dump(arm.manifest(self._texts, self._learned), sort_keys=False))
        log = self.root / "logs" / f"{folder.name}.log"
        print(f"rewarm {arm.verb} {manifest} --workdir {folder}", file=sys.stderr, flush=True)
        # One database, so that MLflow shows all arms side by side; no part of the arm, so no part of its key.
        tracking = (f"spec.tracking.uri=sqlite:///{self.root}/mlflow.db", "spec.tracking.experiment=science")
        words = product.arguments(arm.verb, manifest, folder, tracking if arm.verb == "run" else ())
        code, used = self._warm.run(words, Path.cwd(), log)
        with open(log.with_suffix(".seconds"), "a") as file:
            file.write(f"{used:.1f}\n")
        if code or not finished(folder):
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
            raise SystemExit(f"{tail}\n{manifest}: rewarm {arm.verb} ended with {code}; all of it in {log}")

    def _learned(self, folders: Sequence[str]) -> Edges:
        """What `python -m rewarm_trainer.skills FOLDER...` prints, as data."""
        from rewarm_trainer.controllers.learned_graph import lines
        from rewarm_trainer.skills import learn

        printed = yaml.safe_load("\n".join(lines(learn([self.root / "runs" / folder for folder in folders]))))
        edges: Edges = printed["mixture"]["skillGraph"]["edges"]
        return edges

    def seconds(self, arms: Iterable[Arm]) -> float:
        """Processor seconds that these arms took, with all that they need and every attempt; each run once."""
        folders = {self.folder(each) for arm in arms for each in arm.lineage()}
        files = (self.root / "logs" / f"{folder.name}.seconds" for folder in folders)
        return sum(float(line) for file in files if file.exists() for line in file.read_text().split())

    def folder(self, arm: Arm) -> Path:
        return self.root / "runs" / arm.folder(self._texts)

    def result(self, arm: Arm) -> Run:
        return Run(self.folder(arm))


def finished(folder: Path) -> bool:
    report = folder / ("study.json" if (folder / "study.json").exists() else "report.json")
    return report.exists() and json.loads(report.read_text()).get("outcome", "Succeeded") == "Succeeded"
