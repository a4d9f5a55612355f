"""The status of a MixtureStudy: what its runs have come to, and the answers in short; the whole stands in study.json.

Bounded, whatever the size of the grid. Every field may be absent. What the fit says of a study (`StudyResult`) travels
in the termination message of its pod, so it comes from a pod and is read as such.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from rewarm_api.fields import Digest, Flag, Number
from rewarm_api.snapshot import Role
from rewarm_api.status import Address, Condition, Count, Line, Observation, ShortText

CONDITION_TYPES = ("Succeeded", "SpecValid", "RunsFinished", "Running", "Stalled", "Degraded")
MOST_ANSWERS = 16
"""Places of the grid that a status answers for; of more, those of the largest budgets."""
MOST_SETS = 32
MOST_WARNINGS = 4

Summary = Literal["Pending", "Training", "Fitting", "Succeeded", "Failed"]
Share = Annotated[Number, Field(ge=0, le=1)]


class Made(Observation):
    """A part that only travels: what a newer pod says beside it is passed over."""

    model_config = ConfigDict(extra="ignore")


class RunCounts(Observation):
    """The runs of the grid."""

    total: Count = 0
    """Of the grid, held-out ones included."""
    finished: Count = 0
    """Trained and judged."""
    running: Count = 0
    """Made, and neither finished nor failed."""
    failed: Count = 0
    """Ended without a verdict."""


class Answer(Observation):
    """A replay ratio that the laws choose."""

    model: ShortText = ""
    """Name in the grid; empty for the template's own."""
    tokens: Count | None = None
    """Budget that it holds for."""
    replay_ratio: Share | None = None
    """The ratio; absent where none was found, and `why` says so."""
    low: Share | None = None
    """Lower end of its 95 % interval."""
    high: Share | None = None
    """Upper end of its 95 % interval."""
    law: ShortText = ""
    """Which law said it."""
    at_border: Flag = False
    """It lies at the border of what was measured: it is a bound."""
    why: Line = ""
    """Why there is none, or why it is a bound."""


class LargestShare(Answer):
    """The largest share of new text, so the least replay, that keeps every Retained set within the tolerance."""

    tolerance: ShortText = ""
    """How much the loss of a Retained set may rise."""
    decided_by: ShortText = ""
    """The Retained set that reaches the tolerance first."""


class BestForCorpus(Answer):
    """The ratio that makes the most of a limited corpus."""

    corpus_tokens: Count = 0
    """New text that there is."""


class SetFit(Observation):
    """How well the laws describe one evaluation set; of several, the worst of them."""

    set: ShortText
    """Name of the set."""
    role: Role
    """New or Retained."""
    r2: Number | None = None
    """Of the fit."""
    fit_error: Annotated[Number, Field(ge=0)] | None = None
    """Mean error on the points that were fitted, in nats per token."""
    hold_out_error: Annotated[Number, Field(ge=0)] | None = None
    """Mean error on points that were not, in nats per token."""


class Artefact(Observation):
    """Where the whole of it is."""

    uri: Address = ""
    """Of study.json; study.png lies beside it."""
    digest: Digest | None = None
    """What a citation keeps."""


class StudyAnswers(Observation):
    """Answers in short."""

    largest_share: Annotated[list[LargestShare], Field(max_length=MOST_ANSWERS)] = Field(default_factory=list)
    """By model and budget."""
    best_for_corpus: Annotated[list[BestForCorpus], Field(max_length=8)] = Field(default_factory=list)
    """By model."""
    sets: Annotated[list[SetFit], Field(max_length=MOST_SETS)] = Field(default_factory=list)
    """Evaluation sets."""


class StudyResult(Made):
    """What the fit of a study says at its end."""

    answers: StudyAnswers = Field(default_factory=StudyAnswers)
    """Answers in short."""
    artefact: Artefact = Field(default_factory=Artefact)
    """Where the whole of it is."""
    warnings: Annotated[list[Line], Field(max_length=MOST_WARNINGS)] = Field(default_factory=list)
    """What a person should know before trusting an answer."""


class StudyStatus(Observation):
    """What was observed of a study."""

    observed_generation: Count | None = None
    """Newest generation of the spec that was looked at."""
    summary: Summary | None = None
    """For display only; machines read conditions."""
    conditions: Annotated[list[Condition], Field(max_length=16)] = Field(default_factory=list)
    """Observed facts."""
    runs: RunCounts | None = None
    """The runs of the grid."""
    replay_ratio: Share | None = None
    """For display only: the least replay that keeps the tolerance, at the last place of `answers.largestShare`."""
    answers: StudyAnswers | None = None
    """Answers in short."""
    artefact: Artefact | None = None
    """Where the whole of it is."""
    warnings: Annotated[list[Line], Field(max_length=MOST_WARNINGS)] = Field(default_factory=list)
    """What a person should know before trusting an answer."""
