"""What a run is judged by: sets, looks and gates."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from rewarm_api.benchmarks import Benchmark
from rewarm_api.fields import FieldName, Integer, Mark, Name, Number, Percent, Spec, TokenQuantity, Uri
from rewarm_api.snapshot import Role


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
    benchmarks: Annotated[list[Benchmark], Field(max_length=32)] = Field(default_factory=list)
    """Tasks of lm-evaluation-harness, scored on the base and on what is exported. Default: none."""


class Gates(Spec):
    """What a candidate must show before it may be promoted."""

    max_forgetting: Number | None = None
    """Largest loss increase on any Retained set, in nats per token."""
    min_gain: Number | None = None
    """Smallest loss decrease on every New set, in nats per token."""
    max_negative_flips: Annotated[Number, Field(ge=0, le=1)] | None = None
    """Largest share of benchmark items that the base had right and the candidate has wrong."""
    on_forgetting: Literal["Warn", "RaiseReplay", "Stop"] = "Warn"
    """What to do when forgetting exceeds its gate during training, after the stability gap. May change at any time."""
