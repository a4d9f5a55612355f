"""One reader per format: a file in, its documents out, one at a time, in the order in which they stand.

A reader yields `Document` for what it could read and `Broken` for one undecodable line or document, and raises
`BrokenFile` where the rest of the file is lost. It never decides what is tolerated and never opens anything remote.
A new format is one new module here and one line in `READERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

from rewarm_api.snapshot import Format
from rewarm_trainer.corpus.readers.base import Advance, Broken, BrokenFile, Document, Fields

READERS: dict[Format, str] = {
    Format.JSON_LINES: "json_lines",
    Format.TEXT: "text",
    Format.PARQUET: "parquet",
}

Reader = Callable[[Path, Fields, Advance], Iterator["Document | Broken"]]


def reader_for(format: Format) -> Reader:
    """The `read` function of the format's module. Imported on first use: Parquet brings pyarrow."""
    module = import_module(f"{__name__}.{READERS[format]}")
    reader: Reader = module.read
    return reader


__all__ = ["READERS", "Advance", "Broken", "BrokenFile", "Document", "Fields", "Reader", "reader_for"]
