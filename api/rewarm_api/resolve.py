"""A valid run to its snapshot: every default filled, every length in tokens, sources in order of name.

Pure: the same manifest gives the same bytes and digest everywhere. Definitions: trainer.md, "Budget" and "Schedule".
"""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from math import ceil
from typing import Any

from rewarm_api import base_model, benchmarks, controllers, corpus, evaluation, training
from rewarm_api import snapshot as result
from rewarm_api.defaults import Defaults, completed
from rewarm_api.errors import ManifestError
from rewarm_api.finish import FinishStep
from rewarm_api.finish_rules import CHECKPOINT_EVERY, average_problem
from rewarm_api.phase_plan import mean_ratio, planned, resolved, with_rates
from rewarm_api.phase_rules import short_phases
from rewarm_api.quantity import exact, is_percent, parse_length, plain_decimal
from rewarm_api.replay_rules import META, short_plan
from rewarm_api.run import ContinualRun, RunSpec
from rewarm_api.schedule import Schedule
from rewarm_api.segments import Lengths, build_segments, length_problem
from rewarm_api.uri import format_of

EVALUATION_EVERY = "5%"
DEFAULT_DECAY = {"Rewarm": result.Decay.COSINE, "WarmupStableDecay": result.Decay.ONE_MINUS_SQRT}


def resolve(
    run: ContinualRun, *, uid: str, defaults: Defaults | None = None, cited: result.CitedStudy | None = None
) -> result.Snapshot:
    """The snapshot of a run that `validate` found valid. `uid` names this run among others of its name.

    `defaults` are a cluster's (`cluster_problems` says what is missing even with them); a local run has none.
    `cited` is what the study answers that `replay.ratio` names, if it names one. On a cluster preparation asks it.
    """
    run = run if defaults is None else completed(run, defaults)
    given = run.spec
    sources = _sources(given)
    value = result.Snapshot(
        name=run.metadata.name,
        uid=uid,
        base_model=_base_model(given.base_model),
        sources=sources,
        mixture=_mixture(given.mixture),
        replay=_replay(given.replay, cited, later=defaults is not None),
        schedule=_schedule(given),
        budget=result.Budget(
            tokens=given.budget.tokens,
            epochs=None if given.budget.epochs is None else _decimal(given.budget.epochs),
        ),
        training=_training(given.training),
        evaluation=_evaluation(given.evaluation, sources),
        gates=_gates(given.gates),
        finish=_finish(given.finish),
        checkpoints=result.Checkpoints(
            uri=given.checkpoints.uri,
            every=given.checkpoints.every,
            every_minutes=given.checkpoints.every_minutes,
            keep=given.checkpoints.keep,
            single_writer=given.checkpoints.single_writer,
        ),
        cache_uri=given.cache.uri,
        tracking=result.Tracking(
            uri=given.tracking.uri,
            experiment=given.tracking.experiment or run.metadata.name,
            registered_model=given.tracking.registered_model or run.metadata.name,
            promote_alias=given.tracking.promote_alias,
        ),
        plan=None,
        operation=_operation(given),
        phases=resolved(given.phases),
    )
    tokens = given.budget.tokens
    # The rate at which a branch begins is the trunk's: preparation reads it.
    if tokens is None or value.schedule.kind == "Anneal":
        return value
    return value.model_copy(update={"plan": make_plan(value, tokens)})


