"""What preparation found, written down once: counts, digests, default weights, the plan and how often text repeats."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from rewarm_api.errors import DataError, ManifestError, Problem
from rewarm_api.pins import Pins, SetPin, SourcePin
from rewarm_api.snapshot import Group, Plan, Snapshot
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


def plan_of(snapshot: Snapshot, pins: Mapping[str, SourcePin], base_model: Mapping[str, Any]) -> Plan:
    """The snapshot's plan, or the one that the counted corpus rows (a budget in epochs) or the trunk's learning rate
    (a branch) give."""
    if snapshot.plan is not None:
        return snapshot.plan
    from rewarm_api.resolve import epochs_to_tokens, make_plan

    tokens = snapshot.budget.tokens
    if tokens is None:
        rows = sum(pins[source.name].rows for source in snapshot.group(Group.CORPUS))
        tokens = epochs_to_tokens(snapshot, rows)
    return make_plan(snapshot, tokens, base_model.get("learning_rate"))


def with_repeats(
    snapshot: Snapshot, pins: Mapping[str, SourcePin], plan: Plan, warn: Callable[[str], None]
) -> dict[str, SourcePin]:
    """Adds the epochs of each source that the plan needs; warns when replay repeats.

    Raises ManifestError (64) on spec.replay.maxRepeats when a replay source would repeat more often.
    """
    from rewarm_trainer.phases import PhasedMixture, planned_log

    corpus = {source.name for source in snapshot.group(Group.CORPUS)}
    check_phase_weights(snapshot, pins)
    mixture = PhasedMixture(
        planned_log(plan, snapshot.replay.ratio),
        {name: pin.weight for name, pin in pins.items() if name in corpus},
        {name: pin.weight for name, pin in pins.items() if name not in corpus},
        plan.rows_per_step,
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


def check_phase_weights(snapshot: Snapshot, sources: Collection[str]) -> None:
    """ManifestError (64) for weights of the rows of an earlier run that only now show to be wrong: `fromRun` has no
    names before that run was read."""
    corpus = {source.name for source in snapshot.group(Group.CORPUS)}
    for number, phase in enumerate(snapshot.phases):
        given = set(phase.weights or ()) - corpus
        expected = set(sources) - corpus
        if given and given != expected:
            raise ManifestError(
                Problem(
                    f"spec.phases[{number}].weights",
                    ", ".join(sorted(given)),
                    f"all sources of replay or none: {', '.join(sorted(expected))}",
                    "name these, or remove the weights of replay",
                )
            )


def make_pins(
    snapshot: Snapshot,
    tokenizer: TokenizerHandle,
    sources: Mapping[str, SourcePin],
    sets: Mapping[str, SetPin],
    base_model: Mapping[str, Any],
    warn: Callable[[str], None],
) -> Pins:
    """The pins of a run, from the counts of its sources and sets."""
    plan = plan_of(snapshot, sources, base_model)
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
