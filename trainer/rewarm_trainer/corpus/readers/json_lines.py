"""JsonLines: one JSON object a line, UTF-8, lines end with a line feed. Blank lines are not documents."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from rewarm_trainer.corpus.readers.base import (
    Advance,
    Broken,
    BrokenFile,
    Document,
    Fields,
    decompression_errors,
    lines_of,
    opened,
)

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def read(path: Path, fields: Fields, advance: Advance) -> Iterator[Document | Broken]:
    """Documents of a file in the order of its lines."""
    number = 0
    with opened(path, advance) as stream:
        try:
            for number, line in enumerate(lines_of(stream), start=1):
                content = line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line
                if content.strip():
                    yield parse(content, number, fields)
        except decompression_errors() as error:
            raise BrokenFile(f"line {number + 1}: cannot be decompressed ({error})") from error


def parse(line: bytes, number: int, fields: Fields) -> Document | Broken:
    """One line to one document."""
    try:
        record = json.loads(line.decode())
    except UnicodeDecodeError as error:
        return Broken(number, f"not UTF-8 at byte {error.start} of the line")
    except (ValueError, RecursionError) as error:
        return Broken(number, f"not JSON ({error})")
    if not isinstance(record, dict):
        return Broken(number, f"{type(record).__name__} instead of an object")
    return fields.document(record, number)
