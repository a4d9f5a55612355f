"""The snapshot: one run, resolved once, with nothing left to default. It and the pins (pins.py) drive a trainer alone.

Neither is ever recomputed once written. Names in JSON are those of the manifest.
"""

from __future__ import annotations

from decimal import Decimal
from enum import StrEnum
from typing import Any

from pydantic import Field

from rewarm_api.frozen import Frozen, added, digest_of


class Group(StrEnum):
    CORPUS = "Corpus"
    REPLAY = "Replay"


class Role(StrEnum):
    NEW = "New"
    RETAINED = "Retained"


class Format(StrEnum):
    PARQUET = "Parquet"
    JSON_LINES = "JsonLines"
    TEXT = "Text"
    TOKENS = "Tokens"


class Decay(StrEnum):
    LINEAR = "Linear"
    COSINE = "Cosine"
    ONE_MINUS_SQRT = "OneMinusSqrt"
    INVERSE_SQRT = "InverseSqrt"
    EXPONENTIAL = "Exponential"


class SegmentKind(StrEnum):
    WARMUP = "Warmup"
    COOLDOWN = "Cooldown"
    CONSTANT = "Constant"
    DECAY = "Decay"
    ANNEAL = "Anneal"


class Subset(Frozen):
    """A part of a source's training documents; one of share (percent of its bytes) and tokens (bytes / 4) is given."""

    share: str | None
    tokens: int | None
    by: str = Field(description="Random | HighestScore | LowestScore")


class Source(Frozen):
    """One source of training text."""

    name: str
    group: Group
    uri: str = Field(description="as written: relative paths are relative to the manifest's folder")
    format: Format | None = Field(description="None: rows of a Hugging Face dataset")
    text_field: str
    group_field: str
    weight: float | None = Field(description="None: by training rows (pinned by preparation)")
    license: str | None
    digest: str | None
    bad_lines: int
    score_field: str = added("", "empty: no scores are read")
    subset: Subset | None = added(None, "None: the whole source")


class FromRun(Frozen):
    """Replay what a finished run really saw."""

    name: str | None
    path: str | None


class MetaExperience(Frozen):
    """A Reptile step every `interval` updates."""

    interval: int
    epsilon: float


class Adaptive(Frozen):
    """Feedback on the replay ratio: `forgetting_budget` in nats per token, bounds as percentages of all rows."""

    forgetting_budget: float
    minimum: str = Field(description="percent, e.g. 5%")
    maximum: str = Field(description="percent, e.g. 50%")


class CitedStudy(Frozen):
    """The study that a ratio was taken from, and what its law said: found once, before this snapshot was made."""

    asked: dict[str, Any] = Field(description="as in the manifest: fromStudy, tolerance, model, extrapolate")
    study: str
    digest: str = Field(description="of its study.json")
    ratio: float
    share: float = Field(description="of new text, as the law has it: the ratio is 1 - share, rounded up")
    low: float | None = Field(description="95 % interval of the share")
    high: float | None
    law: str = Field(description="CMR | D-CPT")
    at_border: bool = Field(description="the largest share that was measured: more might do")
    tolerance: str
    tokens: int
    parameters: int
    tokenizer: str
    corpora: str = Field(description="digest of the digests and shares of its sources")
    recipe: str = Field(description="digest of schedule and training settings")


class Replay(Frozen):
    ratio: float = Field(description="share of all training rows drawn from replay, 0 <= ratio < 1")
    from_run: FromRun | None
    method: str
    max_repeats: int
    meta_experience: MetaExperience | None = added(None, "only with the method MetaExperienceReplay")
    adaptive: Adaptive | None = added(None, "None: the ratio stands")
    cited: CitedStudy | None = added(None, "the study that the ratio was taken from")
    asked: dict[str, Any] | None = added(
        None, "on a cluster: the study that preparation asks, as `cited.asked`; the ratio is 0 until it has answered"
    )


class BaseModelSource(Frozen):
    """Where the weights come from: `kind` names the one source that was given, `options` are its fields."""

    kind: str = Field(description="huggingFace | s3 | volume | file | mlflow | run | scratch")
    options: dict[str, Any]


class DomainDiscrepancy(Frozen):
    """Weights by the model's perplexity over its teacher's, by source."""

    smoothing: float = Field(description="share spread evenly over the sources of a group")
    teacher: BaseModelSource | None = Field(default=None, description="of the corpus; None: the base")


