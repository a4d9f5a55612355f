"""The end of a run: gates, registration, report, page and card. Promotion only through gates.

Reads what the run left in its state and log; measures nothing itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rewarm_api.snapshot import Group, Pins, Role, Snapshot, SourcePin
from rewarm_trainer import forgetting, gates, statistics, task_answers
from rewarm_trainer.files import write_bytes, write_json
from rewarm_trainer.model_card import model_card
from rewarm_trainer.report import CheckpointFacts, Facts, Look, Loss, SetFacts
from rewarm_trainer.report_html import render_html
from rewarm_trainer.runlog import derive_attempts, read_log, read_records
from rewarm_trainer.state import TrainState
from rewarm_trainer.statistics import Delta
from rewarm_trainer.workdir import WorkFolder


def set_facts(state: TrainState, snapshot: Snapshot) -> dict[str, SetFacts]:
    """What each evaluation set showed, from the looks that the state remembers."""
    facts = {}
    for chosen in snapshot.evaluation.sets:
        looks = [(look, look["sets"][chosen.name]) for look in state.evaluations if chosen.name in look["sets"]]
        if not looks:
            continue
        base = looks[0][1]
        paired = [
            forgetting.Look(look["tokens"], Delta.from_json(line["delta"])) for look, line in looks if line["delta"]
        ]
        last, line = looks[-1]
        ended = last["full"] and line["delta"] is not None
        delta = Delta.from_json(line["delta"]) if ended else None
        facts[chosen.name] = SetFacts(
            role=str(chosen.role),
            documents=base["documents"],
            tokens=base["tokens"],
            baseline=Loss(base["loss"], base["bits_per_byte"]),
            final=Loss(line["loss"], line["bits_per_byte"]) if ended else None,
            delta=delta,
            verdict=statistics.verdict(delta) if delta else None,
            flips=line.get("flips") if ended else None,
            serving=line.get("serving") if ended else None,
            stability_gap=forgetting.stability_gap(paired),
            history=[
                Look(look["tokens"], line["loss"], Delta.from_json(line["delta"]) if line["delta"] else None)
                for look, line in looks
            ],
        )
    return facts


def benchmark_facts(state: TrainState) -> dict[str, Any]:
    """What the benchmarks showed, from the last look; empty while the candidate was not asked."""
    last = state.evaluations[-1] if state.evaluations else {}
    return last.get("benchmarks", {}) if last.get("step") else {}


def verdict_of(
    sets: Mapping[str, SetFacts], benchmarks: Mapping[str, Any], snapshot: Snapshot, trunk: bool, ended: bool
) -> dict[str, Any]:
    """Forgetting, gain, gates and promotion as keyword arguments of `Facts`."""
    deltas = {name: (Role(value.role), value.delta) for name, value in sets.items() if isinstance(value.delta, Delta)}
    if not ended or not (deltas or benchmarks):
        reason = "the run has not been judged" if not ended else "no evaluation set"
        return {"promotion_reason": reason}
    summary = forgetting.summary(deltas)
    results = gates.judge(snapshot.gates, deltas, task_answers.negative_flips(benchmarks) if benchmarks else None)
    promotion = gates.promotion(results, trunk)
    return {
        "forgetting_max": summary.forgetting.max,
        "forgetting_mean": summary.forgetting.mean,
        "gain_mean": summary.gain,
        "gates": results,
        "promoted": promotion.promoted,
        "promotion_reason": promotion.reason,
    }


def remarks_of(snapshot: Snapshot, pins: Pins) -> list[str]:
    """What a reader must know to read the verdict rightly."""
    remarks = ["document intervals do not see seed noise: they judge this checkpoint, not the recipe"]
    own = set(pins.base_model.get("sources", {}).values())
    replayed = {pin.digest for pin in _replayed(snapshot, pins).values()}
    if snapshot.replay.ratio > 0 and pins.base_model["kind"] != "scratch" and not replayed <= own:
        remarks.append("proxy replay: the replay text is not known to be the base model's own training data")
    if any(pin.repeats > 1 for pin in _replayed(snapshot, pins).values()):
        remarks.append("replay text was repeated; see epochs by source")
    return remarks


def _replayed(snapshot: Snapshot, pins: Pins) -> dict[str, SourcePin]:
    corpus = {source.name for source in snapshot.group(Group.CORPUS)}
    return {name: pin for name, pin in pins.sources.items() if name not in corpus}


def facts_of(
    work: WorkFolder,
    snapshot: Snapshot,
    pins: Pins,
    state: TrainState,
    *,
    outcome: str,
    message: str = "",
    checkpoint: CheckpointFacts | None = None,
    run_id: str | None = None,
    warnings: list[str] | None = None,
) -> Facts:
    """Everything the report says, gathered."""
    length = snapshot.training.sequence_length
    replayed = state.replayed(_replayed(snapshot, pins))
    ended = outcome == "Succeeded"
    sets, benchmarks = set_facts(state, snapshot), benchmark_facts(state) if ended else {}
    records = read_records(work.log)
    seconds = {"prepare": 0.0, "baseline": 0.0, "train": 0.0, "evaluate": 0.0, "checkpoint": 0.0, **state.seconds}
    prepared = work.state / "prepare.json"
    if prepared.exists():
        seconds["prepare"] = json.loads(prepared.read_text())["seconds"]
    return Facts(
        name=snapshot.name,
        uid=snapshot.uid,
        snapshot_digest=snapshot.digest,
        outcome=outcome,
        message=message,
        requested_tokens=pins.plan.requested_tokens,
        trained_tokens=state.tokens,
        tokens_by_source={name: rows * length for name, rows in state.rows.items()},
        epochs={name: rows / pins.sources[name].rows if rows else 0.0 for name, rows in state.rows.items()},
        replay_requested=snapshot.replay.ratio,
        replay_realized=replayed / max(1, sum(state.rows.values())),
        sets=sets,
        attempts=derive_attempts(records, last_cause="Completed" if ended else outcome),
        checkpoint=checkpoint,
        tracking_run_id=run_id,
        tokens_per_second=state.tokens / seconds["train"] if seconds["train"] else None,
        seconds={name: round(value, 3) for name, value in seconds.items()},
        remarks=remarks_of(snapshot, pins),
        warnings=list(dict.fromkeys((warnings or []) + _logged_warnings(records))),
        extra={
            "environment": state.environment,
            "serving": read_report(work.state / "serving.json"),
            "phases": state.phases,
            "decisions": state.decisions,
            "stopped_early": state.stopped or None,
            "bad_lines": {name: pin.bad_lines for name, pin in pins.sources.items()},
        },
        benchmarks=benchmarks,
        **verdict_of(sets, benchmarks, snapshot, pins.plan.trunk, ended),
    )


def _logged_warnings(records: list[dict[str, Any]]) -> list[str]:
    return [record["message"] for record in records if record.get("event") == "warning"]


def publish(work: WorkFolder, snapshot: Snapshot, pins: Pins, report: dict[str, Any]) -> None:
    """Page, card and, last, `report.json`: a run whose report exists has the others too."""
    page = render_html(report, snapshot=snapshot, pins=pins, log=read_log(work.log))
    write_bytes(work.report_html, page.encode())
    write_bytes(work.model_card, model_card(report, snapshot, pins).encode())
    write_json(work.report, report)


def read_report(path: Path) -> dict[str, Any] | None:
    """The report of an earlier start, None when there is none that can be read."""
    try:
        value = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None
    return value if isinstance(value, dict) else None
