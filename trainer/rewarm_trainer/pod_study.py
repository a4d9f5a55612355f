"""The fit Job of a study: from what its runs left beside their checkpoints to study.json beside theirs.

    <checkpoints>/RUN/run/ = snapshot, pins, report of each run -> the laws, as `rewarm study` fits them
    -> <checkpoints>/STUDY/study.png, study.json (last) -> MLflow -> termination message

Started again it finds its artefact, and says it again. It trains nothing and decides nothing about runs.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass

from rewarm_api.defaults import Defaults, completed
from rewarm_api.errors import ManifestError, MissingInputError, Problem
from rewarm_api.study import MixtureStudy
from rewarm_api.study_rules import validate_study
from rewarm_api.study_runs import ChildRun, child_runs
from rewarm_api.study_status import StudyResult
from rewarm_api.validate import validate
from rewarm_trainer.addresses import join
from rewarm_trainer.files import write_bytes
from rewarm_trainer.pod_settings import Pod
from rewarm_trainer.storage import Storage, open_storage
from rewarm_trainer.stored import StoredRun
from rewarm_trainer.study.children import is_finished
from rewarm_trainer.study.folder import ARTEFACT, StudyFolder
from rewarm_trainer.study.run import deliver, fitted
from rewarm_trainer.study.told import told

_NEEDED = ("snapshot.json", "pins.json", "report.json")


@dataclass(frozen=True)
class Asked:
    """What the operator gives a fit pod."""

    study: MixtureStudy
    uid: str
    defaults: Defaults

    @property
    def tracking(self) -> str:
        """Address of the tracking server; empty: none."""
        given = self.study.spec.template.spec.get("tracking") or {}
        return str(given.get("uri") or self.defaults.tracking_uri)

    def checkpoints(self, child: ChildRun) -> str:
        """Where a run of the study keeps what it left."""
        run = validate(child.document, local=False).run
        assert run is not None, "the study was validated with its runs"
        uri = completed(run, self.defaults).spec.checkpoints.uri
        if uri is None:
            fix = "set it, or the chart's default"
            raise ManifestError(Problem("spec.template.spec.checkpoints.uri", "nothing", "s3:// or claim://", fix))
        return uri.rstrip("/")


def asked_of(pod: Pod) -> Asked:
    """The study that the operator wrote down. ManifestError (64) for one that this version does not take."""
    path = pod.config / ARTEFACT
    try:
        value = json.loads(path.read_text())
        document, uid, defaults = value["study"], str(value["uid"]), Defaults(**value["defaults"])
    except FileNotFoundError:
        raise MissingInputError(
            f"{path}: no such file; a fit pod gets it from the operator, as an annotation"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        fix = "use one version for operator and trainer image"
        raise ManifestError(
            Problem(ARTEFACT, f"{type(error).__name__}: {error}", "a study, uid, defaults", fix)
        ) from None
    checked = validate_study(document, local=False)
    if checked.study is None:
        raise ManifestError(checked.problems)
    return Asked(checked.study, uid, defaults)


def fit(pod: Pod) -> StudyResult:
    """Read, fit, store, deliver. MissingInputError (66) where a run has left no verdict."""
    asked = asked_of(pod)
    folder = StudyFolder(pod.home / "study")
    write_bytes(folder.uid, asked.uid.encode())
    children = child_runs(asked.study)
    for child in children:
        _fetch(folder, child, asked.checkpoints(child))
    parent = asked.checkpoints(children[0]).rpartition("/")[0]
    store = open_storage(join(parent, asked.study.metadata.name), root=pod.home)
    _find_again(folder, store)
    artefact = fitted(folder, asked.study, children, say)
    # The artefact last: whoever finds it, finds its picture.
    for path in (folder.picture, folder.artefact):
        store.put(path.name, path.read_bytes())
    problem = deliver(folder, asked.study, artefact, asked.tracking) if asked.tracking else ""
    warnings = [f"tracking: {problem}"] if problem else []
    return told(artefact, store.uri(ARTEFACT), warnings)


def say(text: str) -> None:
    """A line for the pod's log."""
    print(f"rewarm: {text}", file=sys.stderr, flush=True)


def _fetch(folder: StudyFolder, child: ChildRun, uri: str) -> None:
    work = folder.work(child)
    stored = StoredRun.of(work, uri)
    for name in _NEEDED:
        data = stored.read(name)
        if data is None:
            raise MissingInputError(
                f"{join(stored.uri, name)}: run {child.name} of the study has left none, or it is not whole"
            )
        write_bytes(work.root / name, data)
    if not is_finished(folder, child):
        raise MissingInputError(
            f"{join(stored.uri, 'report.json')}: found no verdict; run {child.name} is not finished"
        )


def _find_again(folder: StudyFolder, store: Storage) -> None:
    for path in (folder.picture, folder.artefact):
        try:
            write_bytes(path, store.get(path.name))
        except MissingInputError:
            return
