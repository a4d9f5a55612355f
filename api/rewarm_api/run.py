"""The spec of a ContinualRun, field by field: what may be written, what it means, what stands there when it is absent.

Only the shape lives here. Rules that join fields are in `rules.py`; what the fields come to is in `resolve.py`.
A field stands here only once it works.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from rewarm_api.base_model import BaseModel
from rewarm_api.fields import (
    Digest,
    FieldName,
    Flag,
    Integer,
    KubernetesName,
    Label,
    Length,
    Mark,
    MicroBatchRows,
    Name,
    Number,
    Path,
    Percent,
    Spec,
    Text,
    TokenQuantity,
    Uri,
    Words,
)
from rewarm_api.pod_template import PodTemplate
from rewarm_api.snapshot import Decay, Format, Role

API_VERSION = "rewarm.dev/v1alpha1"
KIND = "ContinualRun"


class Source(Spec):
    """One source of training text."""

    name: Name
    """Name, unique across corpus and replay."""
    uri: Uri
    """s3:// file:// hf:// or claim://NAME/path; a glob is allowed. A local run also takes a path, relative to the
    manifest's folder."""
    format: Format | None = None
    """Parquet, JsonLines, Text or Tokens. Default: by suffix (.gz and .zst too)."""
    text_field: FieldName = "text"
    """Field that holds a document's text."""
    group_field: FieldName = ""
    """Field that names a document's origin: documents of one origin stay on one side of the hold-out."""
    weight: Annotated[Number, Field(gt=0)] | None = None
    """Weight within its group: all sources of a group or none. Default: by training rows."""
    license: Words | None = None
    """Licence, carried into the model card."""
    digest: Digest | None = None
    """Pin: a changed corpus is refused, not silently trained on."""
    bad_lines: Annotated[Integer, Field(ge=0, le=2**53 - 1)] = 0
    """How many undecodable lines or broken documents are tolerated; each is logged."""


Sources = Annotated[list[Source], Field(max_length=64)]


class Corpus(Spec):
    """The new domain."""

    sources: Annotated[list[Source], Field(min_length=1, max_length=64)]
    """One or more sources."""


class FromRun(Spec):
    """A finished run whose training text is replayed: exactly one of name and path."""

    name: Name | None = None
    """Name of the run."""
    path: Path | None = None
    """Work folder of a local run, relative to the manifest's. Local runs only."""


class Replay(Spec):
    """Old text mixed into the new, against forgetting."""

    ratio: Annotated[Number, Field(ge=0, lt=1)]
    """Share of all training rows drawn from replay."""
    sources: Sources = Field(default_factory=list)
    """Sources to replay; at ratio 0 they are only held out from, to measure forgetting."""
    from_run: FromRun | None = None
    """Replay what a finished run really saw, instead of sources."""
    method: Literal["Interleave"] = "Interleave"
    """How replay rows enter training."""
    max_repeats: Annotated[Integer, Field(ge=1, le=1_000_000)] = 4
    """Refuse to repeat a replay source more often than this."""


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


class Optimizer(Spec):
    """The optimizer of the weights."""

    kind: Literal["AdamW"] = "AdamW"
    """Algorithm."""
    beta1: Annotated[Number, Field(ge=0, lt=1)] = 0.9
    """Decay of the first moment."""
    beta2: Annotated[Number, Field(ge=0, lt=1)] = 0.95
    """Decay of the second moment."""
    epsilon: Annotated[Number, Field(gt=0)] = 1.0e-8
    """Added to the denominator."""
    weight_decay: Annotated[Number, Field(ge=0)] = 0.1
    """Decoupled weight decay; not on norms and biases."""
    gradient_clip: Annotated[Number, Field(gt=0)] = 1.0
    """Largest norm of the gradient."""


class Divergence(Spec):
    """What to do when the loss diverges."""

    rollbacks: Annotated[Integer, Field(ge=0, le=1000)] = 2
    """How often to go back to the last good checkpoint before giving up."""
    skip_steps: Annotated[Integer, Field(ge=1, le=1_000_000)] = 16
    """Steps of rows to pass over after a rollback."""


class Training(Spec):
    """How the weights are updated."""

    sequence_length: Annotated[Integer, Field(ge=1, le=16_777_216)]
    """Tokens of a row."""
    global_batch_tokens: TokenQuantity
    """Tokens of an update over all processes; a multiple of sequenceLength."""
    micro_batch_rows: MicroBatchRows = "Auto"
    """Rows that one process computes at a time; Auto finds them."""
    optimizer: Optimizer = Optimizer()
    """Optimizer."""
    precision: Literal["BF16", "FP32"] | None = None
    """Of the computation only, master weights are FP32. Default: by device."""
    document_masking: Flag = True
    """Packed documents never attend to each other."""
    document_start: Literal["Tokenizer", "BOS", "None"] = "Tokenizer"
    """What a document begins with."""
    activation_checkpointing: Literal["None", "Selective", "Full"] = "None"
    """Recompute activations to save memory."""
    freeze: Annotated[list[Words], Field(max_length=64)] = Field(default_factory=list)
    """Name patterns of parameters that stay as they are."""
    adaptation: Literal["Full"] = "Full"
    """Which weights are trained."""
    divergence: Divergence = Divergence()
    """What to do when the loss diverges."""
    seed: Annotated[Integer, Field(ge=0, le=2**32 - 1)] = 0
    """Of the order of rows, of dropout and of random weights."""


