"""The phases of a run: consecutive stretches of the plan, each with its own mixture and learning rate."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from rewarm_api.fields import FieldName, Integer, Name, Number, Percent, Spec, Text
from rewarm_api.snapshot import Decay


class PhaseRate(Spec):
    """The learning rate of a phase, from its start to its end, instead of the schedule's."""

    first: Annotated[Number, Field(ge=0, alias="from")]
    """Learning rate where the phase begins."""
    last: Annotated[Number, Field(ge=0, alias="to")]
    """Learning rate of the phase's last update."""
    decay: Decay = Decay.LINEAR
    """Shape; a rate that rises is Linear."""
    timescale: Annotated[Number, Field(gt=0)] = 10.0
    """Steepness of InverseSqrt; only with it."""


class RunPhase(Spec):
    """A stretch of the plan."""

    name: Name
    """Name, unique among the phases."""
    share: Percent
    """Share of the plan; those of all phases add up to 100%."""
    weights: Annotated[dict[Text, Annotated[Number, Field(ge=0)]], Field(max_length=64)] | None = None
    """Weights of sources by name: all sources of a group (corpus, replay) or none of it; 0 leaves a source out.
    Default: the sources' own."""
    replay_ratio: Annotated[Number, Field(ge=0, lt=1)] | None = None
    """Share of the phase's rows drawn from replay. Default: replay.ratio."""
    learning_rate: PhaseRate | None = None
    """Learning rate of the phase. Default: the schedule's."""
    sequence_length: Annotated[Integer, Field(ge=1, le=16_777_216)] | None = None
    """Tokens of a row in this phase: training.sequenceLength, the longest of the run, or a length that divides it;
    every row is then cut into pieces of so many tokens. Default: training.sequenceLength."""
    order: Literal["Shuffled", "Ascending"] = "Shuffled"
    """Order of the corpus rows of the phase: at random, or by their documents' score, the best last."""
    order_by: Annotated[FieldName, Field(min_length=1)] | None = None
    """Column of the corpus that holds a document's score, a number; only with Ascending. Default: score."""
