"""What each word for runs on a cluster does: asks the client, shows the answer, names the next command.

Results go to standard output, progress and hints to standard error. Decides exit codes: 0, or 1 for "no".
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rewarm_api.errors import ManifestError, Problem, RewarmError
from rewarm_cli import durations, status_view, study_words
from rewarm_cli.client import RewarmClient
from rewarm_cli.output import Form, console, emit, emit_yaml, say, show, table, warn
from rewarm_cli.records import Run
from rewarm_cli.status_view import one_line
from rewarm_cli.where import Where as Where

NO = 1
"""The run ended otherwise, or the answer is no."""


def submit(
    where: Where,
    path: Path,
    changes: Sequence[str],
    name: str,
    wait_for_end: bool,
    follow: bool,
    dry_run: bool,
    output: Form,
) -> int:
    from rewarm_api.validate import validate
    from rewarm_cli import document

    content = document.read(path, changes)
    if name and isinstance(content.get("metadata"), dict):
        content["metadata"]["name"] = name
    if study_words.is_study(content):
        return study_words.submit(where, content, dry_run, output, waits=wait_for_end or follow)
    checked = validate(content, local=False)
    warn(checked.warnings)
    if not checked.valid:
        # Before any cluster is asked for anything.
        raise ManifestError(checked.problems)
    namespace = where.namespace or (content.get("metadata") or {}).get("namespace") or ""
    if not isinstance(namespace, str):
        namespace = ""
    where = where._replace(namespace=namespace)
    client = where.client()
    run = client.submit(content, dry_run=dry_run)
    _answer(run, output, run.action + (" (dry run)" if dry_run else ""))
    if dry_run:
        return 0
    if follow:
        _print_logs(client, run.name, follow=True)
    if follow or wait_for_end:
        return _wait_for(client, run.name, "Succeeded", "True", None, Form.TABLE)
    say(f"next: {where.command('status {} --watch', run)}")
    say(f"      {where.command('logs {} -f', run)}")
    return 0


def status(where: Where, name: str, watch: bool, output: Form) -> int:
    if study := study_words.named(name):
        return study_words.status(where, study, output)
    client = where.client()
    if not watch:
        run = client.get(name)
        if output is Form.TABLE:
            show(*status_view.status_view(run, _own_events(client, run), _now()))
        else:
            _object(run, output)
        return 0
    return _watch(client, name, output)


def _watch(client: RewarmClient, name: str, output: Form) -> int:
    """On a terminal one screen that stays; in a pipe a line, or an object, per change."""
    from rich.console import Group
    from rich.live import Live

    if output is not Form.TABLE or not sys.stdout.isatty():
        last = ""
        for run in client.watch(name):
            if run is None:
                break
            if output is not Form.TABLE:
                _object(run, output)
            elif (line := f"{run.name} {one_line(run)}") != last:
                print(line, flush=True)
                last = line
            if run.finished:
                break
        return 0
    with Live(console=console(), auto_refresh=False) as live:
        for run in client.watch(name):
            if run is None:
                break
            live.update(Group(*status_view.status_view(run, _own_events(client, run), _now())), refresh=True)
            if run.finished:
                break
    return 0


def list_runs(where: Where, all_namespaces: bool, selector: str, output: Form) -> int:
    client = where.client()
    runs = client.list(all_namespaces=all_namespaces, selector=selector)
    if output is Form.TABLE:
        if runs:
            show(table("", _columns(all_namespaces), [_row(run, all_namespaces) for run in runs], words=9))
        else:
            place = "any namespace" if all_namespaces else f"namespace {_namespace(client)}"
            say(f"no runs in {place}" + ("" if all_namespaces else "; -A lists every namespace"))
    elif output is Form.NAME:
        for run in runs:
            _object(run, output)
    else:
        items = {"apiVersion": "v1", "kind": "List", "items": [run.object for run in runs]}
        emit(items) if output is Form.JSON else emit_yaml(items)
    return 0


def _columns(all_namespaces: bool) -> list[str]:
    columns = ["name", "status", "done", "gain", "forgetting", "gates", "succeeded", "attempts", "age"]
    return ["namespace", *columns] if all_namespaces else columns


def _row(run: Run, all_namespaces: bool) -> list[str]:
    state = run.status
    gain = state.gain.mean if state.gain else None
    forgetting = state.forgetting.max if state.forgetting else None
    row = [
        run.name,
        run.summary,
        f"{state.progress.percent} %" if state.progress else "–",
        "–" if gain is None else f"{gain:+.3f}",
        "–" if forgetting is None else f"{forgetting:+.3f}",
        run.truth("GatesPassed"),
        run.truth("Succeeded"),
        str(state.counts.attempts) if state.counts else "0",
        durations.ago(run.created or None, _now()),
    ]
    return [run.namespace, *row] if all_namespaces else row


def logs(
    where: Where,
    name: str,
    follow: bool,
    attempt: int | None,
    rank: int | None,
    role: str | None,
    tail: int | None,
    timestamps: bool,
    prefix: bool,
) -> int:
    from rewarm_cli.logs import ROLES

    if role is not None and role not in ROLES:
        raise ManifestError(Problem("--role", role, "one of " + ", ".join(ROLES), "correct --role"))
    client = where.client()
    lines = _print_logs(
        client, name, follow=follow, attempt=attempt, rank=rank, role=role, tail=tail,
        timestamps=timestamps, prefix=prefix,
    )  # fmt: skip
    if not lines and not follow:
        run = client.get(name)
        say(f"no pod of {name} has written anything that still exists; it is {one_line(run)}")
    return 0


def _print_logs(
    client: RewarmClient, name: str, *, timestamps: bool = False, prefix: bool = True, **selection: Any
) -> int:
    count = 0
    for line in client.logs(name, **selection):
        if line.missed:
            say(f"warning: {line.text}")
            continue
        count += 1
        head = f"{line.prefix} | " if prefix else ""
        print(head + (f"{line.time} " if timestamps else "") + line.text, flush=bool(selection.get("follow")))
    return count


def events(where: Where, name: str, watch: bool, output: Form) -> int:
    client = where.client()
    if watch:
        for event in client.events(name, follow=True):
            if output is Form.TABLE:
                print(f"{event.time}  {event.type}  {event.reason}  {event.about}  {event.message}", flush=True)
            else:
                emit(event.model_dump())
        return 0
    found = list(client.events(name))
    if output is Form.TABLE:
        if found:
            show(status_view.events_table(found, _now()))
        else:
            say(f"no events of {name} are kept any more (a cluster forgets them after an hour)")
    elif output is Form.NAME:
        for event in found:
            print(event.reason)
    else:
        items = [event.model_dump() for event in found]
        emit(items) if output is Form.JSON else emit_yaml(items)
    return 0


def wait(where: Where, name: str, condition: str, timeout: str | None, output: Form) -> int:
    seconds = None if timeout is None else durations.parse(timeout, "--timeout")
    client = where.client()
    if condition == "delete":
        client.wait_deleted(name, timeout=seconds)
        say(f"run {name} is gone")
        return 0
    kind, status = _condition(condition)
    return _wait_for(client, name, kind, status, seconds, output)


def _condition(text: str) -> tuple[str, str]:
    """`condition=Succeeded`, `condition=Running=False`, or only the type."""
    from rewarm_api.status import CONDITION_TYPES
    from rewarm_cli.cluster_errors import meant

    kind, _, status = text.removeprefix("condition=").partition("=")
    kinds = {name.lower(): name for name in CONDITION_TYPES}
    statuses = {"": "True", "true": "True", "false": "False", "unknown": "Unknown"}
    if kind.lower() not in kinds:
        hint = meant(kind, list(kinds.values())) or "correct --for"
        raise ManifestError(
            Problem("--for", text, "delete, or condition= and one of " + ", ".join(CONDITION_TYPES), hint)
        )
    if status.lower() not in statuses:
        raise ManifestError(Problem("--for", text, "True, False or Unknown after the condition", "correct --for"))
    return kinds[kind.lower()], statuses[status.lower()]


def _wait_for(client: RewarmClient, name: str, kind: str, status: str, timeout: float | None, output: Form) -> int:
    told: list[str] = []

    def tell(run: Run) -> None:
        line = one_line(run)
        if not told:
            wanted = kind if status == "True" else f"{kind}={status}"
            say(f"waiting for {wanted} of run {name}; it is {line}")
        elif line != told[-1]:
            say(line)
        told.append(line)

    run = client.wait(name, condition=kind, status=status, timeout=timeout, on_change=tell)
    if run.truth(kind) == status:
        _answer(run, output, f"condition {kind} is {status}")
        return 0
    ended = run.condition("Succeeded")
    _answer(run, output, "ended: " + (status_view.condition_words(ended) if ended else run.summary))
    return NO


def suspend(where: Where, name: str, wait_until: bool, timeout: str | None, output: Form) -> int:
    seconds = None if timeout is None else durations.parse(timeout, "--timeout")
    client = where.client()
    run = client.get(name)
    if run.finished:
        raise ManifestError(
            Problem(f"run {name}", f"a run that has ended ({run.summary})", "a running one", "leave it")
        )
    run = client.suspend(name)
    if wait_until:
        run = client.wait(name, condition="Suspended", timeout=seconds)
        if run.truth("Suspended") != "True":
            _answer(run, output, f"ended before it was suspended: {one_line(run)}")
            return NO
    _answer(run, output, "suspended" if wait_until else "suspending: its pods commit a checkpoint and end")
    say(f"next: {where.command('resume {}', run)}")
    return 0


def resume(where: Where, name: str, output: Form) -> int:
    run = where.client().resume(name)
    _answer(run, output, "resumed: a new attempt goes on from the newest checkpoint")
    say(f"next: {where.command('status {} --watch', run)}")
    return 0


def promote(where: Where, name: str, version: str, wait_answer: bool, timeout: str, output: Form) -> int:
    client = where.client()
    run = client.get(name)
    if run.truth("GatesPassed") != "True" and not version:
        found = run.condition("GatesPassed")
        say(f"warning: gates have not passed ({status_view.condition_words(found) if found else 'not judged yet'}); "
            "you decide")  # fmt: skip
    run = client.promote(name, version=version, wait=wait_answer, timeout=durations.parse(timeout, "--timeout"))
    return _promoted(run, version, output)


def rollback(where: Where, name: str, to: str, wait_answer: bool, timeout: str, output: Form) -> int:
    client = where.client()
    to = to or client.earlier_version(name)
    run = client.rollback(name, to=to, wait=wait_answer, timeout=durations.parse(timeout, "--timeout"))
    return _promoted(run, to, output)


def _promoted(run: Run, version: str, output: Form) -> int:
    from rewarm_cli.records import PROMOTE

    if PROMOTE in run.annotations:
        _answer(run, output, f"asked the operator to promote {f'version {version}' if version else 'its model'}")
        return 0
    moved = RewarmClient.moved(run, version)
    reason = run.status.promotion.reason if run.status.promotion else "no reason was given"
    _answer(run, output, f"{'promoted' if moved else 'not promoted'}: {reason}")
    return 0 if moved else NO


def delete(where: Where, name: str, wait_until: bool, timeout: str | None, output: Form) -> int:
    seconds = None if timeout is None else durations.parse(timeout, "--timeout")
    client = where.client()
    run = client.delete(name)
    if wait_until:
        say(f"deleting run {name}: waiting until the operator has taken its Jobs away")
        client.wait_deleted(name, timeout=seconds)
    _answer(run, output, "deleted" if wait_until else "is being deleted")
    checkpoint = run.status.checkpoint
    kept = (run.spec.get("checkpoints") or {}).get("uri") or (checkpoint.uri if checkpoint else "")
    version = run.status.tracking.model_version if run.status.tracking else ""
    model = f"{run.registered_model} version {version}" if version else "registered models"
    say(f"its checkpoints ({kept or 'at the default place of the cluster'}) and {model} stay")
    return 0


def _answer(run: Run, output: Form, words: str) -> None:
    """What was done, as kubectl says it, or the object."""
    if output is Form.TABLE:
        print(f"continualrun.rewarm.dev/{run.name} {words}", flush=True)
    else:
        _object(run, output)


def _object(run: Run, output: Form) -> None:
    if output is Form.NAME:
        print(f"continualrun.rewarm.dev/{run.name}", flush=True)
    elif output is Form.JSON:
        emit(run.object)
    else:
        emit_yaml(run.object)


def _own_events(client: RewarmClient, run: Run) -> list[Any]:
    """Events of the run; none where they cannot be read, for they are not what was asked for."""
    try:
        return list(client.events(run.name))
    except RewarmError:
        return []


def _namespace(client: RewarmClient) -> str:
    return str(getattr(client.backend, "namespace", ""))


def _now() -> datetime:
    return datetime.now(UTC)
