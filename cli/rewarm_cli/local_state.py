"""What a work folder says of its run, in the words of a run on a cluster. Writes only what the client adds to it."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rewarm_api.errors import DependencyError, ManifestError, MissingInputError, Problem
from rewarm_cli.records import LogLine, Run, RunEvent, status_of

_PAUSED = ("Preempted", "Suspended")


def rfc3339(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def is_run(place: Path) -> bool:
    """Whether the folder holds a run that was not deleted."""
    named = place.joinpath("submitted.json").exists() or place.joinpath("snapshot.json").exists()
    return named and not place.joinpath("deleted").exists()


def submitted(place: Path) -> dict[str, Any] | None:
    """What was asked for when the run was last started; None when `rewarm run` started it."""
    return _json(place / "submitted.json")


def write(place: Path, content: Mapping[str, Any]) -> None:
    """`submitted.json`, whole or not at all."""
    temporary = place / "submitted.json.new"
    temporary.write_text(json.dumps(content, indent=1))
    temporary.replace(place / "submitted.json")


def order_of(place: Path) -> dict[str, Any]:
    """Document and root to start the run with again: as submitted, or as `rewarm run` noted them."""
    told = submitted(place)
    if told is not None:
        return {key: told[key] for key in ("document", "root", "processes")}
    noted = _json(place / "state" / "manifest.json")
    if noted is None:
        raise MissingInputError(f"{place}: found no manifest of the run in its folder; start it with `rewarm run FILE`")
    return {"document": noted["manifest"], "root": noted["root"]}


def alive(place: Path) -> bool:
    """Whether a process of the run lives: it, or its workers, hold one of the folder's locks."""
    return any(_held(path) for path in (place / "process.lock", place / "state" / "lock"))


