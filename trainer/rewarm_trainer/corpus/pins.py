"""What preparation found, written down once: counts, digests, default weights, the plan and how often text repeats."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rewarm_api.errors import DataError, ManifestError, Problem
from rewarm_api.snapshot import Group, Pins, Plan, SetPin, Snapshot, SourcePin
from rewarm_trainer.corpus.scan import SourceScan
from rewarm_trainer.corpus.sets import open_set
from rewarm_trainer.corpus.source import SubsetSource, TokenSource
from rewarm_trainer.corpus.tokenizer import TokenizerHandle


def source_pin(source: TokenSource, scan: SourceScan | None, digest: str, weight: float | None) -> SourcePin:
    """Counts of one source. Raises DataError (65) when its training text does not fill one row."""
    if source.rows < 1:
        raise DataError(
            f"source {source.name!r}: found {source.tokens} tokens of training text in {source.documents} documents, "
            f"expected at least {source.sequence_length + 1} for one row of training.sequenceLength "
            f"{source.sequence_length}; add text or lower sequenceLength"
        )
    return SourcePin(
        digest=digest,
        prepared=f"sha256:{source.folder.name}",
        documents=source.documents,
        duplicates=scan.duplicates if scan else 0,
        held_out_documents=scan.held_out if scan else 0,
        bad_lines=scan.bad_lines if scan else 0,
        tokens=source.tokens,
        rows=source.rows,
        dropped_tokens=source.dropped_tokens,
        weight=float(source.rows) if weight is None else weight,
        repeats=0.0,
        left_out=scan.left_out if scan else 0,
    )


def earlier_pin(source: SubsetSource) -> SourcePin:
    """Counts of the rows that an earlier run saw."""
    return SourcePin(
        digest=source.index.digest,
        prepared=f"sha256:{source.folder.name}",
        documents=source.documents,
        duplicates=0,
        held_out_documents=0,
        bad_lines=0,
        tokens=source.tokens,
        rows=source.rows,
        dropped_tokens=0,
        weight=float(source.rows),
        repeats=0.0,
    )


def set_pin(folder: Path, digest: str) -> SetPin:
    documents = open_set(folder)
    return SetPin(
        digest=digest,
        prepared=f"sha256:{folder.name}",
        documents=len(documents.ids),
        tokens=documents.tokens,
    )


def plan_of(snapshot: Snapshot, pins: Mapping[str, SourcePin]) -> Plan:
    """The snapshot's plan, or, for a budget in epochs, the one that the counted corpus rows give."""
    if snapshot.plan is not None:
        return snapshot.plan
    from rewarm_api.resolve import epochs_to_tokens, make_plan

    rows = sum(pins[source.name].rows for source in snapshot.group(Group.CORPUS))
    return make_plan(snapshot, epochs_to_tokens(snapshot, rows))


def with_repeats(
    snapshot: Snapshot, pins: Mapping[str, SourcePin], plan: Plan, warn: Callable[[str], None]
) -> dict[str, SourcePin]:
    """Adds the epochs of each source that the plan needs; warns when replay repeats.

    Raises ManifestError (64) on spec.replay.maxRepeats when a replay source would repeat more often.
    """
    from rewarm_trainer.mixture import Mixture, exact

    corpus = {source.name for source in snapshot.group(Group.CORPUS)}
    weights = {name: exact(pin.weight) for name, pin in pins.items()}
    mixture = Mixture(
        exact(snapshot.replay.ratio),
        {name: weight for name, weight in weights.items() if name in corpus},
        {name: weight for name, weight in weights.items() if name not in corpus},
    )
    needed = mixture.counts(plan.steps * plan.rows_per_step)
    limit, problems, result = snapshot.replay.max_repeats, [], {}
    for name, pin in pins.items():
        result[name] = pin.model_copy(update={"repeats": needed[name] / pin.rows})
        said = f"{name!r} {needed[name] / pin.rows:.2f} times: {needed[name]} rows needed, {pin.rows} there"
        if name in corpus or needed[name] <= pin.rows:
            continue
        if needed[name] > limit * pin.rows:
            problems.append(
                Problem(
                    "spec.replay.maxRepeats",
                    str(limit),
                    f"enough for this plan, which repeats replay source {said}",
                    "add replay text, lower replay.ratio or the budget, or raise maxRepeats",
                )
            )
        else:
            warn(f"this plan repeats replay source {said} (maxRepeats {limit})")
    if problems:
        raise ManifestError(problems)
    return result


def make_pins(
    snapshot: Snapshot,
    tokenizer: TokenizerHandle,
    sources: Mapping[str, SourcePin],
    sets: Mapping[str, SetPin],
    base_model: Mapping[str, Any],
    warn: Callable[[str], None],
) -> Pins:
    """The pins of a run, from the counts of its sources and sets."""
    plan = plan_of(snapshot, sources)
    return Pins(
        base_model=dict(base_model),
        tokenizer=tokenizer.fingerprint,
        eos=tokenizer.eos,
        bos=tokenizer.bos,
        vocabulary=tokenizer.vocabulary,
        sources=with_repeats(snapshot, sources, plan, warn),
        sets=dict(sets),
        plan=plan,
    )
