"""hf://: rows of a Hugging Face dataset, streamed through `datasets`, shard by shard.

    hf://OWNER/NAME[@REVISION][/CONFIG][?split=train]        a dataset of the Hub; `datasets/` before OWNER is allowed
    hf://OWNER/NAME[@REVISION]/data/*.parquet[?split=train]  some of its files
    hf://./folder[?config=...&split=train]                   a folder of data files, as load_dataset takes it; or hf:///

A branch or tag is pinned to its commit before anything is read. One shard of the dataset is one file of the source; its
sha256 in the source's digest is taken over the sha256 of its documents, because rows have no bytes of their own.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlencode

from rewarm_api.errors import DataError, DependencyError, MissingInputError
from rewarm_api.frozen import digest_of
from rewarm_trainer.corpus.inputs import WILDCARDS, InputFile, expand_local
from rewarm_trainer.corpus.readers import Advance, Broken, BrokenFile, Document, Fields

DATA_SUFFIXES = (".parquet", ".jsonl", ".json", ".csv", ".txt", ".gz", ".zst", ".arrow")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Address:
    """An hf:// uri taken apart. `path`: OWNER/NAME, or a local folder; `files`: data files within it, if not all."""

    path: str
    local: bool
    revision: str | None
    config: str | None
    files: str | None
    split: str

    @classmethod
    def parse(cls, uri: str) -> Address:
        """Raises DataError (65) for a uri that names no dataset."""
        rest, _, query = uri.removeprefix("hf://").partition("?")
        asked = {name: values[-1] for name, values in parse_qs(query.partition("#")[0]).items()}
        split, config = asked.get("split", "train"), asked.get("config")
        if rest.startswith(("/", ".", "~")):
            return cls(rest, True, None, config, None, split)
        parts = rest.removeprefix("datasets/").strip("/").split("/", 2)
        if len(parts) < 2 or not all(parts[:2]):
            raise DataError(f"{uri}: no dataset; expected hf://OWNER/NAME[@REVISION][/CONFIG][?split=train]")
        name, _, revision = parts[1].partition("@")
        tail = parts[2] if len(parts) == 3 else None
        is_file = bool(tail) and (bool(WILDCARDS.search(str(tail))) or str(tail).endswith(DATA_SUFFIXES))
        return cls(
            path=f"{parts[0]}/{name}",
            local=False,
            revision=asked.get("revision") or revision or None,
            config=config or (None if is_file else tail),
            files=tail if is_file else None,
            split=split,
        )

    def uri(self, shard: int, shards: int) -> str:
        """One shard of the dataset as a uri, at the commit that it was pinned to."""
        query = {"split": self.split, **({"config": self.config} if self.config else {})}
        at = f"@{quote(self.revision, safe='')}" if self.revision else ""
        files = f"/{self.files}" if self.files else ""
        return f"hf://{self.path}{at}{files}?{urlencode(query)}#{shard}/{shards}"


def pinned(address: Address, uri: str) -> Address:
    """The same dataset at the commit that its revision stands for now."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        return replace(address, revision=HfApi().dataset_info(address.path, revision=address.revision).sha)
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise MissingInputError(
            f"{uri}: no such dataset or revision, or no right to read it; correct the uri or set HF_TOKEN"
        ) from error
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise DependencyError(
            f"{uri}: the Hugging Face Hub cannot be reached ({first_line(error)}); check the network, then start again"
        ) from error


def open_rows(address: Address, uri: str) -> Any:
    """The streamed rows of a dataset's split."""
    import datasets

    datasets.logging.set_verbosity_error()
    try:
        return datasets.load_dataset(
            address.path,
            address.config,
            data_files=address.files,
            revision=address.revision,
            split=address.split,
            streaming=True,
        )
    except FileNotFoundError as error:
        raise MissingInputError(f"{uri}: no data file there ({first_line(error)}); correct the uri") from error
    except ConnectionError as error:
        raise DependencyError(f"{uri}: cannot be reached ({first_line(error)}); check the network") from error
    except (ValueError, RuntimeError) as error:
        raise DataError(f"{uri}: cannot be read ({first_line(error)}); correct config or split in the uri") from error


def expand_dataset(uri: str, root: Path) -> list[InputFile]:
    """The shards of a dataset as files, in order. Sizes are 0 where the Hub does not tell them."""
    address = Address.parse(uri)
    if address.local:
        folder = (root / Path(address.path).expanduser()).absolute()
        files = expand_local(uri, str(folder), root)
        from rewarm_trainer.corpus.fetch import content_digest

        address = replace(address, path=str(folder))
        version = digest_of([[file.relative, content_digest(Path(file.uri))] for file in files])
        size = sum(file.size for file in files)
    else:
        address = pinned(address, uri)
        version, size = str(address.revision), 0
    shards = open_rows(address, uri).num_shards
    return [
        InputFile(
            address.uri(shard, shards), f"{address.split}/{shard:05d}-of-{shards:05d}", size // shards, version, None
        )
        for shard in range(shards)
    ]


def read_rows(file: InputFile, fields: Fields, advance: Advance) -> Iterator[Document | Broken]:
    """Documents of one shard in order; `Broken.line` is the row within the shard, counted from 1."""
    location, _, place = file.uri.partition("#")
    shard, shards = (int(number) for number in place.split("/"))
    rows = open_rows(Address.parse(location), location).shard(num_shards=shards, index=shard)
    if rows.features is not None:
        if missing := [name for name in fields.asked() if name not in rows.features]:
            raise BrokenFile(f"no column {missing[0]!r}; the dataset has {', '.join(map(repr, rows.features))}")
        rows = rows.select_columns(fields.asked())
    number = 0
    try:
        for number, record in enumerate(rows, start=1):
            yield fields.document(record, number)
    except ConnectionError as error:
        raise DependencyError(f"{file.uri}: the connection broke ({first_line(error)}); start again") from error
    except (ValueError, OSError, RuntimeError) as error:
        raise BrokenFile(f"row {number + 1}: cannot be read ({first_line(error)})") from error
    advance(file.size)


def first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
