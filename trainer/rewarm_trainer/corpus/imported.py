"""Format Tokens: shards that were tokenised before, checked against the tokenizer and copied into the cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np

from rewarm_api.errors import DataError, MissingInputError
from rewarm_api.frozen import digest_of
from rewarm_api.snapshot import Source
from rewarm_trainer.corpus.fetch import content_digest, fetched
from rewarm_trainer.corpus.inputs import InputFile, expand
from rewarm_trainer.corpus.scan import Progress
from rewarm_trainer.corpus.shards import Index, Shard, ShardWriter, blocks, dtype_for, write_index
from rewarm_trainer.corpus.tokenise import folder_of
from rewarm_trainer.corpus.tokenizer import TokenizerHandle
from rewarm_trainer.files import publish_folder

VERSION = 1


@dataclass(frozen=True, slots=True)
class ImportedTokens:
    """A source of token shards: its folder in the cache and the digest of its files."""

    folder: Path
    digest: str


@dataclass(frozen=True, slots=True)
class Stream:
    """Shards of one index.json that the uri means, in the order of the index."""

    index: Index
    whole: bool
    shards: tuple[tuple[InputFile, Shard], ...]


def parent(name: str) -> str:
    return name[: name.rindex("/") + 1] if "/" in name else ""


def streams_of(files: Sequence[InputFile], cache: Path) -> tuple[list[Stream], list[list[str]]]:
    """Groups files by their index.json. Returns the streams, and [relative path, sha256] of every file read."""
    streams, pairs = [], []
    for folder in dict.fromkeys(parent(file.uri) for file in files):
        inside = {file.uri: file for file in files if parent(file.uri) == folder}
        place = inside.pop(folder + "index.json", InputFile(folder + "index.json", "index.json", 0))
        with fetched(place, cache) as path:
            index = Index.load(path)
            pairs.append([place.relative, content_digest(path)])
        listed = {folder + shard.file: shard for shard in index.shards}
        if unknown := sorted(uri for uri in inside if uri.endswith(".bin") and uri not in listed):
            raise DataError(f"{unknown[0]}: not listed in {place.uri}; make the shards and their index again")
        chosen = [uri for uri in listed if uri in inside] if any(uri in listed for uri in inside) else list(listed)
        known = [(inside.get(uri) or InputFile(uri, listed[uri].file, 0), listed[uri]) for uri in chosen]
        pairs.extend([file.relative, shard.sha256] for file, shard in known)
        streams.append(Stream(index, len(chosen) == len(listed), tuple(known)))
    return streams, pairs


def check_tokenizer(name: str, index: Index, tokenizer: TokenizerHandle) -> None:
    """DataError (65) when the shards were made with another tokenizer, naming both."""
    if index.tokenizer != tokenizer.fingerprint:
        raise DataError(
            f"source {name!r}: its shards were made with tokenizer {index.tokenizer}, the model's is "
            f"{tokenizer.fingerprint} ({tokenizer.folder}); tokenise the text again with the model's tokenizer"
        )
    if (index.eos, index.bos) != (tokenizer.eos, tokenizer.bos):
        raise DataError(
            f"source {name!r}: its documents stand between BOS {index.bos} and EOS {index.eos}, expected BOS "
            f"{tokenizer.bos} and EOS {tokenizer.eos}; set training.documentStart, or tokenise the text again"
        )


def import_tokens(
    source: Source, root: Path, cache: Path, tokenizer: TokenizerHandle, progress: Progress
) -> ImportedTokens:
    """Brings a Tokens source into the cache, every shard checked against its sha256.

    Raises DataError (65) for another tokenizer, a wrong digest or a changed pin.
    """
    streams, pairs = streams_of(expand(source.uri, root), cache)
    for stream in streams:
        check_tokenizer(source.name, stream.index, tokenizer)
    contents = [[shard.sha256, stream.index.dtype] for stream in streams for _, shard in stream.shards]
    address = digest_of(["tokens", VERSION, contents, tokenizer.fingerprint, tokenizer.bos])
    folder = folder_of(address, "sources", cache)
    total = sum(shard.tokens for stream in streams for _, shard in stream.shards)
    digest = digest_of(sorted(pairs))

    def fill(place: Path) -> None:
        done, documents = 0, 0
        with ShardWriter(place, dtype_for(tokenizer.largest_id)) as writer:
            for stream in streams:
                counted = 0
                for file, shard in stream.shards:
                    for values in checked(file, shard, stream.index.dtype, cache):
                        writer.write(values)
                        counted += int(np.count_nonzero(values == tokenizer.eos))
                        done += len(values)
                        progress("import", source.name, done, total, "tokens")
                documents += stream.index.documents if stream.whole else counted
        index = Index(
            dtype=dtype_for(tokenizer.largest_id),
            tokenizer=tokenizer.fingerprint,
            eos=tokenizer.eos,
            bos=tokenizer.bos,
            documents=documents,
            tokens=sum(shard.tokens for shard in writer.shards),
            largest_id=writer.largest_id,
            shards=tuple(writer.shards),
            digest=digest,
        )
        write_index(place, index)

    publish_folder(folder, fill)
    return ImportedTokens(folder, digest)


def checked(file: InputFile, shard: Shard, dtype: str, cache: Path) -> Iterator[np.ndarray]:
    """Token ids of a shard; DataError (65) at its end when they are not what index.json says."""
    found, tokens = sha256(), 0
    try:
        with fetched(file, cache) as path:
            for values in blocks(path, dtype):
                found.update(values.tobytes())
                tokens += len(values)
                yield values
    except FileNotFoundError as error:
        raise MissingInputError(f"{file.uri}: not there, but its index.json lists it; restore it") from error
    except ValueError as error:
        raise DataError(f"{file.uri}: not a whole number of {dtype} tokens; make the shards again") from error
    if (found.hexdigest(), tokens) != (shard.sha256, shard.tokens):
        raise DataError(
            f"{file.uri}: found {tokens} tokens with sha256 {found.hexdigest()}, its index.json says {shard.tokens} "
            f"with {shard.sha256}; restore the file or make the shards again"
        )
