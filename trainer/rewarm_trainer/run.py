"""`rewarm run`: the whole of a run on this machine, in one reading.

    lock the folder -> snapshot (made once, or compared) -> prepare (pins, made once) -> train and judge -> report

The folder's own snapshot and pins always win; start options of a restart change nothing.
"""

from __future__ import annotations

import json
import os
import sys
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rewarm_api.corpus import CitedRatio
from rewarm_api.errors import ManifestError, Problem, RewarmError
from rewarm_api.phase_plan import mean_ratio
from rewarm_api.pins import Pins
from rewarm_api.resolve import resolve
from rewarm_api.run import ContinualRun
from rewarm_api.snapshot import CitedStudy, Snapshot
from rewarm_api.validate import validate
from rewarm_trainer.experiment import changes, processes_problem
from rewarm_trainer.files import write_bytes, write_json
from rewarm_trainer.finish import read_report
from rewarm_trainer.progress import Progress
from rewarm_trainer.report import Facts, build_report
from rewarm_trainer.signals import StopRequest
from rewarm_trainer.techniques import Switches
from rewarm_trainer.workdir import RunLog, WorkFolder, read_snapshot, write_snapshot


def cache_folder(uri: str | None = None, root: Path | None = None) -> Path:
    """Where prepared corpora and baselines are kept: as the manifest says, else the user's cache folder."""
    if uri and "://" not in uri:
        return (root or Path.cwd()) / uri
    if uri and uri.startswith("file://"):
        return Path(uri.removeprefix("file://"))
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "rewarm"


def run_local(
    document: Mapping[str, Any],
    manifest: Path,
    workdir: Path,
    *,
    processes: int = 1,
    metrics_port: int | None = None,
) -> int:
    """Run a valid manifest to its report; returns the exit code. Starting it again resumes, or finds it finished."""
    work = WorkFolder(workdir)
    root = manifest.absolute().parent
    lock = work.lock()
    snapshot = adopt(work, document, root)
    report = read_report(work.report)
    if report and report.get("outcome") == "Succeeded":
        print(f"this run is finished; its report is {work.report}", file=sys.stderr)
        deliver(work, snapshot, report)
        return 0
    if problem := processes_problem(snapshot, processes):
        raise problem
    Switches.read(None, os.environ)  # refused now, not after preparation
    cache = cache_folder(snapshot.cache_uri, root)
    stop = StopRequest()
    stop.install()
    with Progress.create(sys.stderr) as progress:
        try:
            prepare_run(work, snapshot, root, cache, progress)
        except RewarmError as error:
            write_json(work.report, failed(snapshot, error, report))
            raise
        if processes == 1:
            from rewarm_trainer import worker

            worker.train(work, cache, stop, progress, metrics_port)
            return 0
    from rewarm_trainer.launch import Launcher

    return Launcher(work.root, cache, processes, metrics_port, lock).run()


def deliver(work: WorkFolder, snapshot: Snapshot, report: dict[str, Any]) -> None:
    """Hand a finished run to the registry when that was away at its end."""
    if report["tracking"].get("delivered", True):
        return
    from rewarm_trainer.registration import open_tracker, register

    pins = Pins.model_validate_json(work.pins.read_text())
    _, problem = register(open_tracker(work, snapshot, pins), work, snapshot, pins, report)
    print(f"tracking: {problem or 'delivered'}", file=sys.stderr)


def adopt(work: WorkFolder, document: Mapping[str, Any], root: Path) -> Snapshot:
    """The snapshot of the folder; made from the manifest the first time, compared with it ever after (64)."""
    validation = validate(dict(document), local=True)
    if validation.run is None or validation.problems:
        raise ManifestError(validation.problems)
    if not work.snapshot.exists():
        snapshot = resolve(validation.run, uid=str(uuid.uuid4()), cited=cite(validation.run, root))
        write_json(work.manifest, {"root": str(root), "manifest": document})
        write_snapshot(work, snapshot)
        return snapshot
    stored = read_snapshot(work)
    asked = resolve(validation.run, uid=stored.uid, cited=cite(validation.run, root, stored))
    before = json.loads(work.manifest.read_text())["manifest"] if work.manifest.exists() else {}
    problems = [
        Problem(
            change.field,
            json.dumps(change.new),
            f"{json.dumps(change.old)}, as this work folder's run began",
            f"undo the change, or give the new experiment a folder of its own with --workdir (this one: {work.root})",
        )
        for change in changes(stored, asked, before, document)
    ]
    if problems:
        raise ManifestError(problems)
    if stored.training.parallelism != asked.training.parallelism:
        # Where the state lies is no part of the experiment: a run that did not fit may go on sharded.
        how = stored.training.model_copy(update={"parallelism": asked.training.parallelism})
        stored = stored.model_copy(update={"training": how})
        write_snapshot(work, stored)
    return stored


def cite(run: ContinualRun, root: Path, stored: Snapshot | None = None) -> CitedStudy | None:
    """What the study that the run cites answers; None, without reading anything, when its ratio is a number."""
    if run.spec.replay is None or not isinstance(run.spec.replay.ratio, CitedRatio):
        return None
    from rewarm_trainer.study import citation

    return citation.cite(run, root, stored)


def cited_text(snapshot: Snapshot, pins: Pins) -> list[str]:
    """Warnings about the study that the run cites. ManifestError (64) when its law is of other text."""
    if snapshot.replay.cited is None:
        return []
    from rewarm_trainer.study import citation

    return citation.check_text(snapshot, pins)


