"""What is done with the weights after training: the list `spec.finish`."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from rewarm_api import quantity
from rewarm_api.base_model import FileModel, HuggingFace, MlflowModel, S3Model, Volume
from rewarm_api.fields import CheckpointName, Integer, Name, Number, Path, Spec


def _coefficient(value: Any) -> float | str:
    """Auto, a number from 0 to 1, or a percentage, as one form."""
    if value == "Auto":
        return "Auto"
    if isinstance(value, str) and quantity.is_percent(value):
        try:
            return float(Decimal(quantity.canonical_percent(value)[:-1]) / 100)
        except quantity.QuantityError:
            pass
    elif isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1:
        return float(value)
    expected = "Auto, or a coefficient from 0 (as trained) to 1 (the base)"
    raise PydanticCustomError(
        "quantity", "expected {expected}; {fix}", {"expected": expected, "fix": "write Auto, or a number such as 0.3"}
    )


# No OpenAPI type covers both text and fractions, so a server takes anything here and `validate` says no.
Coefficient = Annotated[
    float | str, BeforeValidator(_coefficient), WithJsonSchema({"x-kubernetes-preserve-unknown-fields": True})
]


class FinishedRun(Spec):
    """A checkpoint of another run: exactly one of name and path."""

    name: Name | None = None
    """Name of the run."""
    path: Path | None = None
    """Work folder of a local run, relative to the manifest's. Local runs only."""
    checkpoint: CheckpointName = "Final"
    """Final, Latest, Best, or a step number."""


class ModelSource(Spec):
    """A model: exactly one source."""

    hugging_face: HuggingFace | None = None
    """A repository of the Hugging Face hub."""
    s3: S3Model | None = None
    """A model folder in a bucket."""
    volume: Volume | None = None
    """A model folder on a persistent volume claim. On a cluster only."""
    file: FileModel | None = None
    """A model folder on this machine. Local runs only."""
    mlflow: MlflowModel | None = None
    """A registered model."""
    run: FinishedRun | None = None
    """A checkpoint of another run."""


class Average(Spec):
    """The average of the run's last checkpoints. Only first: it begins with checkpoints."""

    last: Annotated[Integer, Field(ge=2, le=1000)] = 6
    """How many, the final one included. They are kept until then."""
    kind: Literal["SMA", "EMA", "GeometricEMA"] = "SMA"
    """SMA: all alike. EMA: avg <- alpha * newest + (1 - alpha) * avg. GeometricEMA: the newest weighs 1, the one
    before alpha, then alpha^2, divided by their sum."""
    alpha: Annotated[Number, Field(gt=0, le=1)] = 0.2
    """Of EMA and GeometricEMA."""


class Soup(Spec):
    """The mean of this run's model and those of other runs from one ancestor."""

    runs: Annotated[list[FinishedRun], Field(min_length=1, max_length=16)]
    """The other runs."""
    kind: Literal["Greedy", "Uniform"] = "Greedy"
    """Greedy: best first, and only what lowers the loss on the selection split stays. Uniform: all."""


class Interpolate(Spec):
    """Back towards the base model: less forgotten, less learned."""

    towards_base: Coefficient = "Auto"
    """0 is the model as trained, 1 the base. Auto: the best on the selection split, within gates.maxForgetting."""


class InstructResidual(Spec):
    """What instruction tuning had changed in the base, added to the trained model."""

    instruct: ModelSource
    """The instruct model of the base."""
    base: ModelSource | None = None
    """The base that the instruct model was made from. Default: this run's base model."""


class FinishStep(Spec):
    """One step: exactly one of these."""

    average: Average | None = None
    """The average of the run's last checkpoints."""
    soup: Soup | None = None
    """The mean with models of other runs."""
    interpolate: Interpolate | None = None
    """Back towards the base model."""
    instruct_residual: InstructResidual | None = None
    """The difference of an instruct model to its base, added."""


Finish = Annotated[list[FinishStep], Field(max_length=8)]
