"""How many parameters a model has, found without loading it or any deep learning library.

Answers None rather than guess: for repositories that are not on this disk, and for families it does not know.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rewarm_api.snapshot import BaseModelSource

_LLAMA_LIKE = {"llama", "mistral"}
_HEADER_LIMIT = 100_000_000


def count_parameters(base: BaseModelSource, root: Path) -> int | None:
    """Parameters of a scratch configuration, or of a local folder of safetensors relative to `root`; else None."""
    if base.kind == "scratch":
        config = dict(base.options.get("config") or {})
        tokenizer = base.options.get("tokenizer") or {}
        if tokenizer.get("vocabularySize"):
            config["vocab_size"] = tokenizer["vocabularySize"]
        return configured(config)
    if base.kind == "file":
        return stored(root / base.options["path"])
    return None


def configured(config: Mapping[str, Any]) -> int | None:
    """Parameters of a transformers configuration of the Llama or GPT-NeoX family; None for others."""
    try:
        hidden, layers, inner, vocabulary = (
            int(config[name]) for name in ("hidden_size", "num_hidden_layers", "intermediate_size", "vocab_size")
        )
        heads = int(config["num_attention_heads"])
    except (KeyError, TypeError, ValueError):
        return None
    family = config.get("model_type")
    if family == "gpt_neox":
        embeddings = vocabulary * hidden * (1 if config.get("tie_word_embeddings", False) else 2)
        attention = 4 * hidden * hidden + 4 * hidden
        return embeddings + layers * (attention + 2 * hidden * inner + inner + hidden + 4 * hidden) + 2 * hidden
    if family in _LLAMA_LIKE and not config.get("attention_bias") and not config.get("mlp_bias"):
        size = int(config.get("head_dim") or hidden // heads)
        keys = int(config.get("num_key_value_heads") or heads)
        embeddings = vocabulary * hidden * (1 if config.get("tie_word_embeddings", False) else 2)
        attention = 2 * hidden * size * (heads + keys)
        return embeddings + layers * (attention + 3 * hidden * inner + 2 * hidden) + hidden
    return None


def stored(folder: Path) -> int | None:
    """Parameters in a folder's safetensors files, read from their headers alone; None when there are none."""
    try:
        files = sorted(folder.glob("*.safetensors"))
        return sum(map(_in_file, files)) if files else None
    except (OSError, ValueError, struct.error):
        return None


def _in_file(path: Path) -> int:
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > _HEADER_LIMIT:
            raise ValueError(f"{path}: no safetensors header")
        header = json.loads(file.read(length))
    return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
