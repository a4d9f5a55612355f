"""The spec of a ContinualRun, field by field: what may be written, what it means, what stands there when it is absent.

Only the shape lives here. Rules that join fields are in `rules.py`; what the fields come to is in `resolve.py`.
A field stands here only once it works.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from rewarm_api.base_model import BaseModel
from rewarm_api.controllers import MixtureControl
from rewarm_api.corpus import Corpus, Replay
from rewarm_api.evaluation import Evaluation, Gates
from rewarm_api.fields import Flag, Integer, KubernetesName, Name, Spec, Text
from rewarm_api.finish import Finish
from rewarm_api.operation import Cache, Checkpoints, Compute, Credential, Retries, Tracking
from rewarm_api.phases import RunPhase
from rewarm_api.schedule import Budget, Schedule
from rewarm_api.training import Training

API_VERSION = "rewarm.dev/v1alpha1"
KIND = "ContinualRun"


class RunSpec(Spec):
    """One continual pretraining run."""

    base_model: BaseModel
    """Where the weights come from: exactly one source."""
    corpus: Corpus
    """The new domain."""
    replay: Replay | None = None
    """Old text mixed into the new, against forgetting. Default: none."""
    mixture: MixtureControl | None = None
    """Moves the weights of sources during training. Default: they stand."""
    schedule: Schedule
    """The learning rate as a function of tokens."""
    budget: Budget
    """How long to train: exactly one of tokens and epochs."""
    training: Training
    """How the weights are updated."""
    phases: Annotated[list[RunPhase], Field(max_length=32)] = Field(default_factory=list)
    """Consecutive stretches of the plan with a mixture or a learning rate of their own. Default: none."""
    evaluation: Evaluation = Evaluation()
    """What is scored, and when."""
    gates: Gates | None = None
    """What a candidate must show before it may be promoted. Default: none, then nothing is promoted."""
    finish: Finish = Field(default_factory=list)
    """What is done with the weights after training, in order. The verdict is that of the result."""
    checkpoints: Checkpoints = Checkpoints()
    """Where and when checkpoints are committed."""
    cache: Cache = Cache()
    """Prepared shards and baselines."""
    credentials: Annotated[list[Credential], Field(max_length=16)] = Field(default_factory=list)
    """Secrets given to the pods as environment."""
    tracking: Tracking = Tracking()
    """Where metrics and models are recorded."""
    compute: Compute = Compute()
    """Machines. May change while suspended."""
    retries: Retries = Retries()
    """How often a run is tried again. May change at any time."""
    active_deadline_seconds: Annotated[Integer, Field(ge=1, le=2**31 - 1)] | None = None
    """Longest training time, waiting apart. May change at any time."""
    ttl_seconds_after_finished: Annotated[Integer, Field(ge=0, le=2**31 - 1)] | None = None
    """Lifetime of the finished run's Jobs. May change at any time."""
    suspend: Flag = False
    """Stop after committing a checkpoint. May change at any time."""


class Metadata(Spec):
    """The part of an object's metadata that a person writes."""

    name: Name
    """Name of the run; Job, Service and host names derive from it."""
    namespace: KubernetesName | None = None
    """Namespace on the cluster."""
    labels: dict[str, Text] = Field(default_factory=dict)
    """Labels."""
    annotations: dict[str, Text] = Field(default_factory=dict)
    """Annotations."""


class ContinualRun(Spec):
    """Continual pretraining of a language model: re-warm, replay, and an honest verdict on what was forgotten."""

    api_version: Literal["rewarm.dev/v1alpha1"]
    """Version of this schema."""
    kind: Literal["ContinualRun"]
    """Kind of this object."""
    metadata: Metadata
    """Name and namespace."""
    spec: RunSpec
    """One continual pretraining run."""
