"""`rewarm study`: the whole of a study in one reading.

    lock the folder -> runs of the grid -> each run, or what is left of it -> measurements -> laws -> study.json

The folder's runs win: a study whose template was edited is refused by the runs that exist (64). Its grid may grow.
"""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rewarm_api.errors import ManifestError, Problem
from rewarm_api.study import MixtureStudy
from rewarm_api.study_runs import ChildRun, child_runs
from rewarm_trainer.files import write_bytes, write_json
from rewarm_trainer.run import adopt
from rewarm_trainer.study.artefact import complete, laws_of, load_artefact, measured
from rewarm_trainer.study.children import Children, is_finished
from rewarm_trainer.study.folder import StudyFolder
from rewarm_trainer.study.gather import gather
from rewarm_trainer.tracking import Tracker


def run_study(
    study: MixtureStudy, manifest: Path, workdir: Path, tell: Callable[[str], None] | None = None
) -> dict[str, Any]:
    """Run what is missing and return the artefact, which stands in `study.json`. `manifest` is where the study was
    written: its relative paths start there."""
    folder = StudyFolder(workdir)
    folder.lock()
    children = child_runs(study)
    _keep_documents(folder, children, manifest)
    if not all(is_finished(folder, child) for child in children):
        folder.artefact.unlink(missing_ok=True)
    Children(folder, manifest, children, study.spec.parallelism, tell or _tell).run()
    return _judge(folder, study, children, tell or _tell)


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _keep_documents(folder: StudyFolder, children: Sequence[ChildRun], manifest: Path) -> None:
    """The manifest of every run; a run that exists must still be the same experiment (64, all of them at once)."""
    write_json(folder.manifest, {"root": str(manifest.absolute().parent), "runs": [child.label for child in children]})
    if not folder.uid.exists():
        write_bytes(folder.uid, str(uuid.uuid4()).encode())
    problems: list[Problem] = []
    for child in children:
        work = folder.work(child)
        if work.snapshot.exists():
            try:
                adopt(work, child.document, manifest.absolute().parent)
            except ManifestError as error:
                problems += error.problems
        write_json(folder.document(child), child.document)
    if problems:
        raise ManifestError(tuple(dict.fromkeys(problems)))


def _judge(
    folder: StudyFolder, study: MixtureStudy, children: Sequence[ChildRun], tell: Callable[[str], None]
) -> dict[str, Any]:
    """Fit, answer and deliver."""
    artefact = fitted(folder, study, children, tell)
    if folder.delivered.exists() and folder.delivered.read_text() == artefact["digest"]:
        return artefact
    problem = deliver(folder, study, artefact, f"sqlite:///{folder.mlflow}")
    if problem:
        tell(f"tracking: {problem}; the same command, run again, delivers it")
    else:
        write_bytes(folder.delivered, artefact["digest"].encode())
    return artefact


def fitted(
    folder: StudyFolder, study: MixtureStudy, children: Sequence[ChildRun], tell: Callable[[str], None]
) -> dict[str, Any]:
    """The artefact, made and drawn; found again when nothing was measured or asked anew."""
    runs = gather(folder, children)
    facts = measured(study.metadata.name, folder.uid.read_text(), study.spec, runs)
    artefact = _known(folder, facts)
    if artefact is None:
        tell("fitting the laws")
        laws = laws_of(facts)
        artefact = complete(facts, laws, runs)
        from rewarm_trainer.study.picture import draw

        draw(folder.picture, artefact, laws)
        write_json(folder.artefact, artefact)
    return artefact


def _known(folder: StudyFolder, facts: Mapping[str, Any]) -> dict[str, Any] | None:
    if not folder.artefact.exists() or not folder.picture.exists():
        return None
    known = load_artefact(folder.root)
    same = json.loads(json.dumps(facts))
    return known if all(known.get(key) == value for key, value in same.items()) else None


def deliver(folder: StudyFolder, study: MixtureStudy, artefact: Mapping[str, Any], default_uri: str) -> str:
    """The law and its picture as artefacts of an MLflow run of the study. Returns what went wrong, if anything.

    `default_uri`: the tracking server where the template names none.
    """
    asked = study.spec.template.spec.get("tracking") or {}
    tracker = Tracker.start(
        asked.get("uri") or default_uri,
        asked.get("experiment") or study.metadata.name,
        study.metadata.name,
        str(artefact["uid"]),
        {"rewarm.dev/study": study.metadata.name, "rewarm.dev/study-digest": artefact["digest"]},
        {"runs": len(artefact["runs"]), "tolerance": artefact["tolerance"], "tokenizer": artefact["tokenizer"]},
        folder.root / "state" / "spool",
        folder.root / "mlartifacts",
    )
    for answer in artefact["answers"]["largest_share"]:
        if answer["replay_ratio"] is not None:
            tracker.log({"study/replay_ratio": answer["replay_ratio"]}, answer["tokens"])
    for path in (folder.artefact, folder.picture):
        tracker.attach(path)
    ended = tracker.finish("FINISHED")
    return "" if ended.delivered else ended.message
