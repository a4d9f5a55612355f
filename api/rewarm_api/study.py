"""The spec of a MixtureStudy: which mixtures are tried, so that a law can say which one a run should take.

Only the shape lives here; what joins fields is in `study_rules.py`, the runs that follow in `study_runs.py`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from rewarm_api.base_model import BaseModel
from rewarm_api.fields import FreeForm, Integer, Name, Number, Percent, Spec, TokenQuantity
from rewarm_api.run import Metadata

KIND = "MixtureStudy"
LEAST_RATIOS = 3
"""The law in the ratio has three parameters."""

Ratio = Annotated[Number, Field(ge=0, lt=1)]


class Template(Spec):
    """The runs of the study, but for what the grid sets."""

    spec: FreeForm
    """Spec of a ContinualRun without replay.ratio; without budget or baseModel where the grid lists them."""


class SizedModel(Spec):
    """A model that every mixture is tried on."""

    name: Name
    """Name within the study."""
    base_model: BaseModel
    """Where its weights come from, as in a ContinualRun."""


class Grid(Spec):
    """What is tried: every ratio with every budget and every model."""

    replay_ratios: Annotated[list[Ratio], Field(min_length=LEAST_RATIOS, max_length=32)]
    """Values of replay.ratio; at least three, since the law has three parameters, and four for an interval."""
    budgets: Annotated[list[TokenQuantity], Field(max_length=16)] = Field(default_factory=list)
    """Tokens to train. Default: the template's budget. Two or more give a law in tokens too."""
    models: Annotated[list[SizedModel], Field(max_length=8)] = Field(default_factory=list)
    """Models of several sizes with one tokenizer. Default: the template's base model."""


class HeldOutRuns(Spec):
    """Runs that no law is fitted to."""

    replay_ratios: Annotated[list[Ratio], Field(min_length=1, max_length=16)]
    """Values of replay.ratio between those of the grid, for the hold-out error."""


class StudySpec(Spec):
    """A grid of runs and the questions asked about them."""

    template: Template
    """The runs of the study, but for what the grid sets."""
    grid: Grid
    """What is tried."""
    hold_out: HeldOutRuns | None = None
    """Runs to judge the law by. Default: none; then each inner ratio is left out of the fit in turn."""
    tolerance: Percent = "3%"
    """How much the loss of every Retained set may rise above the base's, for the largest share of new text."""
    corpus_tokens: TokenQuantity | None = None
    """New text that there is, for the best ratio of a limited corpus. Default: what the corpus holds."""
    parallelism: Annotated[Integer, Field(ge=1, le=64)] = 1
    """How many runs train at the same time. May change at any time."""


class MixtureStudy(Spec):
    """A study of replay ratios: child runs on a grid, and the laws that are fitted to them."""

    api_version: Literal["rewarm.dev/v1alpha1"]
    """Version of this schema."""
    kind: Literal["MixtureStudy"]
    """Kind of this object."""
    metadata: Metadata
    """Name and namespace."""
    spec: StudySpec
    """A grid of runs and the questions asked about them."""
