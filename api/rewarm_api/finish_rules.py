"""Rules of `spec.finish`, and of its addresses. `validate` imports this module; broken fields are None."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rewarm_api.errors import Problem
from rewarm_api.finish import FinishStep
from rewarm_api.messages import NOTHING
from rewarm_api.quantity import is_percent, parse_length
from rewarm_api.rules import exactly_one, rule
from rewarm_api.snapshot import Plan

KINDS = tuple(FinishStep.model_fields)
CHECKPOINT_EVERY = "10%"


def steps_of(spec: Any) -> Iterator[tuple[str, Any]]:
    """(path, step); broken ones are left out."""
    for index, step in enumerate(spec.finish or []):
        if step is not None:
            yield f"spec.finish[{index}]", step


def models_of(spec: Any) -> Iterator[tuple[str, Any]]:
    """(path, union) of every model that an instruction residual names."""
    for path, step in steps_of(spec):
        if step.instruct_residual is not None:
            for alias, part in (("instruct", step.instruct_residual.instruct), ("base", step.instruct_residual.base)):
                if part is not None:
                    yield f"{path}.instructResidual.{alias}", part


def runs_of(spec: Any) -> Iterator[tuple[str, Any]]:
    """(path, run) of every other run that finish names."""
    for path, step in steps_of(spec):
        for index, run in enumerate((step.soup and step.soup.runs) or []):
            if run is not None:
                yield f"{path}.soup.runs[{index}]", run
    for path, model in models_of(spec):
        if model.run is not None:
            yield f"{path}.run", model.run


@rule("finish")
def each_step_is_one(spec: Any) -> Iterator[Problem]:
    for path, step in steps_of(spec):
        yield from exactly_one(path, step, *KINDS)
    for path, model in models_of(spec):
        yield from exactly_one(path, model, *type(model).model_fields)
        if model.mlflow is not None:
            yield from exactly_one(f"{path}.mlflow", model.mlflow, "alias", "version")
    for path, run in runs_of(spec):
        yield from exactly_one(path, run, "name", "path")


@rule("finish")
def an_average_begins(spec: Any) -> Iterator[Problem]:
    for number, (path, step) in enumerate(steps_of(spec)):
        if number and step.average is not None:
            expected = "average only as the first step: it is made of checkpoints, not of what a step before it gave"
            yield Problem(f"{path}.average", "average after another step", expected, "move it to the front")


@rule("finish")
def alpha_belongs_to_an_ema(spec: Any) -> Iterator[Problem]:
    for path, step in steps_of(spec):
        average = step.average
        if average is not None and average.kind == "SMA" and "alpha" in average.model_fields_set:
            yield Problem(
                f"{path}.average.alpha", "alpha with kind SMA", "alpha only with EMA and GeometricEMA",
                "remove alpha, or choose EMA",
            )  # fmt: skip


@rule("finish", "baseModel")
def there_is_a_base_to_go_back_to(spec: Any) -> Iterator[Problem]:
    if spec.base_model.scratch is None:
        return
    for path, step in steps_of(spec):
        if step.interpolate is not None:
            expected = "a base that was trained: towards random weights there is nothing to keep"
            yield Problem(f"{path}.interpolate", "interpolate with baseModel.scratch", expected, "remove this step")
        residual = step.instruct_residual
        if residual is not None and "base" not in residual.model_fields_set:
            expected = "the base that the instruct model was made from; this run's own are random weights"
            yield Problem(f"{path}.instructResidual.base", NOTHING, expected, "add base")


@rule("finish", "budget.tokens", "budget.epochs", "checkpoints.every", "training.globalBatchTokens")
def the_plan_has_so_many_checkpoints(spec: Any) -> Iterator[Problem]:
    if not spec.budget.tokens:
        return
    batch = spec.training.global_batch_tokens
    tokens = -(-spec.budget.tokens // batch) * batch
    every = spec.checkpoints.every or CHECKPOINT_EVERY
    distance = parse_length(every, tokens)
    found = checkpoints_of(tokens, batch, max(distance, batch) if is_percent(every) else distance)
    for path, step in steps_of(spec):
        if step.average is not None and step.average.last is not None and step.average.last > found:
            yield _too_many(path, step.average.last, found)


def checkpoints_of(tokens: int, batch: int, every: int) -> int:
    """How many checkpoints by tokens a plan commits: the marks of `every`, and the last step."""
    return tokens // batch if every <= batch else (tokens - batch) // every + 1


def average_problem(finish: tuple[Any, ...], plan: Plan) -> Problem | None:
    """What `the_plan_has_so_many_checkpoints` could not know while the budget was in epochs."""
    found = checkpoints_of(plan.tokens, plan.tokens_per_step, plan.checkpoint_every)
    for index, step in enumerate(finish):
        if step.kind == "average" and step.options["last"] > found:
            return _too_many(f"spec.finish[{index}]", step.options["last"], found)
    return None


def _too_many(path: str, last: int, found: int) -> Problem:
    expected = f"at most {found}: so many checkpoints by tokens are committed on the way"
    return Problem(f"{path}.average.last", str(last), expected, "average fewer, or lower spec.checkpoints.every")
