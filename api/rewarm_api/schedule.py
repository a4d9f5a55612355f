"""The learning rate and the budget of a run."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from rewarm_api.fields import Length, Number, Spec, TokenQuantity
from rewarm_api.snapshot import Decay


class Cooldown(Spec):
    """From the peak to the constant rate of an Infinite schedule."""

    length: Length
    """Tokens or percent of the plan."""
    decay: Literal[Decay.COSINE, Decay.INVERSE_SQRT] = Decay.COSINE
    """Shape."""
    timescale: Annotated[Number, Field(gt=0)] = 10.0
    """Steepness of InverseSqrt; only with it."""


class Anneal(Spec):
    """From the constant to the final rate of an Infinite schedule."""

    length: Length
    """Tokens or percent of the plan."""
    decay: Literal[Decay.EXPONENTIAL, Decay.LINEAR, Decay.ONE_MINUS_SQRT] = Decay.EXPONENTIAL
    """Shape."""


class Schedule(Spec):
    """The learning rate as a function of tokens."""

    kind: Literal["Rewarm", "Infinite", "WarmupStableDecay", "Constant"] = "Rewarm"
    """Which segments the schedule has."""
    peak_learning_rate: Annotated[Number, Field(gt=0)]
    """Learning rate at the end of warm-up."""
    final_learning_rate: Annotated[Number, Field(ge=0)] | None = None
    """Learning rate of the last update. Default: a tenth of the peak."""
    constant_learning_rate: Annotated[Number, Field(ge=0)] | None = None
    """Learning rate of the constant segment; required by Infinite."""
    warmup: Length = "1%"
    """Linear from 0 to the peak: tokens or percent of the plan."""
    decay: Decay | None = None
    """Shape of the decay. Default: Cosine for Rewarm, OneMinusSqrt for WarmupStableDecay."""
    decay_length: Length | None = None
    """Tokens or percent of the plan; required by WarmupStableDecay."""
    timescale: Annotated[Number, Field(gt=0)] = 10.0
    """Steepness of InverseSqrt; only with it."""
    cooldown: Cooldown | None = None
    """From the peak to the constant rate; required by Infinite."""
    anneal: Anneal | None = None
    """From the constant to the final rate of Infinite; without it the run ends as a trunk."""
    optimizer_state: Literal["Keep", "ResetMoments", "Reset"] | None = None
    """What to take over from the base run's optimizer. Default: Keep when continuing the constant segment of an
    Infinite run, else Reset."""


class Budget(Spec):
    """How long to train: exactly one of tokens and epochs."""

    tokens: TokenQuantity | None = None
    """Training tokens, rounded up to whole steps."""
    epochs: Annotated[Number, Field(gt=0, le=1_000_000)] | None = None
    """Times through the corpus."""
