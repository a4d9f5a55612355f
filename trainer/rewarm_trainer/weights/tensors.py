"""The weights of a model folder, opened and not loaded; and a safetensors file written piece by piece.

A model of any size is merged in the memory of a few pieces of one tensor. Format of the file: the safetensors
specification (8 bytes of length, a JSON header, the bytes of all tensors in order).
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rewarm_api.errors import DataError
from rewarm_api.frozen import digest_of
from rewarm_trainer.base import folder_digest, weight_files
from rewarm_trainer.corpus.tokenizer import FILES, load_by_transformers, load_plain
from rewarm_trainer.files import disk_errors

PIECE = 1 << 24
"""Numbers of a tensor that are in memory at a time, for each model."""
TYPES: dict[str, torch.dtype] = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
    "BOOL": torch.bool, "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One tensor: the file it is in, its name there, its type and shape."""

    file: Path
    stored: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def is_floating(self) -> bool:
        return TYPES[self.dtype].is_floating_point


@dataclass(frozen=True)
class Tensors:
    """A Hugging Face folder's weights by name, tied weights once.

    `label` is what messages call it. Names are those of the architecture without its own prefix, so that a folder
    that was saved without it (GPT-2's on the hub) fits one that was saved with it.
    """

    folder: Path
    label: str
    _open: dict[Path, Any] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def config(self) -> dict[str, Any]:
        try:
            value: dict[str, Any] = json.loads((self.folder / "config.json").read_text())
        except (OSError, ValueError) as error:
            raise DataError(f"{self.label}: config.json cannot be read ({error})") from error
        return value

    @cached_property
    def digest(self) -> str:
        """Of config and weights. Refuses a folder that is no model (65, 66)."""
        return folder_digest(self.folder)

    @cached_property
    def architecture(self) -> Architecture:
        return architecture_of(self.folder, self.label)

    @cached_property
    def token_rules(self) -> str | None:
        return token_rules(self.folder)

    @cached_property
    def entries(self) -> dict[str, Entry]:
        found: dict[str, Entry] = {}
        for path in weight_files(self.folder):
            opened = self._file(path)
            for stored in opened.keys():  # noqa: SIM118 - no mapping, only keys()
                part = opened.get_slice(stored)
                name = stored.removeprefix(self.architecture.prefix)
                found[name] = Entry(path, stored, str(part.get_dtype()), tuple(part.get_shape()))
        return {name: entry for name, entry in found.items() if name not in self.architecture.tied}

    def _file(self, path: Path) -> Any:
        from safetensors import SafetensorError, safe_open

        if path not in self._open:
            try:
                self._open[path] = safe_open(path, framework="pt")
            except (OSError, SafetensorError) as error:
                raise DataError(f"{path}: no whole safetensors file ({error}); fetch or export it again") from error
        return self._open[path]

    def piece(self, name: str, begin: int, end: int) -> torch.Tensor:
        """Rows begin to end of a tensor, as stored; a tensor without rows whole."""
        entry = self.entries[name]
        opened = self._file(entry.file)
        return opened.get_slice(entry.stored)[begin:end] if entry.shape else opened.get_tensor(entry.stored)


def token_rules(folder: Path) -> str | None:
    """Digest of all that decides which text gets which id; None for a folder without tokenizer.

    The end-of-sequence token is left out: an instruct model often ends its turns with another token of the same list.
    """
    if not any((folder / name).is_file() for name in FILES if not name.endswith(".jinja")):
        return None
    text, *_ = load_plain(folder) or load_by_transformers(folder)
    rules = json.loads(text)
    return digest_of([rules.get(part) for part in ("normalizer", "pre_tokenizer", "model", "added_tokens")])


@dataclass(frozen=True)
class Architecture:
    """What the configuration says of the names of weights: `known` ones and `tied` ones, without the `prefix`."""

    prefix: str
    known: frozenset[str]
    tied: frozenset[str]


def architecture_of(folder: Path, label: str) -> Architecture:
    """From a model without memory behind it (torch's meta device)."""
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"{label}: config.json is not that of a language model that transformers knows: {reason}"
        ) from error
    prefix = f"{model.base_model_prefix}."
    names = frozenset(name.removeprefix(prefix) for name in model.state_dict())
    tied = frozenset(name.removeprefix(prefix) for name in getattr(model, "all_tied_weights_keys", {}) or {})
    return Architecture(prefix, names - tied, tied)


def pieces(shape: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Cuts a tensor along its first axis; one piece for a tensor without axes."""
    if not shape:
        yield 0, 1
        return
    rows = max(1, PIECE // max(1, prod(shape[1:])))
    for begin in range(0, shape[0], rows):
        yield begin, min(begin + rows, shape[0])


def as_float32(tensor: torch.Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = tensor.to(torch.float32).numpy()
    return array


@dataclass(frozen=True)
class Planned:
    """A tensor to be written: its type, its shape, and its values piece by piece."""

    dtype: str
    shape: tuple[int, ...]
    values: Callable[[], Iterator[torch.Tensor]]

    @property
    def size(self) -> int:
        return prod(self.shape) * TYPES[self.dtype].itemsize


def write_tensors(path: Path, planned: Mapping[str, Planned], alive: Callable[[], None] = lambda: None) -> None:
    """One safetensors file, written as it comes and flushed. The largest types first, so that all are aligned.

    `alive` is called for each weight: a large model takes minutes.
    """
    names = sorted(planned, key=lambda name: (-TYPES[planned[name].dtype].itemsize, name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in names:
        begin, end = end, end + planned[name].size
        header[name] = {
            "dtype": planned[name].dtype,
            "shape": list(planned[name].shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with disk_errors(path), open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in names:
            alive()
            dtype = TYPES[planned[name].dtype]
            for tensor in planned[name].values():
                file.write(tensor.to(dtype).contiguous().reshape(-1).view(torch.uint8).numpy().data)
        file.flush()
        os.fsync(file.fileno())
    if path.stat().st_size != 8 + len(text) + end:
        raise AssertionError(f"{path}: {path.stat().st_size} bytes, planned {8 + len(text) + end}")
