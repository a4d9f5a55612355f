"""`rewarm plan`: what would happen, before a GPU is spent."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rewarm_api.errors import ManifestError
from rewarm_api.quantity import format_tokens
from rewarm_cli import document, planning, speeding
from rewarm_cli.output import Output, emit, say, show, table, warn

if TYPE_CHECKING:
    from rewarm_api.pins import Pins
    from rewarm_api.snapshot import Plan, Snapshot


def execute(path: Path, changes: Sequence[str], at: str, plot: Path | None, output: Output) -> int:
    """0; 64 for an invalid manifest or a position beyond the plan; 66 for a missing file."""
    try:
        checked = document.check(path, changes, local=None)
    except ManifestError as error:
        return refuse(document.validation_json(error.problems), error, output)
    if not checked.validation.valid:
        return refuse(checked.problems_json(), ManifestError(checked.validation.problems), output)
    warn(checked.validation.warnings)
    snapshot = checked.snapshot()
    root = path.absolute().parent
    pins = prepared(snapshot, root) if planning.needs_counts(snapshot) else None
    plan = pins.plan if pins else snapshot.plan or branch_plan(snapshot, root)

    from rewarm_cli.parameters import count_parameters
    from rewarm_cli.resolving import resolutions

    mixture = planning.mixture_of(snapshot, pins, plan)
    positions = planning.parse_positions(at, plan)
    if not at and output is Output.TABLE:
        positions = tuple(planning.default_positions(plan))
    parameters = count_parameters(snapshot.base_model, root)
    facts = planning.plan_facts(snapshot, plan, mixture, pins=pins, at=positions, parameters=parameters)
    facts["resolution"] = resolutions(snapshot, pins, root)
    config, vocabulary = speeding.config_of(snapshot.base_model, root), pins.vocabulary if pins else None
    facts["speed"] = speeding.technique_facts(
        snapshot, plan, parameters, vocabulary, config, *speeding.machine_for(snapshot, checked.document)
    )
    if plot is not None:
        from rewarm_cli.plot import draw

        draw(plot, snapshot, plan, mixture)
        say(f"plot: {plot}")
    if output is Output.JSON:
        emit(facts)
    else:
        _show(facts)
    return 0


def refuse(answer: dict[str, Any], error: ManifestError, output: Output) -> int:
    """An invalid manifest: lines for people on standard error, validate's JSON for scripts on standard output."""
    if output is Output.JSON:
        emit(answer)
    for problem in error.problems:
        say(f"error: {problem}")
    return error.exit_code


def branch_plan(snapshot: Snapshot, root: Path) -> Plan:
    """The plan of a branch: its trunk's folder says where the learning rate begins; no corpus is prepared."""
    from rewarm_api.resolve import make_plan
    from rewarm_trainer.base import locate
    from rewarm_trainer.run import cache_folder

    assert snapshot.budget.tokens is not None, "needs_counts has asserted that"
    base = locate(snapshot, root, cache_folder(snapshot.cache_uri, root), None)
    return make_plan(snapshot, snapshot.budget.tokens, base.pin["learning_rate"])


def prepared(snapshot: Snapshot, root: Path) -> Pins:
    """Counts that only the data can tell: prepares the corpora into the user's cache, as the run itself would."""
    import sys

    from rewarm_trainer.base import locate
    from rewarm_trainer.corpus.prepare import prepare
    from rewarm_trainer.corpus.tokenizer import TokenizerHandle
    from rewarm_trainer.from_run import earlier_sources
    from rewarm_trainer.progress import Progress
    from rewarm_trainer.run import cache_folder

    cache = cache_folder(snapshot.cache_uri, root)
    base = locate(snapshot, root, cache, None)
    with Progress.create(sys.stderr) as progress:
        found = prepare(
            snapshot,
            root=root,
            cache=cache,
            tokenizer=TokenizerHandle.load(base.folder, snapshot.training.document_start) if base.folder else None,
            progress=progress.prepare,
            base_model=base.pin,
            earlier=earlier_sources(snapshot, root, cache),
        )
    warn(found.warnings)
    return found.pins


def _phase(item: dict[str, Any], longest: int) -> str:
    """A phase's name, and what its rows have of their own."""
    by = f", by {item['order_by']}" if item["order_by"] else ""
    rows = f", rows of {item['sequence_length']}" if item["sequence_length"] != longest else ""
    return f"{item['name']}{by}{rows}"


def _show(facts: dict[str, Any]) -> None:
    for line in planning.summary(facts):
        print(line)
    segments = [
        (item["kind"], format_tokens(item["start"]), format_tokens(item["end"]), f"{item['from']:g}", f"{item['to']:g}")
        for item in facts["segments"]
    ]
    sources = [
        (
            name,
            item["group"],
            f"{item['share']:.2%}",
            str(item["rows"]),
            format_tokens(item["tokens"]),
            "" if item["epochs"] is None else f"{item['epochs']:.2f}",
        )
        for name, item in facts["sources"].items()
    ]
    phases = [
        (
            _phase(item, facts["sequence_length"]),
            f"{item['first_step']} - {item['last_step']}",
            f"{item['replay_ratio']:.4g}",
            f"{item['from']:.4g}",
            f"{item['to']:.4g}",
            ", ".join(f"{name} {format_tokens(tokens)}" for name, tokens in item["sources"].items() if tokens),
        )
        for item in facts["phases"]
    ]
    head = ("phase", "steps", "replay", "learning rate", "to", "tokens")
    names = list(facts["sources"])
    positions = [
        (
            format_tokens(item["tokens"]),
            f"{item['learning_rate']:.4g}",
            *(str(item["sources"][name]) for name in names),
        )
        for item in facts["at"]
    ]
    from rewarm_cli.resolving import footnotes, rows

    speed = [
        (each["name"], "on" if each["on"] else "off", each["why"], each["switch"])
        for each in facts["speed"]["techniques"]
    ]
    columns = ("set", "role", "documents", "interval ±", "found in 8 of 10 runs")
    show(
        table("Schedule", ("segment", "from token", "to token", "learning rate", "to"), segments),
        *([table("Phases", head, phases, words=1)] if phases else []),
        table("Mixture", ("source", "group", "share", "rows", "tokens", "epochs"), sources, words=2),
        table("Smallest change that shows, nats per token", columns, rows(facts["resolution"]), words=2),
        table(f"Speed on {facts['speed']['where']}", ("technique", "", "why", "switch"), speed, words=4),
        table("At", ("tokens", "learning rate", *(f"rows of {name}" for name in names)), positions, words=0),
    )
    for line in footnotes(facts["resolution"]):
        print(line)
