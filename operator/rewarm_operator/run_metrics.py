"""Which numbers a run's status gives to Prometheus, under which names. Pure; metrics.py writes them out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

Json = Mapping[str, Any]
Sample = tuple[str, Sequence[str], float]
"""Name, values of the labels after namespace and run, value."""


@dataclass(frozen=True)
class Family:
    """One metric of runs."""

    help: str
    labels: tuple[str, ...] = ()
    """After namespace and run."""
    counter: bool = False


FAMILIES: Mapping[str, Family] = {
    "rewarm_run_info": Family("1; the summary is for eyes.", ("summary",)),
    "rewarm_run_progress_ratio": Family("Tokens trained, of those planned; 0 to 1."),
    "rewarm_run_tokens": Family("Tokens trained."),
    "rewarm_run_target_tokens": Family("Tokens of the plan."),
    "rewarm_run_tokens_per_second": Family("Speed of training."),
    "rewarm_run_learning_rate": Family("Of the last update."),
    "rewarm_run_eval_loss": Family("Loss at the newest look, in nats per token.", ("set", "role")),
    "rewarm_run_eval_baseline_loss": Family("Loss of the base, in nats per token.", ("set", "role")),
    "rewarm_run_eval_delta": Family("Newest look minus base, in nats per token; below 0 is better.", ("set", "role")),
    "rewarm_run_forgetting_max": Family("Largest loss increase of a Retained set, in nats per token."),
    "rewarm_run_gain_mean": Family("Mean loss decrease over New sets, in nats per token."),
    "rewarm_run_forgetting_budget": Family("gates.maxForgetting, in nats per token."),
    "rewarm_run_replay_share": Family("Share of replay in the rows trained."),
    "rewarm_run_replay_ratio_requested": Family("Share of replay asked for."),
    "rewarm_run_attempts": Family("Attempts made."),
    "rewarm_run_failures": Family("Failures since the last new commit."),
    "rewarm_run_disruptions": Family("Disruptions."),
    "rewarm_run_checkpoint_committed_timestamp_seconds": Family("When the newest checkpoint was committed."),
    "rewarm_run_checkpoint_step": Family("Update of the newest committed checkpoint."),
    "rewarm_run_condition": Family("1 for the status that a condition has.", ("condition", "status")),
    "rewarm_run_gpus": Family("GPUs of the attempt whose pods run now."),
    "rewarm_run_gpu_seconds": Family("GPU seconds while all pods ran, over all attempts.", counter=True),
    "rewarm_run_useful_gpu_seconds": Family("Of these, those whose training was not lost.", counter=True),
    "rewarm_run_heartbeat_timestamp_seconds": Family("When rank 0 was last heard."),
}


def samples(run: Json, heartbeat: datetime | None, now: datetime) -> Iterator[Sample]:
    """Everything known of one run; what is not known is left out, never zero."""
    spec, status = run.get("spec") or {}, run.get("status") or {}
    yield "rewarm_run_info", [str(status.get("summary") or "Pending")], 1.0
    yield from _progress(status)
    yield from _evaluation(spec, status)
    yield from _bookkeeping(status)
    for condition in status.get("conditions") or ():
        yield "rewarm_run_condition", [str(condition.get("type")), str(condition.get("status"))], 1.0
    if heartbeat is not None:
        yield "rewarm_run_heartbeat_timestamp_seconds", [], heartbeat.timestamp()
    yield from _gpus(spec, status, now)


def _progress(status: Json) -> Iterator[Sample]:
    progress = status.get("progress") or {}
    tokens, target = _number(progress.get("tokens")), _number(progress.get("targetTokens"))
    yield from _known("rewarm_run_tokens", tokens)
    yield from _known("rewarm_run_target_tokens", target)
    if tokens is not None and target:
        yield "rewarm_run_progress_ratio", [], min(1.0, tokens / target)
    yield from _known("rewarm_run_tokens_per_second", progress.get("tokensPerSecond"))
    yield from _known("rewarm_run_learning_rate", status.get("learningRate"))


def _evaluation(spec: Json, status: Json) -> Iterator[Sample]:
    for item in status.get("evaluation") or ():
        labels = [str(item.get("set")), str(item.get("role"))]
        yield from _known("rewarm_run_eval_loss", item.get("latest"), labels)
        yield from _known("rewarm_run_eval_baseline_loss", item.get("baseline"), labels)
        yield from _known("rewarm_run_eval_delta", (item.get("delta") or {}).get("mean"), labels)
    yield from _known("rewarm_run_forgetting_max", (status.get("forgetting") or {}).get("max"))
    yield from _known("rewarm_run_gain_mean", (status.get("gain") or {}).get("mean"))
    yield from _known("rewarm_run_forgetting_budget", (spec.get("gates") or {}).get("maxForgetting"))
    replay = status.get("replay") or {}
    yield from _known("rewarm_run_replay_share", replay.get("realized"))
    yield from _known("rewarm_run_replay_ratio_requested", replay.get("requested"))


def _bookkeeping(status: Json) -> Iterator[Sample]:
    counts = status.get("counts") or {}
    for name in ("attempts", "failures", "disruptions"):
        yield from _known(f"rewarm_run_{name}", counts.get(name))
    checkpoint = status.get("checkpoint") or {}
    if checkpoint.get("uri"):
        yield from _known("rewarm_run_checkpoint_step", checkpoint.get("step"))
        committed = _moment(checkpoint.get("committedAt"))
        if committed is not None:
            yield "rewarm_run_checkpoint_committed_timestamp_seconds", [], committed.timestamp()


def _gpus(spec: Json, status: Json, now: datetime) -> Iterator[Sample]:
    """Goodput: tokens that were trained twice took GPU time that served nothing."""
    compute = spec.get("compute") or {}
    gpus = (_number(compute.get("nodes", 1)) or 0.0) * (_number(compute.get("gpusPerNode", 1)) or 0.0)
    since = _running_since(status)
    seconds = _number(status.get("trainingSeconds")) or 0.0
    seconds += max(0.0, (now - since).total_seconds()) if since else 0.0
    tokens = _number((status.get("progress") or {}).get("tokens")) or 0.0
    recomputed = sum(_number(each.get("tokensRecomputed")) or 0.0 for each in status.get("attempts") or ())
    useful = tokens / (tokens + recomputed) if tokens + recomputed > 0 else 1.0
    yield "rewarm_run_gpus", [], gpus if since else 0.0
    yield "rewarm_run_gpu_seconds", [], seconds * gpus
    yield "rewarm_run_useful_gpu_seconds", [], seconds * gpus * useful


def _running_since(status: Json) -> datetime | None:
    """Since when all pods of the attempt run; None while they do not."""
    for condition in status.get("conditions") or ():
        if condition.get("type") == "Running" and condition.get("status") == "True":
            return _moment(condition.get("lastTransitionTime"))
    return None


def _known(name: str, value: Any, labels: Sequence[str] = ()) -> Iterator[Sample]:
    number = _number(value)
    if number is not None:
        yield name, labels, number


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _moment(text: Any) -> datetime | None:
    try:
        moment = datetime.fromisoformat(str(text)) if text else None
    except ValueError:
        return None
    return moment if moment is not None and moment.tzinfo is not None else None
