"""The text of a run: the new domain, and what is replayed against forgetting."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from rewarm_api.controllers import Adaptive
from rewarm_api.fields import Digest, FieldName, Flag, Integer, Name, Number, Path, Percent, Spec, Uri, Words
from rewarm_api.snapshot import Format
from rewarm_api.subset import Subset


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
    score_field: FieldName = ""
    """Field that holds a document's quality as a number, for a subset by score."""
    subset: Subset | None = None
    """Train on a part of the source only. Default: all of it."""


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


class MetaExperience(Spec):
    """The Reptile step of meta-experience replay."""

    interval: Annotated[Integer, Field(ge=1, le=2**31 - 1)] = 500
    """Updates between two Reptile steps."""
    epsilon: Annotated[Number, Field(ge=0, le=1)] = 0.1
    """How far the weights move from where the interval began to where it ended: 1 is ordinary training."""


class CitedRatio(Spec):
    """The least replay by which a finished study expects the old text to stay within a tolerance."""

    from_study: Path
    """Name of the study, or its work folder, relative to the manifest's."""
    tolerance: Percent | None = None
    """How much the loss of every Retained set may rise above the base's. Default: the study's."""
    model: Name | None = None
    """Which model of the study's grid this run trains; required when it has several."""
    extrapolate: Flag = False
    """Ask the law also about budgets and ratios that no run has measured."""


class Replay(Spec):
    """Old text mixed into the new, against forgetting."""

    ratio: Annotated[Number, Field(ge=0, lt=1)] | CitedRatio
    """Share of all training rows drawn from replay. A study is cited by fromStudy: here in a local manifest, on a
    cluster beside it."""
    sources: Sources = Field(default_factory=list)
    """Sources to replay; at ratio 0 they are only held out from, to measure forgetting."""
    from_run: FromRun | None = None
    """Replay what a finished run really saw, instead of sources."""
    method: Literal["Interleave", "MetaExperienceReplay"] = "Interleave"
    """How replay enters training: rows among rows, or the same with a Reptile step every so many updates."""
    meta_experience: MetaExperience | None = None
    """The Reptile step; only with MetaExperienceReplay."""
    adaptive: Adaptive | None = None
    """Moves the ratio during training so that forgetting stays within a budget. Default: the ratio stands."""
    max_repeats: Annotated[Integer, Field(ge=1, le=1_000_000)] = 4
    """Refuse to repeat a replay source more often than this."""
