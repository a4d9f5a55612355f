"""The status of a ContinualRun: observation only, bounded, and never needed to decide what to do next.

Every field may be absent: an observer writes what it knows. Machines read conditions; `summary` is for eyes.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from rewarm_api.fields import TIME_PATTERN, Digest, Flag, Integer, Name, Number, Spec, Text
from rewarm_api.messages import one_line
from rewarm_api.snapshot import Role


def _moment(text: str) -> str:
    """Empty, or a moment in RFC 3339 with its offset; years outside 1970 to 2999 overflow in somebody's arithmetic."""
    if text and not (datetime.fromisoformat(text).tzinfo and 1970 <= int(text[:4]) <= 2999):
        raise ValueError("expected a moment such as 2026-01-31T12:00:00Z")
    return text


def _line(value: Any) -> str:
    if not isinstance(value, str):
        raise PydanticCustomError("string_type", "expected text")
    return one_line(value)


Count = Annotated[Integer, Field(ge=0, le=2**53 - 1)]
ShortText = Annotated[Text, Field(max_length=256)]
Address = Annotated[Text, Field(max_length=2048)]
Time = Annotated[Text, Field(max_length=64, pattern=TIME_PATTERN), AfterValidator(_moment)]
"""RFC 3339 with an offset, or empty."""
Line = Annotated[str, BeforeValidator(_line)]
"""Any text; it becomes one printable line of at most 1024 characters."""

Cause = Literal[
    "Completed", "Preempted", "Evicted", "NodeLost", "Hang", "InvalidSpec", "BadData", "Diverged", "MissingInput",
    "DependencyUnavailable", "OutOfMemory", "Unknown", "Suspended",
]  # fmt: skip
Summary = Literal[
    "Pending", "Preparing", "Queued", "Starting", "Training", "Evaluating", "Suspended", "Retrying", "Succeeded",
    "Failed",
]  # fmt: skip
CONDITION_TYPES = (
    "Succeeded", "SpecValid", "DataReady", "Admitted", "Running", "Checkpointed", "Evaluated", "GatesPassed",
    "Registered", "Suspended", "Stalled", "Degraded",
)  # fmt: skip


class Observation(Spec):
    """A part of what was observed. Code may also build it by the names of its attributes."""

    model_config = ConfigDict(validate_by_name=True)


class Condition(Observation):
    """One observed fact, in the form of Kubernetes' own conditions."""

    type: Annotated[Text, Field(min_length=1, max_length=316)]
    """Name of the fact."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    reason: Annotated[Text, Field(max_length=1024)] = ""
    """Why, in one word for machines."""
    message: Annotated[Text, Field(max_length=32768)] = ""
    """Why, in a sentence for people."""
    last_transition_time: Time = ""
    """When status last changed."""
    observed_generation: Count = 0
    """Generation of the spec that this was observed for."""


class Phase(Observation):
    """What rank 0 is doing, by its heartbeat."""

    name: ShortText = ""
    """Phase of the run."""
    activity: ShortText = ""
    """What is being done, for example Training."""
    deadline: Time = ""
    """When it counts as hung."""


class Progress(Observation):
    """How far training has come."""

    step: Count = 0
    """Updates done."""
    tokens: Count = 0
    """Tokens trained."""
    target_tokens: Count = 0
    """Tokens of the plan."""
    percent: Annotated[Integer, Field(ge=0, le=100)] = 0
    """Tokens trained of the plan's."""
    tokens_per_second: Annotated[Number, Field(ge=0)] = 0
    """Speed."""
    eta_seconds: Annotated[Number, Field(ge=0)] | None = None
    """Time left."""


class Delta(Observation):
    """Candidate minus base over the same documents, in nats per token; below zero is better."""

    mean: Number
    """Estimate."""
    low: Number | None = None
    """Lower end of the interval."""
    high: Number | None = None
    """Upper end of the interval."""
    confidence: Annotated[Number, Field(ge=0, le=1)] = 0.95
    """Of the interval."""


class SetEvaluation(Observation):
    """One evaluation set."""

    set: Name
    """Name of the set."""
    role: Role
    """New or Retained."""
    baseline: Number | None = None
    """Loss of the base, in nats per token."""
    latest: Number | None = None
    """Loss at the newest look."""
    delta: Delta | None = None
    """Latest minus baseline."""
    verdict: Literal["Win", "Lose", "Tie"] | None = None
    """Absent below 30 documents."""


