"""Scoring held-out documents, each alone, in nats (design: trainer.md, "Evaluation").

[BOS] + tokens + EOS, non-overlapping windows of S labels, remainder included, the first token scored only after a BOS;
no packing across documents. The same documents, order and compute type before and after. Full scores also mark each
label that the model would have chosen (next-token top-1), in the same forward pass.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from rewarm_trainer.flips import per_document
from rewarm_trainer.model import IGNORED, autocast, scoring

CODE_VERSION = 7  # part of the baseline's cache key: raise it when a score could change

LOGITS_TOGETHER = 1 << 28
"""Of a forward pass, 1 GiB in FP32: a large vocabulary shares it among fewer labels."""


class Documents(Protocol):
    """What an evaluation set offers: token ids without BOS and EOS, UTF-8 bytes and a hash, per document."""

    @property
    def ids(self) -> Sequence[NDArray[Any]]: ...
    @property
    def bytes(self) -> Sequence[int]: ...
    @property
    def hashes(self) -> Sequence[str]: ...
    @property
    def labels(self) -> Sequence[str | None]: ...
    @property
    def dates(self) -> Sequence[str | None]: ...


@dataclass(frozen=True)
class Scores:
    """Per document: summed nats, scored labels, UTF-8 bytes and hash. Sets keep the order of their documents.

    `top1`: for each label, document after document, whether no other token had a higher logit; None where a look did
    not ask for it (or an earlier version had no such marks).
    """

    hashes: tuple[str, ...]
    nats: NDArray[np.float64]
    labels: NDArray[np.int64]
    bytes: NDArray[np.int64]
    top1: NDArray[np.bool_] | None = None

    @property
    def loss(self) -> float:
        """Nats per label over the whole set."""
        return float(self.nats.sum() / self.labels.sum()) if len(self.labels) else float("nan")

    @property
    def bits_per_byte(self) -> float:
        return float(self.nats.sum() / (np.log(2.0) * self.bytes.sum())) if len(self.bytes) else float("nan")

    def first(self, documents: int) -> Scores:
        labels = self.labels[:documents]
        marks = None if self.top1 is None else self.top1[: labels.sum()]
        return Scores(self.hashes[:documents], self.nats[:documents], labels, self.bytes[:documents], marks)

    def chosen(self, documents: Sequence[int]) -> Scores:
        """Some of the documents, in the order given."""
        places = np.asarray(documents, dtype=np.int64)
        marks = None
        if self.top1 is not None:
            cut = np.split(self.top1, np.cumsum(self.labels)[:-1])
            marks = np.concatenate([cut[place] for place in places] or [self.top1[:0]])
        hashes = tuple(self.hashes[place] for place in places)
        return Scores(hashes, self.nats[places], self.labels[places], self.bytes[places], marks)

    def to_json(self) -> dict[str, Any]:
        """`right` counts the marks of each document; `top1` holds them all, eight to a byte, in base64."""
        value = {
            "hashes": list(self.hashes),
            "nats": self.nats.tolist(),
            "labels": self.labels.tolist(),
            "bytes": self.bytes.tolist(),
        }
        if self.top1 is None:
            return value
        packed = base64.b64encode(np.packbits(self.top1).tobytes()).decode()
        return {**value, "right": per_document(self.top1, self.labels).tolist(), "top1": packed}

    @staticmethod
    def from_json(value: dict[str, Any]) -> Scores:
        return Scores(
            tuple(value["hashes"]),
            np.array(value["nats"], dtype=np.float64),
            np.array(value["labels"], dtype=np.int64),
            np.array(value["bytes"], dtype=np.int64),
            _marks(value["top1"], sum(value["labels"])) if "top1" in value else None,
        )


def _marks(packed: str, labels: int) -> NDArray[np.bool_]:
    """The marks of `labels` labels; ValueError when there are fewer."""
    bits = np.unpackbits(np.frombuffer(base64.b64decode(packed), dtype=np.uint8))
    if len(bits) < labels:
        raise ValueError(f"{len(bits)} marks for {labels} labels")
    return bits[:labels].astype(bool)


def within(documents: Documents, bos: int | None, tokens: int) -> int:
    """How many first documents hold up to `tokens` labels; at least one."""
    total = 0
    for number, ids in enumerate(documents.ids):
        total += len(ids) + (1 if bos is not None else 0)
        if total > tokens and number:
            return number
    return len(documents.ids)


@dataclass(frozen=True)
class Window:
    """A piece of a document. `first`: the place of its first label among the labels of all documents."""

    document: int
    first: int
    inputs: NDArray[np.int64]
    labels: NDArray[np.int64]


def windows(documents: Sequence[NDArray[Any]], *, bos: int | None, eos: int, length: int) -> list[Window]:
    """Cut each document into windows of at most `length` labels."""
    result, labels = [], 0
    for number, ids in enumerate(documents):
        start = [] if bos is None else [bos]
        whole = np.concatenate([np.array(start, dtype=np.int64), np.asarray(ids, dtype=np.int64), [eos]])
        for begin in range(0, len(whole) - 1, length):
            end = min(begin + length, len(whole) - 1)
            result.append(Window(number, labels + begin, whole[begin:end], whole[begin + 1 : end + 1]))
        labels += len(whole) - 1
    return result


_NARROWEST = 16


def _width(labels: int, length: int) -> int:
    """The shape's width for a window: four between a power of two and the next, so that little of it is padding."""
    step = max(_NARROWEST, 1 << (labels - 1).bit_length()) // 8
    return min(length, max(_NARROWEST, -(-labels // step) * step))


@dataclass(frozen=True)
class Batch:
    """Windows that share a forward pass of shape [windows, width]; what they do not fill is padding."""

    windows: list[Window]
    width: int

    def arrays(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Inputs and labels, [rows, width]. Padding stands at the right: under a causal mask nothing sees it."""
        inputs = np.zeros((len(self.windows), self.width), dtype=np.int64)
        labels = np.full((len(self.windows), self.width), IGNORED, dtype=np.int64)
        for row, window in enumerate(self.windows):
            inputs[row, : len(window.inputs)] = window.inputs
            labels[row, : len(window.labels)] = window.labels
        return inputs, labels


def batches_of(cut: list[Window], length: int, tokens: int) -> list[Batch]:
    """Windows of similar length together, in a few dozen shapes: a CPU builds its kernels anew for each shape.

    A function of the set alone: ranks and looks change nothing about which windows share a pass.
    """
    by_width: dict[int, list[Window]] = {}
    for window in cut:
        by_width.setdefault(_width(len(window.labels), length), []).append(window)
    batches = []
    for width, members in sorted(by_width.items(), reverse=True):
        rows = max(1, tokens // width)
        batches += [Batch(members[begin : begin + rows], width) for begin in range(0, len(members), rows)]
    return batches


def lacks_a_batch(batches: int, rank: int, world: int) -> bool:
    """Whether the last round of batches that are dealt in turn has none for `rank`."""
    return 0 < batches % world <= rank


def score(
    losses: nn.Module,
    documents: Documents,
    *,
    bos: int | None,
    eos: int,
    length: int,
    batch_tokens: int,
    precision: str,
    count: int | None = None,
    rank: int = 0,
    world: int = 1,
    progress: Callable[[int, int], None] | None = None,
    top1: bool = False,
    together: bool = False,
) -> Scores:
    """Score the first `count` documents (all by default). Batches are dealt over ranks; sums meet by all-reduce.

    `losses` is a TokenLosses; about `batch_tokens` labels share a forward pass, of a large vocabulary fewer; `top1`
    asks for marks too. `together`: the model is sharded, and each pass is one of all ranks: who has no batch left
    lends its part to the others.
    """
    chosen = documents.ids[: len(documents.ids) if count is None else count]
    cut = windows(chosen, bos=bos, eos=eos, length=length)
    vocabulary = losses.model.get_input_embeddings().weight.shape[0]
    batches = batches_of(cut, length, min(batch_tokens, LOGITS_TOGETHER // vocabulary))
    device = next(losses.parameters()).device
    sums = _Sums(len(chosen), sum(len(window.labels) for window in cut) if top1 else None)
    was_training = losses.training
    losses.eval()
    with torch.no_grad(), scoring(losses.model), autocast(device, precision):
        for number, batch in enumerate(batches):
            if number % world == rank:
                _score_batch(losses, batch, device, sums)
            if progress:
                progress(number + 1, len(batches))
        if together and lacks_a_batch(len(batches), rank, world):
            losses(*(torch.from_numpy(array).to(device) for array in batches[-1].arrays()), None)
    losses.train(was_training)
    if world > 1:
        for total in sums.all():
            moved = total.to(device)
            torch.distributed.all_reduce(moved)
            total.copy_(moved.cpu())
    return Scores(
        tuple(documents.hashes[: len(chosen)]),
        sums.nats.numpy(),
        sums.labels.numpy(),
        np.array(documents.bytes[: len(chosen)], dtype=np.int64),
        None if sums.top1 is None else sums.top1.numpy().astype(bool),
    )


class _Sums:
    """What the batches of one rank come to: nats and labels by document and, if asked for, a mark for each label."""

    def __init__(self, documents: int, labels: int | None) -> None:
        self.nats = torch.zeros(documents, dtype=torch.float64)
        self.labels = torch.zeros(documents, dtype=torch.int64)
        self.top1 = None if labels is None else torch.zeros(labels, dtype=torch.uint8)

    def all(self) -> list[torch.Tensor]:
        return [total for total in (self.nats, self.labels, self.top1) if total is not None]


def _score_batch(losses: nn.Module, batch: Batch, device: torch.device, sums: _Sums) -> None:
    """Add one batch's sums to its documents."""
    inputs, labels = (torch.from_numpy(array).to(device) for array in batch.arrays())
    asked = {} if sums.top1 is None else {"top1": True}
    scored = losses(inputs, labels, None, **asked)
    token_nats, marks = scored if asked else (scored, None)
    row_nats = token_nats.double().sum(1).cpu()
    owners = torch.tensor([window.document for window in batch.windows])
    sums.nats.index_add_(0, owners, row_nats)
    sums.labels.index_add_(0, owners, torch.tensor([len(window.labels) for window in batch.windows]))
    if sums.top1 is not None and marks is not None:
        for window, row in zip(batch.windows, marks.to(torch.uint8).cpu(), strict=True):
            sums.top1[window.first : window.first + len(window.labels)] = row[: len(window.labels)]
