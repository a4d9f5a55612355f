"""Rules of `spec.phases`: they must add up, name what exists, and leave each phase something to train."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from math import isqrt
from typing import Any

from rewarm_api.errors import Problem
from rewarm_api.messages import NOTHING, found_text
from rewarm_api.phase_plan import borders
from rewarm_api.quantity import parse_percent, plain_decimal
from rewarm_api.rules import rule
from rewarm_api.snapshot import Format
from rewarm_api.uri import format_of


def present(spec: Any) -> Iterator[tuple[str, Any]]:
    """(path, phase) of every phase that could be read."""
    for index, phase in enumerate(spec.phases or []):
        if phase is not None:
            yield f"spec.phases[{index}]", phase


@rule("phases")
def phases_add_up(spec: Any) -> Iterator[Problem]:
    if any(phase is None or phase.share is None for phase in spec.phases):
        return
    shares = [(path, parse_percent(phase.share)) for path, phase in present(spec)]
    for path, share in shares:
        if share == 0:
            yield Problem(f"{path}.share", "0%", "0% < share", "give the phase a share, or remove it")
    total = sum((share for _, share in shares), Decimal(0))
    if shares and total != 100:
        difference = plain_decimal(abs(100 - total))
        fix = f"{'add' if total < 100 else 'take away'} {difference}%"
        yield Problem("spec.phases", f"{plain_decimal(total)}%", "shares that add up to 100%", fix)


@rule()
def phase_names_are_unique(spec: Any) -> Iterator[Problem]:
    seen: dict[str, str] = {}
    for path, phase in present(spec):
        if phase.name is not None and phase.name in seen:
            found = f"{phase.name}, which {seen[phase.name]} has"
            yield Problem(f"{path}.name", found, "a name that no other phase has", "rename one of them")
        elif phase.name is not None:
            seen[phase.name] = path


@rule("phases", "corpus.sources", "replay.sources", "replay.fromRun")
def phase_weights_name_sources(spec: Any) -> Iterator[Problem]:
    replay = spec.replay
    members = [spec.corpus.sources, replay.sources if replay is not None else []]
    if any(source is None or source.name is None for group in members for source in group):
        return
    groups = [{source.name for source in group} for group in members]
    from_run = replay is not None and replay.from_run is not None
    for path, phase in present(spec):
        if phase.weights is not None:
            yield from _weight_problems(f"{path}.weights", phase.weights, groups, from_run)


def _weight_problems(path: str, weights: dict[str, float], groups: list[set[str]], from_run: bool) -> Iterator[Problem]:
    known = sorted(set().union(*groups))
    for name in sorted(weights.keys() - set(known)) if not from_run else ():
        yield Problem(
            f"{path}.{name}", name, f"the name of a source: {', '.join(known)}", "name a source, or remove it"
        )
    for group in groups:
        given = weights.keys() & group
        for name in sorted(group - given) if given else ():
            yield Problem(
                f"{path}.{name}",
                NOTHING,
                "a weight on all sources of a group or on none",
                f"add {name}; a weight of 0 leaves it out",
            )
        if given == group and group and not any(weights[name] for name in group):
            found = ", ".join(f"{name}: 0" for name in sorted(group))
            yield Problem(path, found, "a weight above 0 in each group", "raise one of them")


@rule("phases", "replay.sources", "replay.fromRun")
def phases_have_something_to_replay(spec: Any) -> Iterator[Problem]:
    replay = spec.replay
    if replay is not None and (replay.sources or replay.from_run is not None):
        return
    for path, phase in present(spec):
        if phase.replay_ratio:
            yield Problem(
                f"{path}.replayRatio",
                f"{found_text(phase.replay_ratio)} without replay sources",
                "replay with sources or fromRun",
                "add spec.replay, or remove replayRatio",
            )


@rule("phases")
def phase_rates_have_a_curve(spec: Any) -> Iterator[Problem]:
    for path, phase in present(spec):
        rate = phase.learning_rate
        if rate is None or None in (rate.first, rate.last, rate.decay):
            continue
        here = f"{path}.learningRate"
        if rate.first < rate.last and rate.decay != "Linear":
            yield Problem(
                f"{here}.decay", str(rate.decay), "Linear: this learning rate rises", "use Linear, or swap from and to"
            )
        elif rate.decay == "Exponential" and rate.last == 0:
            yield Problem(f"{here}.to", "0", "0 < to with an Exponential decay", "raise to, or choose another decay")
        if "timescale" in rate.model_fields_set and rate.decay != "InverseSqrt":
            yield Problem(
                f"{here}.timescale",
                "timescale with a decay other than InverseSqrt",
                "timescale only with decay InverseSqrt",
                "remove timescale, or set decay to InverseSqrt",
            )


@rule("phases", "corpus.sources", "gates.onForgetting", "replay.adaptive", "mixture")
def an_ascending_order_has_scores_and_a_plan(spec: Any) -> Iterator[Problem]:
    for path, phase in present(spec):
        if phase.order != "Ascending":
            if "order_by" in phase.model_fields_set:
                yield Problem(
                    f"{path}.orderBy", "orderBy without order Ascending", "orderBy only with order Ascending",
                    "remove orderBy, or set order to Ascending",
                )  # fmt: skip
            continue
        for source in spec.corpus.sources:
            known = None if source is None or source.uri is None else source.format or format_of(source.uri)
            if known in (Format.TOKENS, Format.TEXT):
                yield Problem(
                    f"{path}.order",
                    f"Ascending, but source {source.name} has the format {known}",
                    "sources with a column of scores: Parquet or JsonLines",
                    "score the documents of that source, or use Shuffled",
                )
        for mover, mend in _movers(spec):
            yield Problem(
                f"{path}.order",
                f"Ascending with {mover}",
                "an order that nothing changes on the way: with more replay the best rows would never be reached",
                f"use Shuffled, or {mend}",
            )


def _movers(spec: Any) -> Iterator[tuple[str, str]]:
    """What changes the mixture during training, and how it is turned off."""
    if spec.gates is not None and spec.gates.on_forgetting == "RaiseReplay":
        yield "gates.onForgetting RaiseReplay", "onForgetting: Warn"
    if spec.replay is not None and spec.replay.adaptive is not None:
        yield "replay.adaptive", "remove adaptive"
    if spec.mixture is not None:
        yield "mixture", "remove mixture"


@rule("phases", "training.sequenceLength")
def phase_lengths_divide_the_longest(spec: Any) -> Iterator[Problem]:
    longest = spec.training.sequence_length
    for path, phase in present(spec):
        length = phase.sequence_length
        if length is None or longest % length == 0:
            continue
        if length > longest:
            expected = f"at most training.sequenceLength {longest}, the longest of the run"
            mend = f"set training.sequenceLength to {length}, and {longest} on the phases that stay short"
        else:
            below = max(each for each in _divisors(longest) if each < length)
            above = min(each for each in _divisors(longest) if each > length)
            expected = f"a length that divides training.sequenceLength {longest}: every row is cut into whole pieces"
            mend = f"use {below} or {above}"
        yield Problem(f"{path}.sequenceLength", str(length), expected, mend)


def _divisors(number: int) -> set[int]:
    small = [each for each in range(1, isqrt(number) + 1) if number % each == 0]
    return {*small, *(number // each for each in small)}


@rule("phases", "budget.tokens", "budget.epochs", "training.globalBatchTokens")
def every_phase_has_a_step(spec: Any) -> Iterator[Problem]:
    if spec.budget.tokens is None or any(phase is None or phase.share is None for phase in spec.phases):
        return
    shares = [phase.share for phase in spec.phases]
    percents = [parse_percent(share) for share in shares]
    # What does not add up is said already.
    if sum(percents, Decimal(0)) == 100 and all(percents):
        steps = -(-spec.budget.tokens // spec.training.global_batch_tokens)
        yield from short_phases(shares, steps)


def short_phases(shares: list[str], steps: int) -> Iterator[Problem]:
    """A phase whose share of `steps` rounds to none has nothing to train (64)."""
    for index, (start, end) in enumerate(borders(shares, steps)):
        if start == end:
            yield Problem(
                f"spec.phases[{index}].share",
                f"{shares[index]} of {steps} steps",
                "at least one step",
                "give the phase a larger share, or raise the budget",
            )
