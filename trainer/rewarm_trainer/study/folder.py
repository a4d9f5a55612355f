"""Where the parts of a study lie in its work folder. Decides nothing."""

from __future__ import annotations

from pathlib import Path

from rewarm_api.study_runs import ChildRun
from rewarm_trainer.workdir import WorkFolder

ARTEFACT = "study.json"


class StudyFolder:
    """`runs/LABEL` is the work folder of a run, `manifests/LABEL.json` its manifest, `logs/LABEL.log` what it said."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.artefact = self.root / ARTEFACT
        self.picture = self.root / "study.png"
        self.manifest = self.root / "state" / "manifest.json"
        self.uid = self.root / "state" / "uid"
        self.delivered = self.root / "state" / "delivered"
        self.mlflow = self.root / "mlflow.db"
        self._lock = WorkFolder(self.root)

    def lock(self) -> None:
        """Become the only writer (75 when somebody else is)."""
        self._lock.lock()

    def work(self, child: ChildRun) -> WorkFolder:
        return WorkFolder(self.root / "runs" / child.label)

    def document(self, child: ChildRun) -> Path:
        return self.root / "manifests" / f"{child.label}.json"

    def log(self, child: ChildRun) -> Path:
        return self.root / "logs" / f"{child.label}.log"
