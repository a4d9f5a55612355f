"""The ratio of a run on a cluster that cites a study: asked once by preparation, and the same for every pod after it.

What the run's own folder says wins; else what was pinned for this very run; else the study is asked, which lies beside
the run, and the answer is pinned.
"""

from __future__ import annotations

import hashlib
import json

from rewarm_api.corpus import CitedRatio
from rewarm_api.errors import MissingInputError
from rewarm_api.snapshot import CitedStudy, Snapshot
from rewarm_trainer.addresses import sibling_uri
from rewarm_trainer.files import write_bytes
from rewarm_trainer.pod_settings import Pod
from rewarm_trainer.storage import Storage, open_storage
from rewarm_trainer.workdir import WorkFolder

PINNED = "cited.json"
_FIELD = "spec.replay.fromStudy"


def with_citation(pod: Pod, work: WorkFolder, snapshot: Snapshot, pinned: Storage) -> Snapshot:
    """The snapshot with the ratio that its study answers; as it is when it cites none."""
    asked = snapshot.replay.asked
    if asked is None:
        return snapshot
    cited = _own(work) or _pinned(pinned)
    if cited is None or cited.asked != asked:
        answer = _ask(pod, snapshot, asked)
        pinned.put_if_absent(PINNED, (json.dumps(answer.to_json(), indent=1) + "\n").encode())
        # Of two preparations at once the first one's answer holds.
        cited = _pinned(pinned) or answer
    replay = snapshot.replay.model_copy(update={"ratio": cited.ratio, "cited": cited, "asked": None})
    return snapshot.model_copy(update={"replay": replay})


def _own(work: WorkFolder) -> CitedStudy | None:
    if not work.snapshot.exists():
        return None
    cited = json.loads(work.snapshot.read_text())["replay"].get("cited")
    return None if cited is None else CitedStudy.model_validate(cited)


def _pinned(pinned: Storage) -> CitedStudy | None:
    try:
        return CitedStudy.model_validate_json(pinned.get(PINNED))
    except MissingInputError:
        return None


def _ask(pod: Pod, snapshot: Snapshot, asked: dict[str, object]) -> CitedStudy:
    from rewarm_trainer.study.artefact import load_artefact
    from rewarm_trainer.study.citation import answered
    from rewarm_trainer.study.folder import ARTEFACT

    name = str(asked["fromStudy"])
    uri = sibling_uri(snapshot, name, _FIELD)
    store = open_storage(uri, root=pod.home)
    try:
        data = store.get(ARTEFACT)
    except MissingInputError:
        raise MissingInputError(
            f"{_FIELD}: found no {store.uri(ARTEFACT)}, expected that of a finished study; correct the name, or wait: "
            "the run goes on when the study is there"
        ) from None
    folder = pod.cache / "studies" / f"{name}-{hashlib.sha256(uri.encode()).hexdigest()[:12]}"
    write_bytes(folder / ARTEFACT, data)
    assert snapshot.plan is not None, "a citation with a budget in epochs is refused by validation"
    return answered(CitedRatio.model_validate(asked), load_artefact(folder), snapshot.plan.tokens, uri)