def prepare_run(
    work: WorkFolder, snapshot: Snapshot, root: Path, cache: Path, progress: Progress, shared_uri: str | None = None
) -> Pins:
    """Pins of the run: read when they exist and their shards do, else made; the same text is expected again.

    `shared_uri`: the cache that machines share, if it is not that of the snapshot.
    """
    pins = Pins.model_validate_json(work.pins.read_text()) if work.pins.exists() else None
    if pins and is_prepared(pins, cache):
        from rewarm_trainer.lineage import remember

        remember(work, pins, cache)
        return pins
    return _prepare_anew(work, snapshot, root, cache, progress, pins, shared_uri)


def _prepare_anew(
    work: WorkFolder,
    snapshot: Snapshot,
    root: Path,
    cache: Path,
    progress: Progress,
    pins: Pins | None,
    shared_uri: str | None,
) -> Pins:
    """Tokenizes what is missing. `pins`: of an earlier preparation, whose shards are gone."""
    from rewarm_trainer.base import locate
    from rewarm_trainer.corpus.prepare import prepare
    from rewarm_trainer.corpus.tokenizer import TokenizerHandle
    from rewarm_trainer.from_run import check_tokenizer, earlier_sources
    from rewarm_trainer.lineage import inherit, keep_sets, lineage_of, restore_sets
    from rewarm_trainer.teacher import checked_teacher
    from rewarm_trainer.weights.named import locate_named, pins_of

    began = time.monotonic()
    check_benchmarks(snapshot, root)
    earlier = earlier_sources(snapshot, root, cache)
    base = locate(snapshot, root, cache, pins.base_model if pins else None)
    named = locate_named(snapshot, root, cache, pins.finish if pins else None)
    handle = TokenizerHandle.load(base.folder, snapshot.training.document_start) if base.folder else None
    prepared = prepare(
        snapshot,
        root=root,
        cache=cache,
        tokenizer=handle,
        fresh_tokenizer=work.tokenizer,
        progress=progress.prepare,
        base_model=base.pin,
        pins=pins,
        earlier=earlier,
        shared_uri=shared_uri,
    )
    check_tokenizer(earlier, prepared.pins.tokenizer)
    teacher = checked_teacher(snapshot, root, cache, pins, prepared.pins.tokenizer)
    if handle:
        # Beside every checkpoint lies the tokenizer that it was trained with, its base's.
        handle.save(work.tokenizer)
    warnings = list(prepared.warnings)
    if pins:
        found = pins
        restore_sets(work, pins, cache)
    else:
        lineage = lineage_of(base.pin, snapshot, root, cache)
        found = inherit(lineage, prepared.pins, prepared, snapshot, work, cache, warnings.append)
    keep_sets(work, found, cache)
    log = RunLog(work.log)
    for warning in [*warnings, *cited_text(snapshot, prepared.pins)]:
        log.write({"event": "warning", "message": warning})
        progress.event(f"warning: {warning}")
    log.close()
    link_corpora(work, {**prepared.source_folders, **{f"{n}.held-out": f for n, f in prepared.set_folders.items()}})
    write_json(work.state / "prepare.json", {"seconds": round(time.monotonic() - began, 3)})
    if pins is None:
        found = found.model_copy(update={"teacher": teacher and teacher.pin, "finish": pins_of(named)})
        _write_pins(work, found)
    return found


def _write_pins(work: WorkFolder, pins: Pins) -> None:
    write_bytes(work.pins, (json.dumps(pins.to_json(), indent=1) + "\n").encode())


def check_benchmarks(snapshot: Snapshot, root: Path) -> None:
    """Load every task of the benchmarks, so that one that is not there ends the run before anything is computed."""
    if snapshot.evaluation.benchmarks:
        from rewarm_trainer import harness

        harness.load(snapshot.evaluation.benchmarks, root)


def is_prepared(pins: Pins, cache: Path) -> bool:
    """Whether the cache still holds what the pins name."""
    return all(folder.is_dir() for folder in prepared_folders(pins, cache))


def prepared_folders(pins: Pins, cache: Path) -> list[Path]:
    """Everything that preparation leaves in the cache for a run: shards, sets, scores."""
    from rewarm_trainer.corpus.tokenise import folder_of

    folders = [folder_of(pin.prepared, "sources", cache) for pin in pins.sources.values()]
    folders += [folder_of(pin.prepared, "sets", cache) for pin in pins.sets.values()]
    folders += [folder_of(scores, "scores", cache) for pin in pins.sources.values() for scores in pin.scores.values()]
    return folders


def link_corpora(work: WorkFolder, folders: Mapping[str, Path]) -> None:
    """`corpora/NAME`: links into the content-addressed cache, for people; training goes by the pins."""
    work.corpora.mkdir(parents=True, exist_ok=True)
    for name, folder in folders.items():
        link = work.corpora / name
        link.unlink(missing_ok=True)
        link.symlink_to(folder, target_is_directory=True)


def failed(snapshot: Snapshot, error: RewarmError, before: Mapping[str, Any] | None) -> dict[str, Any]:
    """The report of a start that ended before training: the cause, and the sentence that says what to do.

    What an earlier attempt had reached (`before`, its report) still stands.
    """
    if before and before["tokens"]["trained"]:
        return {**before, "outcome": error.cause, "message": str(error)}
    return build_report(
        Facts(
            name=snapshot.name,
            uid=snapshot.uid,
            snapshot_digest=snapshot.digest,
            outcome=error.cause,
            message=str(error),
            requested_tokens=snapshot.plan.requested_tokens if snapshot.plan else 0,
            replay_requested=float(mean_ratio(snapshot.replay.ratio, snapshot.phases)),
        )
    )
