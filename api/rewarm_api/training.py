"""How the weights of a run are updated."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from rewarm_api.fields import Flag, Integer, MicroBatchRows, Number, Spec, TokenQuantity, Words
from rewarm_api.sample_weights import SampleWeights


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


class Lora(Spec):
    """Low-rank changes: W = W0 + (alpha / rank) * B A."""

    rank: Annotated[Integer, Field(ge=1, le=65_536)] = 16
    """Rank of the change of each linear map."""
    alpha: Annotated[Number, Field(gt=0)] = 32.0
    """Its scale is alpha / rank."""


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
    parallelism: Literal["Auto", "Replicated", "Sharded"] = "Auto"
    """Where weights, gradients and moments lie: whole on every process, or each on one of them. Auto: by memory."""
    freeze: Annotated[list[Words], Field(max_length=64)] = Field(default_factory=list)
    """Name patterns of parameters that stay as they are."""
    sample_weights: SampleWeights | None = None
    """Rows of a batch weigh by their own loss. Default: all the same."""
    adaptation: Literal["Full", "LoRA"] = "Full"
    """Which weights are trained: all, or low-rank changes to the linear maps of attention and MLP."""
    lora: Lora | None = None
    """Size of the low-rank changes; only with LoRA."""
    divergence: Divergence = Divergence()
    """What to do when the loss diverges."""
    seed: Annotated[Integer, Field(ge=0, le=2**32 - 1)] = 0
    """Of the order of rows, of dropout and of random weights."""