def make_plan(snapshot: result.Snapshot, requested_tokens: int, trunk_rate: float | None = None) -> result.Plan:
    """The budget in whole steps: steps = ceil(requested / batch), and all that follows from them.

    Raises ManifestError when the schedule's segments are longer than the plan, or when finish averages more checkpoints
    than the plan has (with a budget in epochs that shows only once the corpus is counted). `trunk_rate`: where the
    learning rate of a branch begins.
    """
    schedule = snapshot.schedule
    batch = snapshot.training.global_batch_tokens
    steps = -(-requested_tokens // batch)
    tokens = steps * batch
    lengths = Lengths(
        schedule.kind, schedule.warmup, schedule.cooldown_length, schedule.anneal_length, schedule.decay_length
    )
    problem = length_problem(lengths, tokens)
    if problem is not None:
        raise ManifestError(problem)
    short = list(short_phases([phase.share for phase in snapshot.phases], steps))
    if snapshot.replay.meta_experience is not None:
        short += short_plan(snapshot.replay.meta_experience.interval, steps)
    if short:
        raise ManifestError(short)
    plan = result.Plan(
        requested_tokens=requested_tokens,
        tokens_per_step=batch,
        rows_per_step=batch // snapshot.training.sequence_length,
        steps=steps,
        tokens=tokens,
        segments=with_rates(build_segments(schedule, tokens, trunk_rate), snapshot.phases, steps, batch),
        evaluation_every=_mark(snapshot.evaluation.every or EVALUATION_EVERY, tokens, batch),
        checkpoint_every=_mark(snapshot.checkpoints.every or CHECKPOINT_EVERY, tokens, batch),
        trunk=schedule.kind == "Infinite" and schedule.anneal_length is None and not _ends_annealed(snapshot),
        phases=planned(snapshot.phases, steps),
    )
    problem = average_problem(snapshot.finish, plan)
    if problem is not None:
        raise ManifestError(problem)
    return plan


def _ends_annealed(snapshot: result.Snapshot) -> bool:
    """Whether the last phase brings the learning rate down by itself."""
    rate = snapshot.phases[-1].learning_rate if snapshot.phases else None
    return rate is not None and rate.last < rate.first


def epochs_to_tokens(snapshot: result.Snapshot, corpus_rows: int) -> int:
    """Tokens that a budget in epochs asks for: ceil(epochs x corpus rows x S / (1 - ratio)), in exact arithmetic.

    With phases `ratio` is the replay share of the whole plan.
    `corpus_rows` are the training rows of all corpus sources together. The budget must be in epochs.
    """
    epochs = snapshot.budget.epochs
    if epochs is None:
        raise ValueError("the budget is in tokens")
    rows = Fraction(epochs) * corpus_rows
    ratio = mean_ratio(snapshot.replay.ratio, snapshot.phases)
    return ceil(rows * snapshot.training.sequence_length / (1 - ratio))


def _mark(every: str, plan_tokens: int, batch: int) -> int:
    """Tokens between marks. A share of a short plan is at least one step; tokens stand as they were written."""
    tokens = parse_length(every, plan_tokens)
    return max(tokens, batch) if is_percent(every) else tokens


def _decimal(number: float) -> Decimal:
    """One decimal for one number: 2 and 2.0 give the same snapshot."""
    return Decimal(plain_decimal(Decimal(repr(number))))


def _base_model(given: base_model.BaseModel | controllers.Teacher) -> result.BaseModelSource:
    options = given.model_dump(mode="json", by_alias=True, exclude_none=True)
    (kind,) = options
    if kind == "scratch" and not options[kind]["tokenizer"]:
        options[kind]["tokenizer"] = {"vocabularySize": 4096}
    return result.BaseModelSource(kind=kind, options=options[kind])


def _sources(given: RunSpec) -> tuple[result.Source, ...]:
    groups = (
        (result.Group.CORPUS, given.corpus.sources),
        (result.Group.REPLAY, given.replay.sources if given.replay else []),
    )
    even = controllers.weighed_groups(given.mixture)
    sources = [_source(group, source, group in even) for group, members in groups for source in members]
    return tuple(sorted(sources, key=lambda source: source.name))


def _source(group: result.Group, given: corpus.Source, even: bool) -> result.Source:
    return result.Source(
        name=given.name,
        group=group,
        uri=given.uri,
        format=given.format or format_of(given.uri),
        text_field=given.text_field,
        group_field=given.group_field,
        weight=1.0 if even else given.weight,
        license=given.license,
        digest=given.digest,
        bad_lines=given.bad_lines,
        score_field=given.score_field,
        subset=None if given.subset is None else result.Subset(**given.subset.model_dump()),
    )


def _replay(given: corpus.Replay | None, cited: result.CitedStudy | None, *, later: bool) -> result.Replay:
    if given is None:
        return result.Replay(ratio=0.0, from_run=None, method="Interleave", max_repeats=4)
    from_run, ratio = given.from_run, given.ratio
    asked = None
    if isinstance(ratio, corpus.CitedRatio):
        if cited is None and not later:
            raise ValueError(f"the study {ratio.from_study} was not asked")
        if cited is None:
            asked = ratio.model_dump(mode="json", by_alias=True, exclude_none=True)
        ratio = 0.0 if cited is None else cited.ratio
    return result.Replay(
        ratio=ratio,
        from_run=None if from_run is None else result.FromRun(name=from_run.name, path=from_run.path),
        method=given.method,
        max_repeats=given.max_repeats,
        meta_experience=_meta_experience(given),
        adaptive=None if given.adaptive is None else result.Adaptive(**given.adaptive.model_dump()),
        cited=cited,
        asked=asked,
    )


def _mixture(given: controllers.MixtureControl | None) -> result.MixtureControl | None:
    if given is None:
        return None
    discrepancy, graph = given.domain_discrepancy, given.skill_graph
    edges = sorted(graph.edges if graph else (), key=lambda edge: (edge.source, edge.helps))
    return result.MixtureControl(
        every=given.every,
        domain_discrepancy=None
        if discrepancy is None
        else result.DomainDiscrepancy(
            smoothing=discrepancy.smoothing,
            teacher=None if discrepancy.teacher is None else _base_model(discrepancy.teacher),
        ),
        skill_graph=None
        if graph is None
        else result.SkillGraph(
            rate=graph.rate, window=graph.window, edges=tuple(result.Edge(**edge.model_dump()) for edge in edges)
        ),
    )


def _meta_experience(given: corpus.Replay) -> result.MetaExperience | None:
    if given.method != META:
        return None
    return result.MetaExperience(**(given.meta_experience or corpus.MetaExperience()).model_dump())


def _schedule(given: RunSpec) -> result.Schedule:
    schedule, cooldown, anneal = given.schedule, given.schedule.cooldown, given.schedule.anneal
    branch = given.base_model.run.anneal if given.base_model.run is not None else None
    if branch is not None:
        return _branch(schedule, branch)
    default_state = "Auto" if given.base_model.run is not None else "Reset"
    return result.Schedule(
        kind=schedule.kind,
        peak_learning_rate=schedule.peak_learning_rate,
        constant_learning_rate=schedule.constant_learning_rate,
        final_learning_rate=final_learning_rate(schedule),
        warmup=schedule.warmup,
        decay=schedule.decay or DEFAULT_DECAY.get(schedule.kind),
        decay_length=schedule.decay_length,
        timescale=schedule.timescale,
        cooldown_length=cooldown.length if cooldown else None,
        cooldown_decay=cooldown.decay if cooldown else None,
        cooldown_timescale=cooldown.timescale if cooldown else 10.0,
        anneal_length=anneal.length if anneal else None,
        anneal_decay=anneal.decay if anneal else None,
        anneal_timescale=10.0,
        optimizer_state=schedule.optimizer_state or default_state,
    )


def _branch(schedule: Schedule, anneal: base_model.BranchAnneal) -> result.Schedule:
    return result.Schedule(
        kind="Anneal",
        peak_learning_rate=schedule.peak_learning_rate,
        constant_learning_rate=None,
        final_learning_rate=final_learning_rate(schedule),
        warmup="0",
        decay=None,
        decay_length=None,
        timescale=10.0,
        cooldown_length=None,
        cooldown_decay=None,
        cooldown_timescale=10.0,
        anneal_length=anneal.length,
        anneal_decay=anneal.decay,
        anneal_timescale=10.0,
        optimizer_state="Keep",
    )


def final_learning_rate(schedule: Schedule) -> float:
    """The rate of the last update: as given, the constant rate where nothing decays, else a tenth of the peak."""
    if schedule.kind == "Constant":
        return schedule.peak_learning_rate
    if schedule.kind == "Infinite" and schedule.anneal is None:
        assert schedule.constant_learning_rate is not None
        return schedule.constant_learning_rate
    if schedule.final_learning_rate is not None:
        return schedule.final_learning_rate
    return float(exact(schedule.peak_learning_rate) / 10)


def _training(given: training.Training) -> result.Training:
    optimizer, weights = given.optimizer, given.sample_weights
    return result.Training(
        sequence_length=given.sequence_length,
        global_batch_tokens=given.global_batch_tokens,
        micro_batch_rows=None if given.micro_batch_rows == "Auto" else given.micro_batch_rows,
        optimizer=result.Optimizer(**optimizer.model_dump()),
        precision=given.precision,
        document_masking=given.document_masking,
        document_start=given.document_start,
        activation_checkpointing=given.activation_checkpointing,
        freeze=tuple(given.freeze),
        lora=result.Lora(**(given.lora or training.Lora()).model_dump()) if given.adaptation == "LoRA" else None,
        divergence=result.Divergence(**given.divergence.model_dump()),
        seed=given.seed,
        parallelism=given.parallelism,
        sample_weights=None if weights is None else result.SampleWeights(**weights.model_dump()),
    )


def _evaluation(given: evaluation.Evaluation, sources: tuple[result.Source, ...]) -> result.Evaluation:
    by_name = {source.name: source for source in sources}
    sets = [_set(item, by_name) for item in given.sets]
    return result.Evaluation(
        every=given.every,
        held_out=result.HeldOut(**given.held_out.model_dump()),
        look_tokens=given.look_tokens,
        sets=tuple(sets or [_source_set(source, None, "", "") for source in sources]),
        benchmarks=tuple(_benchmark(item) for item in given.benchmarks),
    )


def _benchmark(given: benchmarks.Benchmark) -> result.Benchmark:
    return result.Benchmark(
        name=given.name,
        tasks=tuple(given.tasks),
        few_shot=given.few_shot,
        forms=tuple(result.PromptForm(**form.model_dump()) for form in given.forms),
        form_selection=given.form_selection or benchmarks.FORM_SELECTION,
    )


def _set(given: evaluation.EvaluationSet, sources: dict[str, result.Source]) -> result.EvaluationSet:
    if given.uri is None and given.name in sources:
        return _source_set(sources[given.name], given.role, given.label_field, given.date_field)
    assert given.role is not None
    return result.EvaluationSet(
        name=given.name,
        role=given.role,
        uri=given.uri,
        format=None if given.uri is None else format_of(given.uri),
        text_field=given.text_field,
        label_field=given.label_field,
        date_field=given.date_field,
    )


def _source_set(
    source: result.Source, role: result.Role | None, label_field: str, date_field: str
) -> result.EvaluationSet:
    default = result.Role.NEW if source.group is result.Group.CORPUS else result.Role.RETAINED
    return result.EvaluationSet(
        name=source.name,
        role=role or default,
        uri=None,
        format=source.format,
        text_field=source.text_field,
        label_field=label_field,
        date_field=date_field,
    )


def _gates(given: evaluation.Gates | None) -> result.Gates | None:
    limits = () if given is None else (given.max_forgetting, given.min_gain, given.max_negative_flips)
    if given is None or all(limit is None for limit in limits):
        return None
    return result.Gates(
        max_forgetting=given.max_forgetting,
        min_gain=given.min_gain,
        max_negative_flips=given.max_negative_flips,
        on_forgetting=given.on_forgetting,
    )


def _finish(given: list[FinishStep]) -> tuple[result.FinishStep, ...]:
    steps = []
    for step in given:
        ((kind, options),) = step.model_dump(mode="json", by_alias=True, exclude_none=True).items()
        steps.append(result.FinishStep(kind=kind, options=options))
    return tuple(steps)


def _operation(given: RunSpec) -> dict[str, Any]:
    """How to run, not what: outside the digest."""
    names = {
        "compute",
        "retries",
        "suspend",
        "credentials",
        "active_deadline_seconds",
        "ttl_seconds_after_finished",
    }
    return given.model_dump(mode="json", by_alias=True, include=names)
