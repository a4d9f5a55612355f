"""The report of a run: its facts in the JSON of `cli.md`, version 1. For the same in words see findings.py.

Pure: everything it needs is passed in. Decides names and signs, never a number: those come from the run's state.
All losses are nats per token; a delta is final minus baseline (below zero is better).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from rewarm_api.errors import DataError, MissingInputError
from rewarm_trainer.files import finite
from rewarm_trainer.findings import Sentence, verdict_sentences
from rewarm_trainer.runlog import Attempt, Log, attempts_from_log, read_log

__all__ = [
    "Attempt",
    "CheckpointFacts",
    "Facts",
    "Log",
    "Look",
    "Loss",
    "Sentence",
    "SetFacts",
    "attempts_from_log",
    "build_report",
    "load_report",
    "read_log",
    "verdict_sentences",
]

REPORT_NAME = "report.json"
VERSION = 1


class DeltaLike(Protocol):
    """An interval of `statistics.py`: final minus baseline, nats per token."""

    @property
    def mean(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...
    @property
    def confidence(self) -> float: ...


class StabilityGapLike(Protocol):
    """A stability gap of `forgetting.py`: depth in nats per token, the rest null where there was no peak."""

    @property
    def depth(self) -> float: ...
    @property
    def low(self) -> float | None: ...
    @property
    def high(self) -> float | None: ...
    @property
    def peak_tokens(self) -> int | None: ...
    @property
    def recovered_tokens(self) -> int | None: ...


class GateLike(Protocol):
    """A judged gate of `gates.py`."""

    @property
    def name(self) -> str: ...
    @property
    def limit(self) -> float: ...
    @property
    def value(self) -> float | None: ...
    @property
    def result(self) -> Any: ...


@dataclass(frozen=True)
class Loss:
    """Mean loss of one model on one set: nats per token, and bits per UTF-8 byte (tokenizer-independent)."""

    loss: float
    bits_per_byte: float


@dataclass(frozen=True)
class Look:
    """One evaluation of a set after `tokens` of training. `delta` is paired with the baseline on the same documents."""

    tokens: int
    loss: float
    delta: DeltaLike | None = None
    bits_per_byte: float | None = None


@dataclass(frozen=True)
class SetFacts:
    """What one evaluation set showed. `final`, `delta` and the rest are None while there is no final evaluation.

    `breakdown`: the same by a column of its documents (breakdown.py). `flips`: next-token top-1 of base and candidate
    on the same labels (flips.py), as JSON; `serving`: the same against the version that served when the run began.
    """

    role: str
    documents: int
    tokens: int
    baseline: Loss | None
    final: Loss | None = None
    delta: DeltaLike | None = None
    verdict: str | None = None
    flips: Mapping[str, Any] | None = None
    serving: Mapping[str, Any] | None = None
    stability_gap: StabilityGapLike | None = None
    history: Sequence[Look] = ()
    breakdown: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class CheckpointFacts:
    """The last committed checkpoint; `sha256` is that of its manifest.json."""

    uri: str
    step: int
    sha256: str


@dataclass(frozen=True)
class Facts:
    """Everything a report says. Defaults are what a run that got nowhere has to say.

    requested_tokens: the budget as written; trained_tokens: steps x batch. tokens_by_source, epochs: by source name.
    seconds: by activity (prepare, baseline, train, evaluate, checkpoint). benchmarks: by name, as task_answers.py has
    them. remarks: what a reader must know to read the verdict rightly ("proxy replay: ..."). warnings: what went less
    well than it should. extra: more top-level keys; a name that the contract uses already is refused.
    """

    name: str
    uid: str
    snapshot_digest: str
    outcome: str
    requested_tokens: int
    trained_tokens: int = 0
    tokens_by_source: Mapping[str, int] = field(default_factory=dict)
    epochs: Mapping[str, float] = field(default_factory=dict)
    replay_requested: float = 0.0
    replay_realized: float = 0.0
    replay_cited: Mapping[str, Any] | None = None
    sets: Mapping[str, SetFacts] = field(default_factory=dict)
    benchmarks: Mapping[str, Any] = field(default_factory=dict)
    forgetting_max: float | None = None
    forgetting_mean: float | None = None
    gain_mean: float | None = None
    gates: Sequence[GateLike] = ()
    promoted: bool = False
    promotion_reason: str = ""
    attempts: Sequence[Attempt] = ()
    checkpoint: CheckpointFacts | None = None
    tracking_run_id: str | None = None
    model_version: str | None = None
    tokens_per_second: float | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    message: str = ""
    remarks: Sequence[str] = ()
    warnings: Sequence[str] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)


def build_report(facts: Facts) -> dict[str, Any]:
    """The JSON of `report.json`, version 1 (design: cli.md). Numbers that are not finite are null.

    Raises ValueError when `facts.extra` would overwrite a name of the contract.
    """
    checkpoint = facts.checkpoint or CheckpointFacts("", 0, "")
    report: dict[str, Any] = {
        "version": VERSION,
        "run": {"name": facts.name, "uid": facts.uid, "snapshot_digest": facts.snapshot_digest},
        "outcome": facts.outcome,
        "message": facts.message,
        "tokens": {
            "requested": facts.requested_tokens,
            "trained": facts.trained_tokens,
            "by_source": dict(facts.tokens_by_source),
            "epochs": dict(facts.epochs),
        },
        "replay": {
            "requested": facts.replay_requested,
            "realized": facts.replay_realized,
            **({"cited": dict(facts.replay_cited)} if facts.replay_cited else {}),
        },
        "sets": {name: _set(value) for name, value in facts.sets.items()},
        "benchmarks": dict(facts.benchmarks),
        "forgetting": {"max": facts.forgetting_max, "mean": facts.forgetting_mean},
        "gain": {"mean": facts.gain_mean},
        "gates": [
            {"name": gate.name, "limit": gate.limit, "value": gate.value, "result": str(gate.result)}
            for gate in facts.gates
        ],
        "promotion": {"promoted": facts.promoted, "reason": facts.promotion_reason},
        "attempts": [attempt.to_json() for attempt in facts.attempts],
        "checkpoint": {"uri": checkpoint.uri, "step": checkpoint.step, "sha256": checkpoint.sha256},
        "tracking": {"run_id": facts.tracking_run_id or "", "model_version": facts.model_version or ""},
        "throughput": {"tokens_per_second": facts.tokens_per_second, "seconds": dict(facts.seconds)},
        "remarks": list(facts.remarks),
        "warnings": list(facts.warnings),
    }
    taken = sorted(set(report) & set(facts.extra))
    if taken:
        raise ValueError(f"extra: found {', '.join(taken)}, expected names that report.json does not use yet")
    result: dict[str, Any] = finite({**report, **facts.extra})
    return result


def _set(value: SetFacts) -> dict[str, Any]:
    return {
        "role": str(value.role),
        "documents": value.documents,
        "tokens": value.tokens,
        "baseline": _loss(value.baseline),
        "final": _loss(value.final),
        "delta": _delta(value.delta),
        "verdict": None if value.verdict is None else str(value.verdict),
        "flips": value.flips,
        "serving": value.serving,
        "stability_gap": _gap(value.stability_gap),
        "history": [_look(look) for look in value.history],
        **({} if value.breakdown is None else {"breakdown": dict(value.breakdown)}),
    }


def _loss(value: Loss | None) -> dict[str, float | None]:
    if value is None:
        return {"loss": None, "bits_per_byte": None}
    return {"loss": value.loss, "bits_per_byte": value.bits_per_byte}


def _delta(value: DeltaLike | None) -> dict[str, float | None]:
    if value is None:
        return {"mean": None, "low": None, "high": None, "confidence": None}
    return {"mean": value.mean, "low": value.low, "high": value.high, "confidence": value.confidence}


def _gap(value: StabilityGapLike | None) -> dict[str, float | int | None]:
    names = ("depth", "low", "high", "peak_tokens", "recovered_tokens")
    return {name: None if value is None else getattr(value, name) for name in names}


def _look(look: Look) -> dict[str, Any]:
    line: dict[str, Any] = {"tokens": look.tokens, "loss": look.loss}
    if look.bits_per_byte is not None:
        line["bits_per_byte"] = look.bits_per_byte
    if look.delta is not None:
        line["delta"] = _delta(look.delta)
    return line


def load_report(folder: Path) -> dict[str, Any]:
    """The report of the run in `folder`: MissingInputError (66) when there is none, DataError (65) when unreadable."""
    path = folder / REPORT_NAME
    try:
        value = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise MissingInputError(
            f"{path}: found no such file, expected the report of a finished run; "
            "give the work folder of a run, or run `rewarm run` on its manifest until it ends"
        ) from None
    except ValueError as error:
        raise DataError(
            f"{path}: found unreadable JSON ({error}), expected a report; "
            "the same `rewarm run` command writes it again from the checkpoint"
        ) from None
    if not isinstance(value, dict) or value.get("version") != VERSION:
        found = value.get("version") if isinstance(value, dict) else type(value).__name__
        raise DataError(
            f"{path}: found report version {found}, expected {VERSION}; read it with the rewarm that wrote it"
        )
    return value
