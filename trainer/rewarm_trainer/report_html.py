"""`report.html`: the report of a run as one self-contained page, without network, fonts or scripts.

Decides the order of what a reader meets (verdict, gates, curves, account, provenance); never a number. The words are
findings.py's, the curves report_curves.py's, the look is that of templates/report.html.j2.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rewarm_api.pins import Pins
from rewarm_api.quantity import format_tokens
from rewarm_api.snapshot import Group, Snapshot
from rewarm_trainer import benchmark_view, charts
from rewarm_trainer.findings import change, signed, verdict_sentences
from rewarm_trainer.heat_map import heat_map
from rewarm_trainer.report import load_report
from rewarm_trainer.report_curves import asked_shares, set_figures, training_figures
from rewarm_trainer.runlog import Attempt, Log, read_log
from rewarm_trainer.workdir import WorkFolder, read_snapshot

if TYPE_CHECKING:
    from jinja2 import Template

_ACTIVITIES = ("prepare", "baseline", "train", "evaluate", "checkpoint")
_NO_NUMBER = "–"
_INTERVAL = re.compile(r"\[[^\]]*\]")


def render_folder(folder: Path) -> str:
    """The page of the run in a work folder (MissingInputError, 66, when it holds no report)."""
    report = load_report(folder)
    work = WorkFolder(folder)
    snapshot = read_snapshot(work) if work.snapshot.exists() else None
    pins = Pins.model_validate_json(work.pins.read_bytes()) if work.pins.exists() else None
    log = read_log(work.log) if work.log.exists() else Log()
    return render_html(report, snapshot=snapshot, pins=pins, log=log)


def render_html(report: Mapping[str, Any], *, snapshot: Snapshot | None, pins: Pins | None, log: Log) -> str:
    """The page. Without snapshot or pins it leaves out what only they know (sources' licences, the recipe)."""
    if snapshot is not None and snapshot.plan is None and pins is not None:
        snapshot = snapshot.model_copy(update={"plan": pins.plan})  # a budget in epochs becomes one in preparation
    attempts = [
        Attempt(item["number"], item["cause"], item["first_step"], item["last_step"], item["tokens_recomputed"])
        for item in report["attempts"]
    ]
    page = _template().render(
        report={"chain": None, **report},
        heat_map=heat_map(report["chain"]) if report.get("chain") else "",
        change=change,
        figures=_key_figures(report),
        findings=verdict_sentences(report),
        sets=_sets(report),
        flips=benchmark_view.flip_rows(report),
        benchmarks=list(benchmark_view.rows(report.get("benchmarks") or {}, report.get("serving"))),
        tasks_counted=benchmark_view.count(report.get("benchmarks") or {}),
        set_figures=set_figures(report),
        training_figures=training_figures(report, log, snapshot, attempts),
        sources=_sources(report, snapshot, pins),
        phases=_phases(report),
        recipe=_recipe(snapshot, pins),
        times=_times(report),
        facts=_provenance(report, log),
        resolved=_resolved(snapshot),
    )
    return page


@cache
def _template() -> Template:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("rewarm_trainer", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        tokens=lambda value: _NO_NUMBER if value is None else format_tokens(int(value)),
        signed=lambda value, digits=3: _NO_NUMBER if value is None else signed(value, digits),
        fixed=lambda value, digits=4: _NO_NUMBER if value is None else f"{value:,.{digits}f}",
        percent=lambda value, digits=2: _NO_NUMBER if value is None else f"{value:.{digits}%}",
        share=benchmark_view.share,
        whole=lambda text: _INTERVAL.sub(lambda found: found[0].replace(" ", "\N{NO-BREAK SPACE}"), text),
        sentence=lambda text: text[:1].upper() + text[1:],
    )
    return environment.get_template("report.html.j2")


def _key_figures(report: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(label, number, what it means): the four numbers that people ask for first."""
    tokens, replay = report["tokens"], report["replay"]
    figures = []
    if report["gain"]["mean"] is not None:
        figures.append(("Gain", signed(report["gain"]["mean"]), "nats per token, mean over New sets"))
    if report["forgetting"]["max"] is not None:
        mean = signed(report["forgetting"]["mean"])
        figures.append(("Forgetting", signed(report["forgetting"]["max"]), f"nats per token, worst set; mean {mean}"))
    figures.append(("Replay", f"{replay['realized']:.2%}", f"of rows; asked {replay['requested']:.2%}"))
    speed = report["throughput"]["tokens_per_second"]
    pace = f"; {speed:,.0f} per second" if speed else ""
    figures.append(
        ("Tokens", format_tokens(tokens["trained"]), f"trained of {format_tokens(tokens['requested'])}{pace}")
    )
    return figures


def _sets(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each set, New ones first, with its interval drawn on a scale that all share."""
    bounds = [0.0]
    for value in report["sets"].values():
        bounds.extend(value["delta"][name] for name in ("mean", "low", "high") if value["delta"][name] is not None)
    margin = 0.06 * (max(bounds) - min(bounds)) or 1.0
    scale = (min(bounds) - margin, max(bounds) + margin)
    rows = []
    for name, value in sorted(report["sets"].items(), key=lambda item: item[1]["role"] != "New"):
        delta = value["delta"]
        tone = "tone-new" if value["role"] == "New" else "tone-old"
        known = all(delta[part] is not None for part in ("mean", "low", "high"))
        drawn = charts.interval_svg(delta["mean"], delta["low"], delta["high"], scale, tone) if known else ""
        text = change(delta).replace(" nats per token", "") if delta["mean"] is not None else _NO_NUMBER
        rows.append({"name": name, "interval": drawn, "change": text, "breakdown": None, **value})
    return rows


def _phases(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The phases of a run that had more than one."""
    phases = [{"name": "", **phase} for phase in report.get("phases") or [] if "tokens" in phase]
    return phases if len(phases) > 1 else []


def _sources(report: Mapping[str, Any], snapshot: Snapshot | None, pins: Pins | None) -> list[dict[str, Any]]:
    """A row for each source: what it is, how much was asked of it and how much was trained."""
    trained = report["tokens"]["by_source"]
    total = sum(trained.values())
    shares = asked_shares(snapshot, pins) if snapshot and pins else {}
    known = {source.name: source for source in snapshot.sources} if snapshot else {}
    rows = []
    for name in trained:
        source, pin = known.get(name), pins.sources.get(name) if pins else None
        rows.append(
            {
                "name": name,
                "group": str(source.group) if source else "",
                "license": source.license if source else None,
                "uri": source.uri if source else "",
                "documents": pin.documents if pin else None,
                "duplicates": pin.duplicates if pin else None,
                "digest": pin.digest if pin else "",
                "tokens": trained[name],
                "epochs": report["tokens"]["epochs"].get(name),
                "asked": shares.get(name),
                "realized": trained[name] / total if total else None,
            }
        )
    return sorted(rows, key=lambda row: (row["group"] == Group.REPLAY, row["name"]))


def _recipe(snapshot: Snapshot | None, pins: Pins | None) -> list[tuple[str, str]]:
    """What was done, in the manifest's own words."""
    if snapshot is None:
        return []
    training, schedule, optimizer = snapshot.training, snapshot.schedule, snapshot.training.optimizer
    rows = [
        ("Base model", describe_base(snapshot, pins)),
        ("Schedule", describe_schedule(snapshot)),
        ("Optimizer state at the start", schedule.optimizer_state),
        (
            "Optimizer",
            f"{optimizer.kind}, beta {optimizer.beta1:g} and {optimizer.beta2:g}, weight decay "
            f"{optimizer.weight_decay:g}, gradient clip {optimizer.gradient_clip:g}",
        ),
        ("Sequence length", f"{training.sequence_length:,} tokens"),
        ("Global batch", f"{training.global_batch_tokens:,} tokens"),
        ("Document masking", "on" if training.document_masking else "off"),
        ("Seed", str(training.seed)),
    ]
    if pins is not None:
        rows.append(("Vocabulary", f"{pins.vocabulary:,} tokens"))
    return rows


def describe_base(snapshot: Snapshot, pins: Pins | None) -> str:
    """The base model in a few words: its kind and what a name stood for when it was pinned."""
    pinned = pins.base_model if pins else {}
    values = {**snapshot.base_model.options, **{key: value for key, value in pinned.items() if key != "kind"}}
    plain = [f"{key} {value}" for key, value in values.items() if isinstance(value, str | int) and value != ""]
    return ", ".join([snapshot.base_model.kind, *plain])


def describe_schedule(snapshot: Snapshot) -> str:
    """The schedule in a few words."""
    schedule = snapshot.schedule
    if schedule.kind == "Anneal":
        final = charts.format_rate(schedule.final_learning_rate)
        return f"a branch: {schedule.anneal_decay} anneal over {schedule.anneal_length}, final {final}"
    words = [
        schedule.kind,
        f"peak {charts.format_rate(schedule.peak_learning_rate)}",
        f"warm-up {schedule.warmup}",
    ]
    if schedule.decay is not None:
        words.append(f"{schedule.decay} decay")
    if schedule.constant_learning_rate is not None:
        words.append(f"constant {charts.format_rate(schedule.constant_learning_rate)}")
    if schedule.anneal_length is not None:
        words.append(f"anneal {schedule.anneal_length}")
    words.append(f"final {charts.format_rate(schedule.final_learning_rate)}")
    return ", ".join(words)


def _times(report: Mapping[str, Any]) -> list[tuple[str, str, float]]:
    """(activity, duration in words, share of the whole)."""
    seconds = {name: report["throughput"]["seconds"].get(name) or 0.0 for name in _ACTIVITIES}
    total = sum(seconds.values())
    return [(name, duration(value), value / total) for name, value in seconds.items()] if total else []


def duration(seconds: float) -> str:
    """A time in its two largest units: `3 h 12 min`, `4 min 5 s`, `0.8 s`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for size, name, smaller, small_name in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size} {name} {rest} {small_name}" if rest else f"{whole // size} {name}"
    return f"{whole} s"


def _provenance(report: Mapping[str, Any], log: Log) -> list[tuple[str, str]]:
    """What identifies the run, its checkpoint and where else it is recorded."""
    rows = [("Run", report["run"]["uid"]), ("Snapshot", report["run"]["snapshot_digest"])]
    checkpoint, tracking = report["checkpoint"], report["tracking"]
    if checkpoint["uri"]:
        rows.append(("Checkpoint", f"{checkpoint['uri']} (step {checkpoint['step']:,})"))
        rows.append(("Checkpoint manifest", f"sha256 {checkpoint['sha256'].removeprefix('sha256:')}"))
    if tracking["run_id"]:
        rows.append(("MLflow run", tracking["run_id"]))
    if tracking["model_version"]:
        rows.append(("Model version", str(tracking["model_version"])))
    times = [event["time"] for event in log.events if isinstance(event.get("time"), int | float)]
    if times:
        rows.append(("Trained", f"{_moment(min(times))} to {_moment(max(times))} UTC"))
    for name, value in (report.get("environment") or {}).items():
        rows.append((name.replace("_", " ").capitalize(), _plain(value)))
    return rows


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _resolved(snapshot: Snapshot | None) -> str:
    """The experiment as JSON: what the digest covers, nothing of how or where it ran."""
    return json.dumps(snapshot.experiment(), indent=2, ensure_ascii=False) if snapshot else ""