class Edge(Frozen):
    """Training on `source` lowers the loss on `helps`."""

    source: str
    helps: str
    weight: float


class SkillGraph(Frozen):
    """Weights by the losses of a source and of those that it helps."""

    rate: float
    window: int
    edges: tuple[Edge, ...] = Field(description="sorted by name; every source helps itself with weight 1")


class MixtureControl(Frozen):
    """What moves the weights of sources during training: one of the two rules."""

    every: str = Field(description="tokens or percent of the plan")
    domain_discrepancy: DomainDiscrepancy | None = None
    skill_graph: SkillGraph | None = None


class Segment(Frozen):
    """A piece of the schedule: learning rate over tokens in [start, end]; a border belongs to the earlier piece."""

    kind: SegmentKind
    start: int = Field(description="tokens")
    end: int = Field(description="tokens")
    first: float = Field(description="learning rate at start")
    last: float = Field(description="learning rate at end")
    decay: Decay = Decay.LINEAR
    timescale: float = 10.0
    since: int | None = added(None, "tokens where a phase lets this segment begin, if later than its start")
    until: int | None = added(None, "tokens where a phase ends this segment, if earlier than its end")

    @property
    def begins(self) -> int:
        """Tokens from which on this segment is used."""
        return self.start if self.since is None else self.since

    @property
    def ends(self) -> int:
        """Tokens up to which, inclusive, this segment is used."""
        return self.end if self.until is None else self.until


class PhaseRate(Frozen):
    """The learning rate of a phase, from its start to its end."""

    first: float = Field(alias="from")
    last: float = Field(alias="to")
    decay: Decay
    timescale: float


class RunPhase(Frozen):
    """A phase as asked."""

    name: str
    share: str = Field(description="percent of the plan, e.g. 85%")
    weights: dict[str, float] | None = Field(description="None: the sources' own")
    replay_ratio: float | None = Field(description="None: the run's")
    learning_rate: PhaseRate | None = Field(description="None: the schedule's")
    order_by: str = added("", "score column of an ascending order; empty: shuffled")
    sequence_length: int = added(0, "tokens of a row in this phase; 0: training.sequenceLength")


class PlannedPhase(Frozen):
    """A phase of a plan: `steps` updates after the first `first_step` ones."""

    name: str
    first_step: int
    steps: int
    weights: dict[str, float] | None = Field(description="None: the sources' own")
    ratio: float | None = Field(description="None: the run's replay ratio")
    order_by: str = added("", "score column of an ascending order; empty: shuffled")
    sequence_length: int = added(0, "tokens of a row in this phase; 0: training.sequenceLength")


class Schedule(Frozen):
    """The schedule as asked. Lengths are kept as text: tokens or percent of the plan."""

    kind: str
    peak_learning_rate: float
    constant_learning_rate: float | None
    final_learning_rate: float
    warmup: str
    decay: Decay | None
    decay_length: str | None
    timescale: float
    cooldown_length: str | None
    cooldown_decay: Decay | None
    cooldown_timescale: float
    anneal_length: str | None
    anneal_decay: Decay | None
    anneal_timescale: float
    optimizer_state: str = Field(description="Keep | ResetMoments | Reset")


class Budget(Frozen):
    tokens: int | None
    epochs: Decimal | None


class Optimizer(Frozen):
    kind: str
    beta1: float
    beta2: float
    epsilon: float
    weight_decay: float
    gradient_clip: float


class Divergence(Frozen):
    rollbacks: int
    skip_steps: int


class SampleWeights(Frozen):
    """Rows of a global batch weigh by their loss."""

    strategy: str = Field(description="LinUpper | Quadratic | Extremes")
    temperature: float
    uniform: str = Field(description="tokens or percent of the plan in which all rows weigh the same")


class Lora(Frozen):
    rank: int
    alpha: float


class Training(Frozen):
    sequence_length: int
    global_batch_tokens: int
    micro_batch_rows: int | None = Field(description="None: Auto")
    optimizer: Optimizer
    precision: str | None = Field(description="BF16 | FP32; None: by device")
    document_masking: bool
    document_start: str
    activation_checkpointing: str
    freeze: tuple[str, ...]
    lora: Lora | None = added(None, "None: all weights are trained")
    divergence: Divergence
    seed: int
    sample_weights: SampleWeights | None = added(None, "None: all rows weigh the same")
    parallelism: str = added("Auto", "Auto | Replicated | Sharded: how, not what; outside the digest")