class ForgettingSummary(Observation):
    """Loss increase over Retained sets, in nats per token; positive is worse."""

    max: Number | None = None
    """Largest."""
    mean: Number | None = None
    """Unweighted mean."""


class Gain(Observation):
    """Loss decrease over New sets, in nats per token; positive is better."""

    mean: Number | None = None
    """Unweighted mean."""


class GateResult(Observation):
    """One gate."""

    name: ShortText
    """Name of the gate in the spec."""
    limit: Number
    """As the spec has it."""
    value: Number | None = None
    """What was measured."""
    result: Literal["Pass", "Fail", "Inconclusive"]
    """Whether the interval clears the limit."""


class Promotion(Observation):
    """Whether the candidate got the alias."""

    promoted: Flag = False
    """It did."""
    reason: Annotated[Text, Field(max_length=1024)] = ""
    """Why, or why not."""


class ReplayShare(Observation):
    """Share of training rows drawn from replay."""

    requested: Annotated[Number, Field(ge=0, lt=1)] = 0
    """As the spec has it."""
    realized: Annotated[Number, Field(ge=0, le=1)] | None = None
    """As counted."""


class Counts(Observation):
    """Written before the next attempt is made."""

    attempts: Count = 0
    """Attempts made."""
    failures: Count = 0
    """Failures since the last new commit."""
    disruptions: Count = 0
    """Disruptions."""


class Attempt(Observation):
    """One attempt."""

    number: Annotated[Integer, Field(ge=1, le=2**53 - 1)]
    """From 1."""
    cause: Cause | None = None
    """Why it ended; absent while it runs."""
    start_time: Time = ""
    """When it began."""
    end_time: Time = ""
    """When it ended."""
    first_step: Count | None = None
    """First update."""
    last_step: Count | None = None
    """Last update."""
    tokens_recomputed: Count = 0
    """Tokens trained again since the checkpoint it resumed from."""


class Checkpoint(Observation):
    """The newest committed checkpoint."""

    uri: Address = ""
    """Where it is."""
    step: Count = 0
    """Its update."""
    committed_at: Time = ""
    """When it was committed."""
    sha256: Annotated[Text, Field(pattern=r"^[0-9a-f]{64}$", max_length=64)] | None = None
    """Digest of its manifest."""


class TrackingStatus(Observation):
    """Where to look the run up."""

    run_id: ShortText = ""
    """MLflow run."""
    url: Address = ""
    """Page of the run."""
    model_version: ShortText = ""
    """Registered version."""


class RunStatus(Observation):
    """What was observed of a run."""

    observed_generation: Count | None = None
    """Newest generation of the spec that was looked at."""
    snapshot_digest: Digest | None = None
    """From here on the experiment is immutable."""
    summary: Summary | None = None
    """For display only; machines read conditions."""
    conditions: Annotated[list[Condition], Field(max_length=32)] = Field(default_factory=list)
    """Observed facts."""
    phase: Phase | None = None
    """What rank 0 is doing, by its heartbeat."""
    progress: Progress | None = None
    """How far training has come."""
    learning_rate: Annotated[Number, Field(ge=0)] | None = None
    """Of the last update."""
    evaluation: Annotated[list[SetEvaluation], Field(max_length=128)] = Field(default_factory=list)
    """Evaluation sets."""
    forgetting: ForgettingSummary | None = None
    """Loss increase over Retained sets."""
    gain: Gain | None = None
    """Loss decrease over New sets."""
    gates: Annotated[list[GateResult], Field(max_length=16)] = Field(default_factory=list)
    """Gates."""
    promotion: Promotion | None = None
    """Whether the candidate got the alias."""
    replay: ReplayShare | None = None
    """Share of training rows drawn from replay."""
    counts: Counts | None = None
    """Attempts and their ends."""
    training_seconds: Count | None = None
    """Seconds that all pods ran, over all attempts that have stopped; waiting is not counted."""
    attempts: Annotated[list[Attempt], Field(max_length=10)] = Field(default_factory=list)
    """The newest 10."""
    checkpoint: Checkpoint | None = None
    """The newest committed checkpoint."""
    committed_step: Count | None = None
    """Furthest update that was ever committed: only a commit beyond it clears counts.failures."""
    tracking: TrackingStatus | None = None
    """Where to look the run up."""
