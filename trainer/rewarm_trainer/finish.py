"""The end of a run: gates, registration, report, page and card. Promotion only through gates.

Reads what the run left in its state and log; measures nothing itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rewarm_api.pins import Pins, SourcePin
from rewarm_api.snapshot import Group, Role, Snapshot
from rewarm_trainer import forgetting, gates, statistics, task_answers
from rewarm_trainer.breakdown import breakdown
from rewarm_trainer.chain_report import chain_of
from rewarm_trainer.files import write_bytes, write_json
from rewarm_trainer.from_run import order_of
from rewarm_trainer.heat_map import heat_map
from rewarm_trainer.model_card import model_card
from rewarm_trainer.overfitting import overfitted
from rewarm_trainer.phases import requested_ratio
from rewarm_trainer.report import CheckpointFacts, Facts, Look, Loss, SetFacts
from rewarm_trainer.report_html import render_html
from rewarm_trainer.runlog import arrange, derive_attempts, read_log, read_records
from rewarm_trainer.state import TrainState
from rewarm_trainer.statistics import Delta
from rewarm_trainer.weights.verdict import in_words, judging, with_finish
from rewarm_trainer.workdir import WorkFolder


def set_facts(state: TrainState, snapshot: Snapshot, pins: Pins) -> dict[str, SetFacts]:
    """What each evaluation set showed, from the looks that the state remembers."""
    facts = {}
    for chosen in pins.evaluation_sets(snapshot):
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
                Look(
                    look["tokens"],
                    line["loss"],
                    Delta.from_json(line["delta"]) if line["delta"] else None,
                    line["bits_per_byte"],
                )
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
    if (
        requested_ratio(pins.plan, snapshot.replay.ratio) > 0
        and pins.base_model["kind"] != "scratch"
        and not replayed <= own
    ):
        remarks.append("proxy replay: the replay text is not known to be the base model's own training data")
    cited = snapshot.replay.cited
    if cited is not None:
        remarks.append(
            f"the replay ratio was taken from study {cited.study} ({cited.digest[:19]}): at {cited.ratio:.4g} its "
            f"{cited.law} law expects old text within {cited.tolerance} of the base"
        )
    if any(pin.repeats > 1 for pin in _replayed(snapshot, pins).values()):
        remarks.append("replay text was repeated; see epochs by source")
    return remarks


def overfit_warnings(snapshot: Snapshot, pins: Pins, state: TrainState, records: list[dict[str, Any]]) -> list[str]:
    """Corpus sources that were learned by heart, in words; only of a run that came to its end."""
    if not state.evaluations or not state.evaluations[-1]["full"]:
        return []
    epochs = {
        source.name: state.rows.get(source.name, 0) / pins.sources[source.name].rows
        for source in snapshot.group(Group.CORPUS)
    }
    found = overfitted(state.evaluations[-1], arrange(records).steps, epochs, state.tokens)
    return [each.sentence() for each in found]


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
    record: Mapping[str, Any] | None = None,
    parameters: int | None = None,
) -> Facts:
    """Everything the report says, gathered. `record`: what `finish` made and what it showed. `parameters`: how many the
    model has.
    """
    length = snapshot.training.sequence_length
    replayed = state.replayed(_replayed(snapshot, pins))
    ended = outcome == "Succeeded"
    sets = set_facts(state, snapshot, pins)
    benchmarks = (record.get("benchmarks", {}) if record else benchmark_facts(state)) if ended else {}
    if ended:
        chose = bool(record and record["selection"])
        sets = {name: replace(value, breakdown=_breakdown(work, name, chose)) for name, value in sets.items()}
    finished = finish_facts(record, sets, snapshot, pins) if record else {}
    if record:
        sets = with_finish(sets, record["sets"])
    records, seconds = read_records(work.log), _seconds(work, state)
    said = (warnings or []) + _logged_warnings(records) + overfit_warnings(snapshot, pins, state, records)
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
        replay_requested=requested_ratio(pins.plan, snapshot.replay.ratio),
        replay_cited=None if snapshot.replay.cited is None else snapshot.replay.cited.to_json(),
        replay_realized=replayed / max(1, sum(state.rows.values())),
        sets=sets,
        attempts=derive_attempts(records, last_cause="Completed" if ended else outcome),
        checkpoint=checkpoint,
        tracking_run_id=run_id,
        tokens_per_second=state.tokens / seconds["train"] if seconds["train"] else None,
        seconds={name: round(value, 3) for name, value in seconds.items()},
        remarks=remarks_of(snapshot, pins) + (in_words(record) if record else []),
        warnings=list(dict.fromkeys(said)),
        extra={
            "model": {"parameters": parameters},
            "environment": state.environment,
            "phases": phase_facts(snapshot, pins, state),
            "serving": read_report(work.state / "serving.json"),
            "decisions": state.decisions,
            "stopped_early": state.stopped or None,
            **finished,
            "bad_lines": {name: pin.bad_lines for name, pin in pins.sources.items()},
            "chain": chain_of(work, snapshot, pins, ended=ended),
        },
        benchmarks=benchmarks,
        **verdict_of(sets, benchmarks, snapshot, pins.plan.trunk, ended),
    )


def _seconds(work: WorkFolder, state: TrainState) -> dict[str, float]:
    """Where the time went, preparation included."""
    seconds = {"prepare": 0.0, "baseline": 0.0, "train": 0.0, "evaluate": 0.0, "checkpoint": 0.0, **state.seconds}
    prepared = work.state / "prepare.json"
    if prepared.exists():
        seconds["prepare"] = json.loads(prepared.read_text())["seconds"]
    return seconds


def phase_facts(snapshot: Snapshot, pins: Pins, state: TrainState) -> list[dict[str, Any]]:
    """The phase log with the steps and the tokens by source of each entry; together they are those of the run."""
    log = state.phase_log()
    if not log:
        return []
    order = order_of(snapshot, pins, log)
    ends = [phase.first_step for phase in log[1:]] + [state.step]
    facts = []
    for phase, end in zip(log, ends, strict=True):
        before, after = order.trained(phase.first_step), order.trained(end)
        tokens = {name: (after[name] - before[name]) * snapshot.training.sequence_length for name in after}
        facts.append({**phase.to_json(), "last_step": end, "tokens": tokens})
    return facts


def _breakdown(work: WorkFolder, name: str, chose: bool) -> dict[str, Any] | None:
    """How the set's verdict splits by its columns; `chose`: documents that chose do not judge."""
    files = [work.state / kind / f"{name}.json" for kind in ("baseline", "final")]
    if not all(file.exists() for file in files):
        return None
    baseline, final = (json.loads(file.read_text()) for file in files)
    if chose:
        baseline, final = judging(baseline), judging(final)
    return breakdown(baseline, final)


