"""`rewarm submit` and `rewarm status` on a MixtureStudy: sent to a cluster as a run is, and shown on one screen.

A study is named `study/NAME` where a run's name could stand. Its runs are runs: every other word takes them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rewarm_api.errors import ManifestError, Problem
from rewarm_cli.output import Form, emit, emit_yaml, say, show, table, warn

if TYPE_CHECKING:
    from rewarm_cli.where import Where

Json = Mapping[str, Any]

PREFIXES = ("study/", "mstudy/", "mixturestudy/")


def is_study(document: Json) -> bool:
    return document.get("kind") == "MixtureStudy"


def named(name: str) -> str:
    """The study's name in `study/NAME`; empty for a run's name."""
    return next((name.removeprefix(prefix) for prefix in PREFIXES if name.startswith(prefix)), "")


def submit(where: Where, document: dict[str, Any], dry_run: bool, output: Form, *, waits: bool = False) -> int:
    """Create the study, or update it; its problems come before any cluster is asked."""
    from rewarm_api.reading import without_nulls
    from rewarm_api.study_rules import validate_study

    checked = validate_study(document, local=False)
    warn(checked.warnings)
    if not checked.valid:
        raise ManifestError(checked.problems)
    if waits:
        fix = f"kubectl wait --for=condition=Succeeded mstudy/{document['metadata']['name']}"
        raise ManifestError(Problem("--wait", "a study", "a run to wait for", fix))
    namespace = where.namespace or document["metadata"].get("namespace") or ""
    where = where._replace(namespace=namespace)
    found, action = where.kubernetes().apply_study(without_nulls(document), dry_run=dry_run)
    name = str(found["metadata"]["name"])
    if output is Form.TABLE:
        print(f"mixturestudy.rewarm.dev/{name} {action}" + (" (dry run)" if dry_run else ""), flush=True)
        if not dry_run:
            say(f"next: {where.root()} status study/{name}{where.options(str(found['metadata']['namespace']))}")
    else:
        _object(found, output)
    return 0


def status(where: Where, name: str, output: Form) -> int:
    """Runs, answers, and what it needs."""
    found = where.kubernetes().get_study(name)
    if output is not Form.TABLE:
        _object(found, output)
        return 0
    seen: Json = found.get("status") or {}
    runs: Json = seen.get("runs") or {}
    counts = ", ".join(f"{runs.get(kind, 0)} {kind}" for kind in ("finished", "running", "failed"))
    rows = [("status", str(seen.get("summary") or "Pending")), ("runs", f"{runs.get('total', 0)}: {counts}")]
    rows += [("artefact", str((seen.get("artefact") or {}).get("uri")))] if seen.get("artefact") else []
    rows += list(_told(seen))
    show(table(f"Study {name}", ("", ""), rows, words=2))
    answers = list(_answers(seen))
    if answers:
        columns = ("question", "model", "tokens", "replay", "95 % interval", "law")
        show(table("Answers", columns, answers, words=2))
    warn(seen.get("warnings") or ())
    return 0


def _told(seen: Json) -> Iterator[tuple[str, str]]:
    """Conditions that a person waits for, and those that ask for help."""
    for each in seen.get("conditions") or ():
        kind, status = each["type"], each["status"]
        asks = kind in ("Stalled", "Degraded") and status == "True"
        if asks or kind == "Succeeded" or (kind == "SpecValid" and status == "False"):
            yield kind.lower(), ": ".join(filter(None, (status, each.get("reason"), each.get("message"))))


def _answers(seen: Json) -> Iterator[tuple[str, ...]]:
    answers: Json = seen.get("answers") or {}
    for item in answers.get("largestShare") or ():
        yield (f"old text within {item.get('tolerance')}", *_answer(item))
    for item in answers.get("bestForCorpus") or ():
        yield (f"best for {item.get('corpusTokens')} tokens of new text", *_answer(item))


def _answer(item: Json) -> tuple[str, ...]:
    ratio, low, high = item.get("replayRatio"), item.get("low"), item.get("high")
    shown = "none" if ratio is None else f"{ratio:g}" + (" (a bound)" if item.get("atBorder") else "")
    interval = "" if low is None or high is None else f"{low:.4f} to {high:.4f}"
    return str(item.get("model") or ""), str(item.get("tokens") or ""), shown, interval, str(item.get("law") or "")


def _object(found: Json, output: Form) -> None:
    if output is Form.NAME:
        print(f"mixturestudy.rewarm.dev/{found['metadata']['name']}", flush=True)
    else:
        (emit if output is Form.JSON else emit_yaml)(found)
