"""The prepare Job: from a snapshot to shards in the shared cache and pins, once per run. Imports no torch.

snapshot -> the run's own folder (wins) -> pins of this uid (win) -> prepare -> pins, put if absent -> own folder
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from rewarm_api.errors import ManifestError, MissingInputError, Problem
from rewarm_api.pins import Pins
from rewarm_api.reported import PinsSummary, SourceCount
from rewarm_api.snapshot import Snapshot
from rewarm_trainer.addresses import cache_uri, checkpoints_uri, join
from rewarm_trainer.corpus.mirror import Mirror
from rewarm_trainer.corpus.prepare import shared_cache
from rewarm_trainer.experiment import changes
from rewarm_trainer.files import write_bytes
from rewarm_trainer.pod_citation import with_citation
from rewarm_trainer.pod_settings import Pod, experiment_digest
from rewarm_trainer.progress import Progress
from rewarm_trainer.reporter import Reporter
from rewarm_trainer.run import prepare_run, prepared_folders
from rewarm_trainer.storage import Storage, open_storage
from rewarm_trainer.stored import StoredRun
from rewarm_trainer.workdir import RunLog, WorkFolder, write_snapshot

PINS = "pins.json"


class Telling(Progress):
    """Passes progress on, and takes each sign of it as a sign of life."""

    def __init__(self, inner: Progress, reporter: Reporter) -> None:
        self._inner, self._reporter = inner, reporter

    def prepare(self, stage: str, source: str, done: float, total: float | None, unit: str) -> None:
        self._reporter.alive()
        self._inner.prepare(stage, source, done, total, unit)

    def event(self, text: str) -> None:
        self._inner.event(text)


def prepare(pod: Pod, reporter: Reporter) -> PinsSummary:
    """Prepare the run of this pod; found again where it was prepared before."""
    work, snapshot = open_work(pod)
    uri = cache_uri(snapshot)
    pins_store = pinned_at(pod, snapshot)
    own = read_pins(work)
    known = own or stored_pins(pins_store)
    progress = Telling(Progress.create(sys.stderr), reporter)
    while True:
        if known:
            write_pins(work, known)
        pins = prepare_run(work, snapshot, work.root, pod.cache, progress, uri)
        if pins_store.put_if_absent(PINS, pins_text(pins)) or own:
            break
        # Another preparation of this run was faster: its pins hold, the same text is expected.
        known = stored_pins(pins_store)
        if known == pins:
            break
    share(shared_cache(pod.cache, uri), pod, pins)
    StoredRun.of(work, checkpoints_uri(snapshot)).save()
    return summary(pins, snapshot, pins_store.uri(PINS))


def open_work(pod: Pod) -> tuple[WorkFolder, Snapshot]:
    """The work folder as the run's own folder has it, with this run's snapshot. 64 when it is another experiment's."""
    work, snapshot = WorkFolder(pod.work), pod.snapshot()
    work.root.mkdir(parents=True, exist_ok=True)
    stored = StoredRun.of(work, checkpoints_uri(snapshot))
    warnings: list[str] = []
    stored.restore(warnings.append)
    # Only now: the log that they go to is among what came.
    warn(work, warnings)
    if snapshot.replay.asked is not None:
        snapshot = with_citation(pod, work, snapshot, pinned_at(pod, snapshot))
    check_experiment(work, snapshot, stored.uri)
    write_snapshot(work, snapshot)
    return work, snapshot


def warn(work: WorkFolder, messages: Sequence[str]) -> None:
    """Warnings go to the log of the run as well as to that of the pod."""
    if not messages:
        return
    log = RunLog(work.log)
    for message in messages:
        print(f"warning: {message}", file=sys.stderr, flush=True)
        log.write({"event": "warning", "message": message})
    log.close()


def check_experiment(work: WorkFolder, snapshot: Snapshot, where: str) -> None:
    """ManifestError (64), naming the fields that differ, when the stored folder is another experiment's."""
    if not work.snapshot.exists():
        return
    value = json.loads(work.snapshot.read_text())
    if value.pop("digest", None) == snapshot.digest:
        return
    found = changes(Snapshot.model_validate(value), snapshot, {}, {})
    raise ManifestError(
        [
            Problem(
                change.field,
                json.dumps(change.new),
                f"{json.dumps(change.old)}, as the run began that has {where}",
                "undo the change, or give the new experiment a checkpoints.uri (or a name) of its own",
            )
            for change in found
        ]
    )


def pinned_at(pod: Pod, snapshot: Snapshot) -> Storage:
    """Where the pins of this very run lie, whatever its name."""
    return open_storage(join(cache_uri(snapshot), "runs", snapshot.uid), root=pod.home)


def read_pins(work: WorkFolder) -> Pins | None:
    return Pins.model_validate_json(work.pins.read_text()) if work.pins.exists() else None


def stored_pins(store: Storage) -> Pins | None:
    try:
        return Pins.model_validate_json(store.get(PINS))
    except MissingInputError:
        return None


def pins_text(pins: Pins) -> bytes:
    return (json.dumps(pins.to_json(), indent=1) + "\n").encode()


def write_pins(work: WorkFolder, pins: Pins) -> None:
    write_bytes(work.pins, pins_text(pins))


def share(mirror: Mirror, pod: Pod, pins: Pins) -> None:
    """Give what was prepared to the pods that will train."""
    for folder in prepared_folders(pins, pod.cache):
        mirror.store(folder)


def summary(pins: Pins, snapshot: Snapshot, uri: str) -> PinsSummary:
    """The pins in short, for the termination message."""
    sources = {
        name: SourceCount(documents=pin.documents, tokens=pin.tokens, rows=pin.rows)
        for name, pin in pins.sources.items()
    }
    digest = experiment_digest(snapshot, pins)
    return PinsSummary(uri=uri, digest=digest, tokens=pins.plan.tokens, steps=pins.plan.steps, sources=sources)
