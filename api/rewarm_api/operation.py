"""Where and with what a run happens; nothing here changes what is learned."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from rewarm_api.fields import Flag, Integer, KubernetesName, Label, Mark, Number, Spec, Text, Uri, Words
from rewarm_api.pod_template import PodTemplate


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
    single_writer: Flag = False
    """Allow a store that passes over conditional writes. Then nothing but you keeps a second writer away."""


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
