"""Rules that join fields. Each names the fields it reads and runs whenever these are valid, whatever else is wrong.

A rule sees a run in which broken fields are None and yields problems; the field named is the one to edit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from rewarm_api.errors import Problem
from rewarm_api.messages import NOTHING, found_text
from rewarm_api.quantity import exact
from rewarm_api.segments import Lengths, length_problem

Check = Callable[[Any], Iterator[Problem]]


@dataclass(frozen=True)
class Rule:
    """`check` may run when none of the paths in `reads`, nor a parent of one, is broken."""

    reads: tuple[str, ...]
    check: Check

    def may_run(self, broken: set[str]) -> bool:
        return not any(path == bad or path.startswith((bad + ".", bad + "[")) for path in self.reads for bad in broken)


RULES: list[Rule] = []


def rule(*reads: str) -> Callable[[Check], Check]:
    """Registers a rule over `spec`, whose paths are given relative to it."""

    def register(check: Check) -> Check:
        RULES.append(Rule(tuple(f"spec.{path}" for path in reads), check))
        return check

    return register


def exactly_one(path: str, part: Any, *names: str) -> Iterator[Problem]:
    """A union names its parent. `names` are the options, as fields of `part`."""
    fields = type(part).model_fields
    given = [str(fields[name].alias) for name in names if name in part.model_fields_set]
    if len(given) != 1:
        options = " | ".join(str(fields[name].alias) for name in names)
        fix = "keep one of them" if given else "add one of them"
        yield Problem(path, " and ".join(given) or NOTHING, f"exactly one of {options}", fix)


@rule("baseModel")
def base_model_is_one(spec: Any) -> Iterator[Problem]:
    base = spec.base_model
    yield from exactly_one("spec.baseModel", base, *type(base).model_fields)
    if base.mlflow is not None:
        yield from exactly_one("spec.baseModel.mlflow", base.mlflow, "alias", "version")
    if base.run is not None:
        yield from exactly_one("spec.baseModel.run", base.run, "name", "path")
    if base.scratch is not None and base.scratch.tokenizer is not None:
        tokenizer = base.scratch.tokenizer
        if "file" in tokenizer.model_fields_set and "vocabulary_size" in tokenizer.model_fields_set:
            yield from exactly_one("spec.baseModel.scratch.tokenizer", tokenizer, "vocabulary_size", "file")


@rule("baseModel.scratch.config")
def scratch_config_names_its_type(spec: Any) -> Iterator[Problem]:
    scratch = spec.base_model.scratch
    if scratch is None:
        return
    kind = scratch.config.get("model_type")
    if not isinstance(kind, str) or not kind:
        yield Problem(
            "spec.baseModel.scratch.config.model_type",
            found_text(kind),
            "the name of a transformers model type",
            "add model_type, for example llama",
        )


@rule("budget")
def budget_is_one(spec: Any) -> Iterator[Problem]:
    yield from exactly_one("spec.budget", spec.budget, "tokens", "epochs")


@rule("corpus.sources")
def corpus_weights(spec: Any) -> Iterator[Problem]:
    yield from _weights("spec.corpus.sources", spec.corpus.sources)


@rule("replay.sources")
def replay_weights(spec: Any) -> Iterator[Problem]:
    if spec.replay is not None:
        yield from _weights("spec.replay.sources", spec.replay.sources)


def _weights(path: str, sources: list[Any]) -> Iterator[Problem]:
    present = [(index, source) for index, source in enumerate(sources) if source is not None]
    if any("weight" in source.model_fields_set for _, source in present):
        for index, source in present:
            if "weight" not in source.model_fields_set:
                yield Problem(
                    f"{path}[{index}].weight",
                    NOTHING,
                    "a weight on all sources of a group or on none",
                    "add a weight here or remove the others",
                )


def named_sources(spec: Any) -> list[tuple[str, Any]]:
    """(path, source) of corpus and replay; broken ones are left out."""
    groups = [("spec.corpus.sources", spec.corpus and spec.corpus.sources)]
    groups.append(("spec.replay.sources", spec.replay and spec.replay.sources))
    return [
        (f"{path}[{index}]", source)
        for path, sources in groups
        for index, source in enumerate(sources or [])
        if source is not None
    ]


@rule()
def source_names_are_unique(spec: Any) -> Iterator[Problem]:
    entries = [(path, source.name) for path, source in named_sources(spec)]
    yield from _unique(entries, "a name that no other source of corpus or replay has")


def _unique(entries: list[tuple[str, str | None]], expected: str) -> Iterator[Problem]:
    seen: dict[str, str] = {}
    for path, name in entries:
        if name is not None and name in seen:
            yield Problem(f"{path}.name", f"{name}, which {seen[name]} has", expected, "rename one of them")
        elif name is not None:
            seen[name] = path


@rule("replay.ratio", "replay.sources", "replay.fromRun")
def replay_has_something_to_replay(spec: Any) -> Iterator[Problem]:
    replay = spec.replay
    if replay is None:
        return
    if replay.sources and "from_run" in replay.model_fields_set:
        yield Problem("spec.replay", "sources and fromRun", "exactly one of sources | fromRun", "keep one of them")
    if replays(replay.ratio) and not replay.sources and "from_run" not in replay.model_fields_set:
        cited = not isinstance(replay.ratio, (int, float))
        yield Problem(
            "spec.replay",
            f"ratio {'of a study' if cited else found_text(replay.ratio)} without sources",
            "exactly one of sources | fromRun when ratio > 0",
            "add sources to replay, or set ratio to 0",
        )


def replays(ratio: Any) -> bool:
    """Whether a ratio, a number or a citation of a study, asks for replay."""
    return not isinstance(ratio, (int, float)) or ratio > 0


@rule("replay.fromRun")
def replayed_run_is_one(spec: Any) -> Iterator[Problem]:
    if spec.replay is not None and spec.replay.from_run is not None:
        yield from exactly_one("spec.replay.fromRun", spec.replay.from_run, "name", "path")


@rule("training.sequenceLength", "training.globalBatchTokens", "training.microBatchRows")
def batch_is_whole_rows(spec: Any) -> Iterator[Problem]:
    yield from batch_problems(spec.training, 1)


def batch_problems(training: Any, processes: int) -> Iterator[Problem]:
    """The batch must be whole rows, its rows a multiple of the number of processes, and what each gets whole
    micro-batches (64 with both neighbours). `training`: of a spec or a snapshot.
    """
    batch, sequence_length = training.global_batch_tokens, training.sequence_length
    unit = sequence_length if batch % sequence_length or processes == 1 else sequence_length * processes
    if batch % unit == 0:
        yield from _micro_batch_problems(training.micro_batch_rows, batch // sequence_length // processes)
        return
    expected = f"a multiple of sequenceLength {sequence_length}"
    if unit != sequence_length:
        expected = f"rows in a multiple of {processes} processes: a multiple of {unit}"
    # A batch that is both no whole rows and unfit for the processes is named once, with values that mend both.
    step = sequence_length * processes
    below = batch // step * step
    nearest = f"{below} or {below + step}" if below else f"{step}"
    yield Problem("spec.training.globalBatchTokens", str(batch), expected, f"use {nearest}")


def _micro_batch_problems(asked: Any, rows: int) -> Iterator[Problem]:
    """Rows of a process that `asked` does not divide: every micro-batch has one shape. Auto, or None, always does."""
    if not isinstance(asked, int) or rows % asked == 0:
        return
    below = next(size for size in range(min(asked, rows), 0, -1) if rows % size == 0)
    above = next((size for size in range(asked, rows + 1) if rows % size == 0), None)
    expected = f"a divisor of the {rows} rows that each process trains on in a step"
    nearest = f"{below} or {above}" if above else f"{below}"
    yield Problem("spec.training.microBatchRows", str(asked), expected, f"use {nearest}, or Auto")


_USED = {
    "Rewarm": {"final_learning_rate", "decay"},
    "Infinite": {"final_learning_rate", "constant_learning_rate", "cooldown", "anneal"},
    "WarmupStableDecay": {"final_learning_rate", "decay", "decay_length"},
    "Constant": set(),
}
_REQUIRED = {"Infinite": ("constant_learning_rate", "cooldown"), "WarmupStableDecay": ("decay_length",)}
_ALWAYS = {"kind", "peak_learning_rate", "warmup", "optimizer_state"}


@rule("schedule.kind")
def schedule_fields_belong_to_the_kind(spec: Any) -> Iterator[Problem]:
    schedule = spec.schedule
    fields = type(schedule).model_fields
    used = _USED[schedule.kind] | _ALWAYS | ({"timescale"} if "decay" in _USED[schedule.kind] else set())
    for name in fields:
        alias = str(fields[name].alias)
        if name in schedule.model_fields_set and name not in used:
            known = ", ".join(str(fields[other].alias) for other in fields if other in used)
            yield Problem(
                f"spec.schedule.{alias}",
                f"{alias} with kind {schedule.kind}",
                f"only fields that {schedule.kind} uses: {known}",
                f"remove {alias}, or choose the kind that uses it",
            )
        if name in _REQUIRED.get(schedule.kind, ()) and name not in schedule.model_fields_set:
            yield Problem(f"spec.schedule.{alias}", NOTHING, f"{alias}, which {schedule.kind} requires", f"add {alias}")


@rule("schedule.kind", "schedule.decay", "schedule.timescale")
def timescale_belongs_to_inverse_sqrt(spec: Any) -> Iterator[Problem]:
    if "decay" in _USED[spec.schedule.kind]:
        yield from _timescale("spec.schedule", spec.schedule)


@rule("schedule.cooldown.decay", "schedule.cooldown.timescale")
def cooldown_timescale_belongs_to_inverse_sqrt(spec: Any) -> Iterator[Problem]:
    if spec.schedule.cooldown is not None:
        yield from _timescale("spec.schedule.cooldown", spec.schedule.cooldown)


def _timescale(path: str, part: Any) -> Iterator[Problem]:
    if "timescale" in part.model_fields_set and part.decay != "InverseSqrt":
        yield Problem(
            f"{path}.timescale",
            "timescale with a decay other than InverseSqrt",
            "timescale only with decay InverseSqrt",
            "remove timescale, or set decay to InverseSqrt",
        )


@rule("schedule.kind", "schedule.peakLearningRate", "schedule.constantLearningRate", "schedule.finalLearningRate")
def learning_rates_fall(spec: Any) -> Iterator[Problem]:
    schedule = spec.schedule
    peak, constant, final = (
        schedule.peak_learning_rate,
        schedule.constant_learning_rate if schedule.kind == "Infinite" else None,
        schedule.final_learning_rate,
    )
    if constant is not None and constant > peak:
        yield _too_high("constantLearningRate", found_text(constant), "constant <= peak", f"use at most {peak}")
    if schedule.kind == "Constant" or (schedule.kind == "Infinite" and schedule.anneal is None and final is None):
        return
    upper, words = (peak, "final <= peak") if constant is None else (min(constant, peak), "final <= constant <= peak")
    found = found_text(final) if final is not None else f"{float(exact(peak) / 10)!r} (default: a tenth of the peak)"
    if (exact(peak) / 10 if final is None else exact(final)) > exact(upper):
        yield _too_high("finalLearningRate", found, f"0 <= {words}", f"use at most {upper}")


def _too_high(name: str, found: str, expected: str, fix: str) -> Problem:
    return Problem(f"spec.schedule.{name}", found, expected, fix)


@rule("schedule.kind", "schedule.decay", "schedule.anneal.decay", "schedule.finalLearningRate")
def exponential_needs_a_floor(spec: Any) -> Iterator[Problem]:
    schedule = spec.schedule
    decay = schedule.decay if "decay" in _USED[schedule.kind] else None
    if schedule.kind == "Infinite" and schedule.anneal is not None:
        decay = schedule.anneal.decay
    if decay == "Exponential" and schedule.final_learning_rate == 0:
        yield Problem(
            "spec.schedule.finalLearningRate",
            found_text(schedule.final_learning_rate),
            "0 < finalLearningRate with an Exponential decay",
            "raise finalLearningRate, or choose another decay",
        )


@rule(
    "schedule.kind",
    "schedule.warmup",
    "schedule.cooldown.length",
    "schedule.anneal.length",
    "schedule.decayLength",
    "budget.tokens",
    "budget.epochs",
    "training.globalBatchTokens",
)
def segments_fit_the_plan(spec: Any) -> Iterator[Problem]:
    schedule, budget = spec.schedule, spec.budget
    if budget.tokens is None and budget.epochs is None:
        return
    batch = spec.training.global_batch_tokens
    infinite = schedule.kind == "Infinite"
    lengths = Lengths(
        schedule.kind,
        schedule.warmup,
        schedule.cooldown.length if infinite and schedule.cooldown else None,
        schedule.anneal.length if infinite and schedule.anneal else None,
        schedule.decay_length if schedule.kind == "WarmupStableDecay" else None,
    )
    problem = length_problem(lengths, None if budget.tokens is None else -(-budget.tokens // batch) * batch)
    if problem is not None:
        yield problem


@rule("schedule.optimizerState", "baseModel")
def kept_optimizer_comes_from_a_run(spec: Any) -> Iterator[Problem]:
    if spec.schedule.optimizer_state == "Keep" and "run" not in spec.base_model.model_fields_set:
        yield Problem(
            "spec.schedule.optimizerState",
            "Keep with a base model that is no run",
            "Keep only with baseModel.run, which has an optimizer state",
            "use Reset, or continue a run",
        )


@rule("gates.onForgetting", "gates.maxForgetting", "replay.ratio")
def forgetting_is_watched_against_a_limit(spec: Any) -> Iterator[Problem]:
    gates = spec.gates
    if gates is None or gates.on_forgetting == "Warn":
        return
    if gates.max_forgetting is None:
        yield Problem(
            "spec.gates.maxForgetting",
            NOTHING,
            f"a limit, which onForgetting {gates.on_forgetting} watches",
            "add maxForgetting, or use onForgetting: Warn",
        )
    if gates.on_forgetting == "RaiseReplay" and (spec.replay is None or not replays(spec.replay.ratio)):
        yield Problem(
            "spec.gates.onForgetting",
            "RaiseReplay without replay",
            "a replay ratio above 0 to raise",
            "add replay, or use Warn or Stop",
        )


@rule("evaluation.sets")
def set_names_are_unique(spec: Any) -> Iterator[Problem]:
    entries = [
        (f"spec.evaluation.sets[{index}]", item.name)
        for index, item in enumerate(spec.evaluation.sets)
        if item is not None
    ]
    yield from _unique(entries, "a name that no other set has")


@rule("evaluation.sets", "corpus.sources", "replay.sources", "replay.fromRun")
def sets_have_documents_and_a_role(spec: Any) -> Iterator[Problem]:
    sources = {source.name: source for _, source in named_sources(spec)}
    for index, item in enumerate(spec.evaluation.sets):
        if item is None or item.name is None:
            continue
        path = f"spec.evaluation.sets[{index}]"
        from_run = spec.replay is not None and spec.replay.from_run is not None
        if "uri" in item.model_fields_set or (from_run and item.name not in sources):
            if "role" not in item.model_fields_set:
                yield Problem(f"{path}.role", NOTHING, "New | Retained", "add the role of this set")
        elif item.name not in sources:
            if None not in sources:
                known = ", ".join(sorted(sources)) or "none"
                expected = f"the name of a source ({known}), since the set has no uri"
                yield Problem(f"{path}.name", item.name, expected, "name a source or add a uri")
        elif item.text_field not in (None, "text", sources[item.name].text_field) and sources[item.name].text_field:
            field = sources[item.name].text_field
            yield Problem(f"{path}.textField", item.text_field, f"{field}, as its source says", "remove textField")