class HeldOut(Frozen):
    fraction: str = Field(description="percent, e.g. 5%")
    minimum_documents: int
    maximum_tokens: int


class EvaluationSet(Frozen):
    """Documents to score. Without `uri` they are held out of the source of the same name, never trained on."""

    name: str
    role: Role
    uri: str | None
    format: Format | None
    text_field: str
    label_field: str
    date_field: str


class PromptForm(Frozen):
    """One way to ask; None: as the task, or the benchmark, has it."""

    name: str
    few_shot: int | None
    description: str | None
    doc_to_text: str | None
    doc_to_choice: str | None
    doc_to_target: str | None
    target_delimiter: str | None


class Benchmark(Frozen):
    """Tasks of lm-evaluation-harness."""

    name: str
    tasks: tuple[str, ...] = Field(description="names, or task files as written")
    few_shot: int | None = Field(description="None: the task's own number")
    forms: tuple[PromptForm, ...] = Field(description="empty: the task's own form")
    form_selection: str = Field(description="percent of the items that choose among several forms")


class Evaluation(Frozen):
    every: str | None = Field(description="tokens or percent; None: 20 looks")
    held_out: HeldOut
    look_tokens: int
    sets: tuple[EvaluationSet, ...]
    benchmarks: tuple[Benchmark, ...] = added((), "tasks scored before the first update and on the exported weights")


class Gates(Frozen):
    max_forgetting: float | None
    min_gain: float | None
    max_negative_flips: float | None = added(None, "share of benchmark items")
    on_forgetting: str = Field(description="Warn | RaiseReplay | Stop; outside the experiment digest")


class FinishStep(Frozen):
    """One thing done with the weights after training; `options` are its fields, defaults filled in."""

    kind: str = Field(description="average | soup | interpolate | instructResidual")
    options: dict[str, Any]


class Checkpoints(Frozen):
    uri: str | None = Field(description="None: the work folder")
    every: str | None = Field(description="tokens or percent; None: a tenth of the plan")
    every_minutes: float
    keep: int
    single_writer: bool = added(False, "a store without conditional writes is allowed")


class Tracking(Frozen):
    uri: str | None = Field(description="None: sqlite in the work folder")
    experiment: str
    registered_model: str
    promote_alias: str


class Plan(Frozen):
    """The budget in whole steps, and everything that follows from it."""

    requested_tokens: int
    tokens_per_step: int
    rows_per_step: int
    steps: int
    tokens: int = Field(description="steps x tokens per step")
    segments: tuple[Segment, ...]
    evaluation_every: int = Field(description="tokens")
    checkpoint_every: int = Field(description="tokens")
    trunk: bool = Field(description="an Infinite schedule without anneal: never promoted")
    phases: tuple[PlannedPhase, ...] = added((), "consecutive, from the first step to the last; none: one mixture")


class Snapshot(Frozen):
    """Everything that decides a run, before any data was read. `uid` and `operation` are outside the digest."""

    version: int = 1
    name: str
    uid: str
    base_model: BaseModelSource
    sources: tuple[Source, ...] = Field(description="sorted by name")
    replay: Replay
    mixture: MixtureControl | None = added(None, "None: the weights of sources stand")
    schedule: Schedule
    budget: Budget
    training: Training
    evaluation: Evaluation
    gates: Gates | None
    finish: tuple[FinishStep, ...] = added((), "after training, in order; none: the last checkpoint is the result")
    checkpoints: Checkpoints
    cache_uri: str | None
    tracking: Tracking
    plan: Plan | None = Field(description="None while the budget is in epochs: then it stands in the pins")
    operation: dict[str, Any] = Field(
        default_factory=dict,
        description="compute, retries, suspend, deadlines, credentials: how, not what; outside the digest",
    )
    phases: tuple[RunPhase, ...] = added((), "stretches of the plan with a mixture or a learning rate of their own")

    def experiment(self) -> dict[str, Any]:
        """What the digest covers, as JSON."""
        value = self.to_json()
        for outside in ("uid", "operation"):
            value.pop(outside)
        value["training"].pop("parallelism", None)
        if value["gates"]:
            value["gates"].pop("onForgetting")
        return value

    @property
    def digest(self) -> str:
        return digest_of(self.experiment())

    def group(self, group: Group) -> tuple[Source, ...]:
        return tuple(source for source in self.sources if source.group is group)
