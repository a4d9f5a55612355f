"""The verdict of a finished model beside that of the raw last checkpoint, on documents that chose nothing.

Pure: scores in, JSON out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rewarm_trainer import statistics
from rewarm_trainer.report import Loss, SetFacts
from rewarm_trainer.statistics import Delta
from rewarm_trainer.weights.choice import selection

if TYPE_CHECKING:
    # The end of a run is also read where there is no torch.
    from rewarm_trainer.evaluation import Scores


def part(scores: Scores, mask: NDArray[np.bool_]) -> Scores:
    """The documents of a mask."""
    return scores.chosen(np.flatnonzero(mask).tolist())


def judged(
    base: Scores, candidate: Scores, role: str, mask: NDArray[np.bool_] | None, serving: Scores | None = None
) -> dict[str, Any]:
    """One set of one model: losses, paired delta and flips, candidate minus base. `mask`: the documents that judge;
    `serving`: what the version that serves scored."""
    wanted = np.ones(len(base.hashes), dtype=np.bool_) if mask is None else mask
    before, after = part(base, wanted), part(candidate, wanted)
    return {
        "flips": _flips(before, after),
        "serving": None if serving is None else _flips(part(serving, wanted), after),
        "role": role,
        "documents": len(after.hashes),
        "tokens": int(after.labels.sum()),
        "baseline": {"loss": before.loss, "bits_per_byte": before.bits_per_byte},
        "final": {"loss": after.loss, "bits_per_byte": after.bits_per_byte},
        "delta": statistics.paired_delta(after.nats - before.nats, after.labels).to_json(),
    }


def _flips(before: Scores, after: Scores) -> dict[str, Any] | None:
    """Next-token flips, where both were marked."""
    from rewarm_trainer.looks import flips_of

    return None if before.top1 is None or after.top1 is None else flips_of(before, after)


def judging(documents: Mapping[str, Any]) -> dict[str, Any]:
    """Results by document, as in a run's state folder, without the documents that choose."""
    mask = ~selection(documents["hashes"])
    return {
        key: [value for value, judges in zip(values, mask, strict=True) if judges]
        if len(values) == len(mask)
        else values
        for key, values in documents.items()
    }


def with_finish(sets: Mapping[str, SetFacts], found: Mapping[str, Mapping[str, Any]]) -> dict[str, SetFacts]:
    """What the sets showed on the way, with the verdict and the flips of another model (`found`, by set) at the end."""
    result = {}
    for name, facts in sets.items():
        line = found[name]
        delta = Delta.from_json(line["delta"])
        result[name] = replace(
            facts,
            documents=line["documents"],
            tokens=line["tokens"],
            baseline=Loss(**line["baseline"]),
            final=Loss(**line["final"]),
            delta=delta,
            verdict=statistics.verdict(delta),
            flips=line.get("flips"),
            serving=line.get("serving"),
        )
    return result


def in_words(record: Mapping[str, Any]) -> list[str]:
    """What a reader of the verdict must know: how the model was finished, and how the last checkpoint would do."""
    done = ", then ".join(step_words(step) for step in record["steps"])
    lines = [f"the verdict is that of the finished model: {done}"]
    raw = [f"{name} {_delta_words(line['delta'])}" for name, line in record["raw"]["sets"].items()]
    if raw:
        lines.append(f"the last checkpoint itself, on the same documents: {'; '.join(raw)}")
    if record.get("selection"):
        counts = ", ".join(f"{count} of {name}" for name, count in record["selection"].items())
        lines.append(f"documents that chose ({counts}) are not among those that judge")
    return lines


def step_words(step: Mapping[str, Any]) -> str:
    """A step of finish, or a merged model, in a few words."""
    if step["kind"] == "average":
        return f"{step['average']} of the last {len(step['inputs'])} checkpoints"
    if step["kind"] == "soup":
        return f"{step['soup'].lower()} soup of {', '.join(line['label'] for line in step['inputs'])}"
    if step["kind"] == "interpolate":
        how = "chosen on the selection split" if step.get("chosen") else "as asked"
        return f"{step['towardsBase']:g} of the way back to the base ({how})"
    return f"plus what instruction tuning changed in {step['inputs'][2]['label']}"


def _delta_words(delta: Mapping[str, Any]) -> str:
    if delta["low"] is None or not np.isfinite([delta["low"], delta["high"]]).all():
        return f"{delta['mean']:+.4f}"
    return f"{delta['mean']:+.4f} [{delta['low']:+.4f}, {delta['high']:+.4f}]"
