"""What may move a run's mixture while it trains, by rules that the phase log records."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from rewarm_api.base_model import FileModel, HuggingFace, S3Model
from rewarm_api.fields import Integer, Mark, Name, Number, Percent, Spec
from rewarm_api.snapshot import Group


class Adaptive(Spec):
    """A feedback controller that moves the replay ratio so that forgetting stays within a budget."""

    forgetting_budget: Annotated[Number, Field(gt=0)]
    """Largest loss increase on any Retained set to aim for, in nats per token."""
    minimum: Percent
    """Lowest replay ratio."""
    maximum: Percent
    """Highest replay ratio, below 100%; maxRepeats may bound it further."""


class Teacher(Spec):
    """A model that knows the new domain: exactly one source."""

    hugging_face: HuggingFace | None = None
    """A repository of the Hugging Face hub."""
    s3: S3Model | None = None
    """A model folder in a bucket."""
    file: FileModel | None = None
    """A model folder on this machine, a checkpoint of another run for example. Local runs only."""


class DomainDiscrepancy(Spec):
    """Weights follow the perplexity of the model over that of a teacher, source by source (DDK, 2407.16154)."""

    smoothing: Annotated[Number, Field(ge=0, le=1)] = 0.5
    """Share of the rows spread evenly over the sources of a group, whatever their losses; the paper's 1 - alpha."""
    teacher: Teacher | None = None
    """Model that the corpus is measured against, of the same tokenizer. Default: the base, as for replay."""


class Edge(Spec):
    """Training on one source lowers the loss on another."""

    source: Name
    """Source that is trained on."""
    helps: Name
    """Source that gets better by it."""
    weight: Annotated[Number, Field(gt=0, le=1)] = 0.5
    """How much, beside 1 for the source itself."""


class SkillGraph(Spec):
    """Weights follow the losses of a source and of those that it helps (Skill-it, 2307.14430)."""

    rate: Annotated[Number, Field(ge=0)] = 0.2
    """How strongly losses move the weights, the paper's eta; at 0 all weigh the same."""
    window: Annotated[Integer, Field(ge=1, le=1000)] = 3
    """Updates whose losses count."""
    edges: Annotated[list[Edge], Field(max_length=256)] = Field(default_factory=list)
    """Which source helps which. Default: none, then a source's weight follows its own loss."""


class MixtureControl(Spec):
    """Weights of sources within their group that follow their losses during training: exactly one rule."""

    every: Mark = "5%"
    """Tokens or percent of the plan between updates of the weights; each takes a look."""
    domain_discrepancy: DomainDiscrepancy | None = None
    """Rows go where the model is furthest behind its teacher, in corpus and replay each."""
    skill_graph: SkillGraph | None = None
    """Rows go where losses are high and training helps, in the corpus."""


def weighed_groups(mixture: MixtureControl | None) -> frozenset[Group]:
    """The groups whose weights a mixture's rule moves; they start even."""
    if mixture is None:
        return frozenset()
    return frozenset({Group.CORPUS, Group.REPLAY} if mixture.domain_discrepancy is not None else {Group.CORPUS})
