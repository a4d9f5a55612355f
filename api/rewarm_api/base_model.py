"""The sources that weights can come from: the union `spec.baseModel`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from rewarm_api.fields import (
    CheckpointName,
    FreeForm,
    Integer,
    KubernetesName,
    Mark,
    Name,
    Path,
    Spec,
    Text,
    Uri,
    Words,
)
from rewarm_api.snapshot import Decay


class HuggingFace(Spec):
    """A repository of the Hugging Face hub."""

    repo: Words
    """Repository, as owner/name."""
    revision: Words = "main"
    """Full commit, quoted; a branch or tag is pinned by preparation."""


class S3Model(Spec):
    """A model folder in a bucket."""

    uri: Uri
    """s3://bucket/prefix/ of a model in Hugging Face format."""


class Volume(Spec):
    """A model folder on a persistent volume claim."""

    claim: KubernetesName
    """Name of the PersistentVolumeClaim."""
    path: Annotated[Text, Field(max_length=2048)] = ""
    """Folder inside the claim."""


class FileModel(Spec):
    """A model folder on this machine. Local runs only."""

    path: Path
    """Folder, relative to the manifest's."""


class MlflowModel(Spec):
    """A registered model: exactly one of alias and version, pinned by preparation."""

    model: Words
    """Name in the model registry."""
    alias: Words | None = None
    """Alias, for example champion."""
    version: Annotated[Text, Field(pattern=r"^[0-9]+$", max_length=20)] | None = None
    """Version, quoted, for example "7"."""


class BranchAnneal(Spec):
    """A releasable branch of a trunk: its learning rate falls from where the trunk stands."""

    length: Mark
    """Tokens or percent of the plan over which the learning rate falls; what is left over comes before, at the
    trunk's rate."""
    decay: Literal[Decay.ONE_MINUS_SQRT, Decay.LINEAR, Decay.EXPONENTIAL] = Decay.ONE_MINUS_SQRT
    """Shape."""


class RunModel(Spec):
    """A checkpoint of another run: exactly one of name and path."""

    name: Name | None = None
    """Name of the run."""
    path: Path | None = None
    """Work folder of a local run, relative to the manifest's. Local runs only."""
    checkpoint: CheckpointName = "Final"
    """Final, Latest, Best, or a step number."""
    anneal: BranchAnneal | None = None
    """Make this run a branch of that one, a trunk: the optimizer goes on and the learning rate falls. Default: none."""


class ScratchTokenizer(Spec):
    """The tokenizer of a model from scratch: trained on the run's own training text, or a file."""

    vocabulary_size: Annotated[Integer, Field(ge=257, le=1_000_000)] | None = None
    """Entries of a byte-level BPE vocabulary trained on the run's training text. 4096 when no file is given."""
    file: Path | None = None
    """Folder of a tokenizer, relative to the manifest's. Local runs only."""


class Scratch(Spec):
    """Random weights: control arms, the quickstart, tests."""

    config: FreeForm
    """Configuration of a transformers model; model_type is required."""
    tokenizer: ScratchTokenizer = ScratchTokenizer.model_validate({"vocabularySize": 4096})
    """Tokenizer."""


class BaseModel(Spec):
    """Where the weights come from: exactly one source."""

    hugging_face: HuggingFace | None = None
    """A repository of the Hugging Face hub."""
    s3: S3Model | None = None
    """A model folder in a bucket."""
    volume: Volume | None = None
    """A model folder on a persistent volume claim. On a cluster only."""
    file: FileModel | None = None
    """A model folder on this machine. Local runs only."""
    mlflow: MlflowModel | None = None
    """A registered model."""
    run: RunModel | None = None
    """A checkpoint of another run."""
    scratch: Scratch | None = None
    """Random weights."""