def finish_facts(
    record: Mapping[str, Any], sets: Mapping[str, SetFacts], snapshot: Snapshot, pins: Pins
) -> dict[str, Any]:
    """`finish` of the report: the steps, and what the raw last checkpoint would have shown in their place."""
    raw = with_finish(sets, record["raw"]["sets"])
    verdict = verdict_of(raw, {}, snapshot, pins.plan.trunk, True)
    names = ("mean", "low", "high", "confidence")
    shown = {
        name: {
            **{key: line[key] for key in ("role", "documents", "tokens", "baseline", "final")},
            "delta": {key: line["delta"][key] for key in names},
            "verdict": raw[name].verdict,
        }
        for name, line in record["raw"]["sets"].items()
    }
    return {
        "finish": {
            "steps": record["steps"],
            "selection": record["selection"],
            "raw": {
                "checkpoint": {key: record["raw"][key] for key in ("uri", "step", "sha256")},
                "sets": shown,
                "forgetting": {"max": verdict.get("forgetting_max"), "mean": verdict.get("forgetting_mean")},
                "gain": {"mean": verdict.get("gain_mean")},
                "gates": [
                    {"name": gate.name, "limit": gate.limit, "value": gate.value, "result": gate.result}
                    for gate in verdict.get("gates", ())
                ],
            },
        }
    }


def _logged_warnings(records: list[dict[str, Any]]) -> list[str]:
    return [record["message"] for record in records if record.get("event") == "warning"]


def publish(work: WorkFolder, snapshot: Snapshot, pins: Pins, report: dict[str, Any]) -> None:
    """Page, card and, last, `report.json`: a run whose report exists has the others too."""
    page = render_html(report, snapshot=snapshot, pins=pins, log=read_log(work.log))
    write_bytes(work.report_html, page.encode())
    write_bytes(work.model_card, model_card(report, snapshot, pins).encode())
    if report.get("chain"):
        write_bytes(work.heat_map, heat_map(report["chain"]).encode())
    write_json(work.report, report)


def read_report(path: Path) -> dict[str, Any] | None:
    """The report of an earlier start, None when there is none that can be read."""
    try:
        value = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None
    return value if isinstance(value, dict) else None
