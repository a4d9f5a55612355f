"""Text: one file is one document, exactly as it stands (UTF-8; line ends and a byte order mark are kept)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rewarm_trainer.corpus.readers.base import (
    Advance,
    Broken,
    BrokenFile,
    Document,
    Fields,
    decompression_errors,
    opened,
)


def read(path: Path, fields: Fields, advance: Advance) -> Iterator[Document | Broken]:
    """The one document of a file."""
    with opened(path, advance) as stream:
        try:
            content = stream.read()
        except decompression_errors() as error:
            raise BrokenFile(f"cannot be decompressed ({error})") from error
    try:
        yield Document(content.decode())
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        yield Broken(line, f"not UTF-8 at byte {error.start} of the file")