class HeldOut(Spec):
    """How many documents of each source are kept out of training, to be scored."""

    fraction: Percent = "5%"
    """Share of a source's documents."""
    minimum_documents: Annotated[Integer, Field(ge=1, le=1_000_000_000)] = 64
    """At least this many, up to a fifth of the source."""
    maximum_tokens: TokenQuantity = 1_000_000
    """Nothing is added beyond these tokens once the minimum is met."""


class EvaluationSet(Spec):
    """Documents to score."""

    name: Name
    """Name of the set; without uri it names a source."""
    role: Role | None = None
    """New or Retained. Default for a set of a source: New for corpus, Retained for replay."""
    uri: Uri | None = None
    """Where the documents are. Without it they are held out of the source of that name, never trained on."""
    text_field: FieldName = "text"
    """Field that holds a document's text."""
    label_field: FieldName = ""
    """Field that holds a document's label."""
    date_field: FieldName = ""
    """Field that holds a document's date."""


class Evaluation(Spec):
    """What is scored, and when."""

    every: Mark | None = None
    """Tokens or percent of the plan between looks; denser early. Default: 20 looks."""
    held_out: HeldOut = HeldOut()
    """Documents kept out of training."""
    look_tokens: TokenQuantity = 100_000
    """Looks between baseline and final score this much of each set."""
    sets: Annotated[list[EvaluationSet], Field(max_length=64)] = Field(default_factory=list)
    """Sets to score. Default: one per source."""


class Gates(Spec):
    """What a candidate must show before it may be promoted."""

    max_forgetting: Number | None = None
    """Largest loss increase on any Retained set, in nats per token."""
    min_gain: Number | None = None
    """Smallest loss decrease on every New set, in nats per token."""
    on_forgetting: Literal["Warn", "RaiseReplay", "Stop"] = "Warn"
    """What to do when forgetting exceeds its gate during training, after the stability gap. May change at any time."""


class Checkpoints(Spec):
    """Where and when checkpoints are committed."""

    uri: Uri | None = None
    """s3:// or claim://NAME/path. Default: the chart's; of a local run the work folder."""
    every: Mark | None = None
    """Tokens or percent of the plan between checkpoints. Default: a tenth of the plan."""
    every_minutes: Annotated[Number, Field(gt=0, le=1_000_000)] = 30
    """Minutes between checkpoints."""
    keep: Annotated[Integer, Field(ge=1, le=1000)] = 3
    """How many of the newest are kept, beside the best."""


class Cache(Spec):
    """Prepared shards and baselines."""

    uri: Uri | None = None
    """s3:// or claim://NAME/path. Default: the chart's; of a local run the user's cache folder."""


class Credential(Spec):
    """A secret given to the pods as environment."""

    secret: KubernetesName
    """Name of the Secret."""


class Tracking(Spec):
    """Where metrics and models are recorded."""

    uri: Uri | None = None
    """Of the MLflow server. Default: the chart's; of a local run sqlite in the work folder."""
    experiment: Words | None = None
    """Experiment. Default: the run's name."""
    registered_model: Words | None = None
    """Registered model. Default: the run's name."""
    promote_alias: Annotated[Text, Field(pattern=r"^[a-zA-Z][-_a-zA-Z0-9.]*$", max_length=255)] = "champion"
    """Alias that a model gets when its gates pass."""


class Compute(Spec):
    """Machines. May change while suspended."""

    nodes: Annotated[Integer, Field(ge=1, le=4096)] = 1
    """Pods."""
    gpus_per_node: Annotated[Integer, Field(ge=0, le=64)] = 1
    """GPUs of each pod; 0 trains on the CPU."""
    gpu_resource: Label = "nvidia.com/gpu"
    """Resource name of a GPU."""
    image: Annotated[Text, Field(max_length=1024)] = ""
    """Container image. Default: the operator's trainer image."""
    queue: KubernetesName | None = None
    """Kueue LocalQueue."""
    priority_class: KubernetesName | None = None
    """Priority class of the pods."""
    workload_priority_class: Annotated[Text, Field(max_length=253)] = ""
    """Priority class of Kueue's Workload."""
    termination_grace_period_seconds: Annotated[Integer, Field(ge=31, le=86_400)] = 300
    """Time to commit a checkpoint after SIGTERM."""
    pod_template: PodTemplate | None = None
    """What is added to each pod."""


class Retries(Spec):
    """How often a run is tried again. May change at any time."""

    max_failures: Annotated[Integer, Field(ge=0, le=1_000_000)] = 3
    """Failures since the last new commit."""
    max_disruptions: Annotated[Integer, Field(ge=0, le=1_000_000)] = 100
    """Preemptions, evictions and lost nodes."""


class RunSpec(Spec):
    """One continual pretraining run."""

    base_model: BaseModel
    """Where the weights come from: exactly one source."""
    corpus: Corpus
    """The new domain."""
    replay: Replay | None = None
    """Old text mixed into the new, against forgetting. Default: none."""
    schedule: Schedule
    """The learning rate as a function of tokens."""
    budget: Budget
    """How long to train: exactly one of tokens and epochs."""
    training: Training
    """How the weights are updated."""
    evaluation: Evaluation = Evaluation()
    """What is scored, and when."""
    gates: Gates | None = None
    """What a candidate must show before it may be promoted. Default: none, then nothing is promoted."""
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