def _held(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def process_of(place: Path) -> int | None:
    """The process to be signalled: the one that was started here, else the one that the log names."""
    if _held(place / "process.lock"):
        return int((submitted(place) or {})["pid"])
    started = [record for record in _records(place) if record.get("event") == "attempt started"]
    return int(started[-1]["pid"]) if started and "pid" in started[-1] else None


def run_of_folder(place: Path) -> Run:
    """The run with its status, as an operator would have written it."""
    order = submitted(place) or {}
    snapshot = _json(place / "snapshot.json") or {}
    document = order.get("document") or (_json(place / "state" / "manifest.json") or {}).get("manifest") or {}
    spec = {**(document.get("spec") or {}), "suspend": bool(order.get("suspended"))}
    status = _status(place, snapshot, order)
    metadata = {"name": place.name, "uid": str(snapshot.get("uid", "")), "creationTimestamp": order.get("created", "")}
    return Run(
        name=place.name, namespace="", uid=metadata["uid"], created=metadata["creationTimestamp"], spec=spec,
        status=status_of(status),
        object={
            "apiVersion": "rewarm.dev/v1alpha1", "kind": "ContinualRun",
            "metadata": metadata, "spec": spec, "status": status,
        },
    )  # fmt: skip


def _status(place: Path, snapshot: Mapping[str, Any], order: Mapping[str, Any]) -> dict[str, Any]:
    records, running = _records(place), alive(place)
    report = None if running else _json(place / "report.json")
    status = _told(place, snapshot, records, report)
    attempts = _attempts(records, running)
    outcome = (report or {}).get("outcome", "")
    summary, conditions = _conditions(records, running, outcome, report or {}, bool(order.get("suspended")))
    promotion = _json(place / "state" / "promotion.json")
    if promotion is not None:
        status["promotion"] = promotion
    return status | {
        "summary": summary,
        "conditions": conditions,
        "counts": {"attempts": len(attempts), "failures": 0, "disruptions": 0},
        "attempts": attempts[-10:],
    }


def _told(
    place: Path, snapshot: Mapping[str, Any], records: list[dict[str, Any]], report: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Progress, losses, gates, replay and checkpoint, gathered as the trainer gathers them for the operator."""
    from rewarm_api.pins import Pins
    from rewarm_trainer.told import Told

    pins = place / "pins.json"
    if not snapshot or not pins.exists():
        return {}
    plan = Pins.model_validate_json(pins.read_text()).plan
    told = Told(plan, snapshot["replay"]["ratio"])
    for record in records:
        told.record(record, rfc3339(record.get("time") or 0.0))
    if report is not None and report.get("sets"):
        told.report(report)
    fields = told.fields()
    version = fields.pop("model_version", "")
    run_id = ((report or {}).get("tracking") or {}).get("run_id", "")
    status = {
        key: [_dump(item) for item in value] if isinstance(value, list) else _dump(value)
        for key, value in fields.items()
        if key not in ("attempt", "outcome", "warnings", "decisions")
    }
    status["learningRate"] = status.pop("learning_rate", None)
    status["tracking"] = {"runId": run_id, "modelVersion": version}
    return {key: value for key, value in status.items() if value is not None}


def _dump(value: Any) -> Any:
    return value.model_dump(mode="json", by_alias=True, exclude_none=True) if hasattr(value, "model_dump") else value


def _attempts(records: list[dict[str, Any]], running: bool) -> list[dict[str, Any]]:
    from rewarm_trainer.runlog import derive_attempts

    times, ends = (
        {record.get("number"): rfc3339(record.get("time") or 0.0) for record in records if record.get("event") == kind}
        for kind in ("attempt started", "attempt ended")
    )
    found = []
    for attempt in derive_attempts(records):
        number = attempt.number
        item: dict[str, Any] = {
            "number": number,
            "firstStep": attempt.first_step,
            "lastStep": max(0, attempt.last_step),
            "tokensRecomputed": attempt.tokens_recomputed,
            "startTime": times.get(number, ""),
        }
        if number in ends or not running or number != len(times):
            item |= {"cause": attempt.cause, "endTime": ends.get(number, "")}
        found.append(item)
    return found


def _conditions(
    records: list[dict[str, Any]], running: bool, outcome: str, report: Mapping[str, Any], suspended: bool
) -> tuple[str, list[dict[str, Any]]]:
    """Summary for eyes, and the conditions that a folder can tell of."""
    message = str(report.get("message") or "")
    paused = outcome in _PAUSED or (suspended and not outcome)
    ended = bool(outcome) and outcome not in _PAUSED
    truth = {True: "True", False: "False"}
    conditions = [_condition("Running", truth[running], "" if running else "the process has ended")]
    if outcome == "Succeeded":
        results = {gate["result"] for gate in report.get("gates", ())}
        reason = "NoGates"
        if results:
            reason = (
                "GatesFailed" if "Fail" in results else "GatesPassed" if results == {"Pass"} else "GatesInconclusive"
            )
            conditions.append(_condition("GatesPassed", truth[reason == "GatesPassed"]))
        conditions.insert(0, _condition("Succeeded", "True", reason=reason))
        return "Succeeded", conditions
    conditions.insert(0, _condition("Succeeded", "False" if ended else "Unknown", message, outcome if ended else ""))
    conditions.append(_condition("Suspended", truth[paused and not running]))
    if ended:
        return "Failed", conditions
    if not running:
        return "Suspended", conditions
    begun = any(record.get("event") == "attempt started" for record in records)
    return "Training" if begun else "Preparing", conditions


def _condition(kind: str, status: str, message: str = "", reason: str = "") -> dict[str, Any]:
    return {"type": kind, "status": status, "reason": reason, "message": message}


def events(place: Path, run: Run) -> list[RunEvent]:
    """Every event of the log."""
    found = []
    for record in _records(place):
        kind = record.get("event")
        if not isinstance(kind, str):
            continue
        facts = {key: value for key, value in record.items() if key not in ("event", "time", "sets", "pid")}
        words = record.get("message") or ", ".join(
            f"{key} {value}" for key, value in facts.items() if isinstance(value, (str, int, float))
        )
        found.append(
            RunEvent(
                time=rfc3339(record.get("time") or 0.0),
                type="Warning" if kind in ("warning", "decision") else "Normal",
                reason="".join(word.capitalize() for word in kind.split()),
                message=str(words),
                about=f"ContinualRun/{run.name}",
            )
        )
    return found


def outputs(place: Path) -> list[tuple[int, Path]]:
    """What each start wrote, by number."""
    files = [path for path in place.joinpath("output").glob("*.log") if path.stem.isdigit()]
    return sorted((int(path.stem), path) for path in files)


def new_lines(path: Path, number: int, told: dict[int, int], tail: int | None, *, whole: bool) -> Iterator[LogLine]:
    """Lines that were not told yet; `told` keeps how many bytes were. An unfinished line only at the end."""
    with open(path, "rb") as file:
        first = number not in told
        file.seek(told.get(number, 0))
        content = file.read()
    if not whole:
        content = content[: content.rfind(b"\n") + 1]
    told[number] = told.get(number, 0) + len(content)
    lines = content.decode(errors="replace").splitlines()
    if first and tail is not None:
        lines = lines[len(lines) - tail :] if tail else []
    for line in lines:
        yield LogLine(time="", role="trainer", attempt=number, rank=0, text=line)


def move_alias(place: Path, version: str) -> None:
    """Point the run's alias at a version, and note the answer. Raises ManifestError (64) without alias or version."""
    from rewarm_api.pins import Pins
    from rewarm_trainer.registration import open_tracker
    from rewarm_trainer.workdir import WorkFolder, read_snapshot

    work = WorkFolder(place)
    snapshot = read_snapshot(work)
    alias, model = snapshot.tracking.promote_alias, snapshot.tracking.registered_model
    if not alias or not version:
        raise ManifestError(
            Problem(
                "spec.tracking.promoteAlias" if not alias else f"model {model}",
                "nothing",
                "what to promote to",
                "name it",
            )
        )
    tracker = open_tracker(work, snapshot, Pins.model_validate_json(work.pins.read_text()))
    moved = tracker.set_alias(model, alias, version)
    problem = tracker.problem
    tracker.finish("FINISHED")
    if not moved:
        raise DependencyError(
            f"alias {alias} of model {model} is not moved to version {version}: {problem or 'no answer'}"
        )
    answer = {"promoted": True, "reason": f"{alias} is version {version}, by hand"}
    work.state.joinpath("promotion.json").write_text(json.dumps(answer))


def _records(place: Path) -> list[dict[str, Any]]:
    from rewarm_trainer.runlog import read_records

    try:
        return read_records(place / "log.jsonl")
    except MissingInputError:
        return []


def _json(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None
