"""Text to token ids. Loads a tokenizer folder without torch; trains the tokenizer of a scratch model.

Definitions: trainer.md, "Tokenizer". Text of special tokens inside documents is split as plain text; nothing is added.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from rewarm_api.errors import DataError, MissingInputError
from rewarm_api.frozen import digest_of
from rewarm_trainer.files import write_bytes, write_json

END_OF_TEXT = "<|endoftext|>"
FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "chat_template.jinja",
)
PLAIN_CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend")
"""Classes that take tokenizer.json as it stands; others rebuild it, and then transformers has to do the loading."""


@dataclass(frozen=True)
class TokenizerHandle:
    """A tokenizer: the folder it came from, its rules as JSON text, and the ids that frame a document.

    `eos`: id after each document. `bos`: id before each document, None where `documentStart` asks for none.
    """

    folder: Path
    rules: str = field(repr=False)
    eos: int
    bos: int | None

    @classmethod
    def load(cls, folder: Path, document_start: str = "Tokenizer") -> TokenizerHandle:
        """Loads a folder as Hugging Face saves it.

        `document_start`: Tokenizer (a BOS if the tokenizer itself puts one before "a"), BOS or None.
        Raises MissingInputError (66) without a tokenizer; DataError (65) without EOS, or without the BOS asked for.
        """
        rules, eos, bos, puts_bos = load_plain(folder) or load_by_transformers(folder)
        if eos is None:
            raise DataError(
                f"{folder}: the tokenizer has no end-of-sequence token, expected one to end each document; "
                "set eos_token in tokenizer_config.json"
            )
        if document_start == "BOS" and bos is None:
            raise DataError(
                f"{folder}: documentStart is BOS, but the tokenizer has no beginning-of-sequence token; "
                "set training.documentStart to Tokenizer or None"
            )
        wanted = document_start == "BOS" or (document_start == "Tokenizer" and puts_bos)
        return cls(folder, rules, eos, bos if wanted else None)

    @cached_property
    def _backend(self) -> Any:
        from tokenizers import Tokenizer

        backend = Tokenizer.from_str(self.rules)
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = True
        return backend

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, without BOS and EOS."""
        return [entry.ids for entry in self._backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens left out."""
        return str(self._backend.decode(list(ids), skip_special_tokens=True))

    @cached_property
    def fingerprint(self) -> str:
        """Digest of all that decides ids: normalisation, splitting, model, added tokens, EOS. Names are left out."""
        rules = json.loads(self.rules)
        parts = ("normalizer", "pre_tokenizer", "model", "added_tokens")
        return digest_of([*(rules.get(part) for part in parts), self.eos])

    @property
    def vocabulary(self) -> int:
        """Number of tokens, added ones included."""
        return int(self._backend.get_vocab_size(with_added_tokens=True))

    @cached_property
    def largest_id(self) -> int:
        return int(max(self._backend.get_vocab(with_added_tokens=True).values()))

    def save(self, folder: Path) -> None:
        """Copies the tokenizer's own files, so that an export loads exactly what was trained with."""
        folder.mkdir(parents=True, exist_ok=True)
        if folder.resolve() == self.folder.resolve():
            return
        for name in FILES:
            if (self.folder / name).is_file():
                shutil.copyfile(self.folder / name, folder / name)
        if not (folder / "tokenizer.json").exists():
            write_bytes(folder / "tokenizer.json", self.rules.encode())

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("folder", "rules", "eos", "bos")}


Loaded = tuple[str, int | None, int | None, bool]
"""Rules, EOS id, BOS id, and whether the tokenizer itself puts the BOS before a text."""


def load_plain(folder: Path) -> Loaded | None:
    """Reads tokenizer.json itself where no class would change it: quick, and needs neither transformers nor torch."""
    from tokenizers import Tokenizer

    if not (folder / "tokenizer.json").is_file() or not (folder / "tokenizer_config.json").is_file():
        return None
    try:
        config = json.loads((folder / "tokenizer_config.json").read_text())
        backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # tokenizers raises bare Exception for a damaged file
        raise DataError(f"{folder}: the tokenizer cannot be read ({error}); restore its files") from error
    knobs = ("add_bos_token", "add_eos_token", "add_prefix_space", "added_tokens_decoder", "auto_map")
    if config.get("tokenizer_class") not in PLAIN_CLASSES or any(config.get(knob) for knob in knobs):
        return None
    if backend.post_processor is not None:
        return None
    eos, bos = (token_id(backend, config.get(name)) for name in ("eos_token", "bos_token"))
    return backend.to_str(), eos, bos, False


def token_id(backend: Any, token: Any) -> int | None:
    content = token.get("content") if isinstance(token, dict) else token
    return None if content is None else backend.token_to_id(content)


def load_by_transformers(folder: Path) -> Loaded:
    """The tokenizer as AutoTokenizer builds it: many classes change what stands in tokenizer.json."""
    if not any((folder / name).is_file() for name in FILES):
        raise MissingInputError(f"{folder}: no tokenizer there; expected tokenizer.json beside the weights")
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        backend = tokenizer.backend_tokenizer
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise DataError(
            f"{folder}: the tokenizer cannot be loaded ({str(error).splitlines()[0]}); expected one that "
            "AutoTokenizer loads with a tokenizer.json"
        ) from error
    first = tokenizer("a").input_ids
    bos = tokenizer.bos_token_id
    return backend.to_str(), tokenizer.eos_token_id, bos, bool(first) and bos is not None and first[0] == bos


def train_tokenizer(texts: Iterable[str], vocabulary_size: int, folder: Path) -> None:
    """Byte-level BPE over `texts`, written as a Hugging Face folder. The same texts give the same files.

    `vocabulary_size` counts everything: 256 bytes, `<|endoftext|>` (id 0, the EOS) and the merges.
    Source: Radford et al. 2019 (GPT-2), section 2.2; Sennrich et al. 2016 for the merges.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / "tokenizer.json", tokenizer.to_str(pretty=True).encode())
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END_OF_TEXT,
        "model_max_length": 10**30,
        "clean_up_tokenization_spaces": False,
    }
    write_json(folder / "tokenizer_config.json", config)
