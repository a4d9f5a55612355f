"""Parquet: one row is one document, read in batches, only the columns that are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rewarm_trainer.corpus.readers.base import (
    LONGEST_LINE,
    Advance,
    Broken,
    BrokenFile,
    Document,
    Fields,
    check_expansion,
    decompression_errors,
    opened,
)

BATCH_ROWS = 256
BATCH_BYTES = LONGEST_LINE
"""Of the rows that are decoded at once, at most: as for a line, one row alone may reach it."""


def read(path: Path, fields: Fields, advance: Advance) -> Iterator[Document | Broken]:
    """Documents of a file in the order of its rows; `Broken.line` is the row, counted from 1."""
    import pyarrow
    import pyarrow.parquet

    size, done, row = path.stat().st_size, 0, 0
    try:
        with pyarrow.parquet.ParquetFile(unpacked(path)) as file:
            names = file.schema_arrow.names
            if missing := [name for name in fields.asked() if name not in names]:
                raise BrokenFile(f"no column {missing[0]!r}; the file has {', '.join(map(repr, names))}")
            check_expansion(unpacked_bytes(file.metadata, fields.asked()), size)
            total, expanded = max(1, file.metadata.num_rows), 0
            rows = batch_rows(file.metadata, fields.asked())
            for batch in file.iter_batches(rows, columns=fields.asked(), use_threads=False):
                # A dictionary may stand for far more than the file says of its pages.
                expanded += batch.nbytes
                check_expansion(expanded, size)
                for record in records(batch):
                    row += 1
                    yield Broken(row, str(record)) if isinstance(record, Exception) else fields.document(record, row)
                advance(size * row // total - done)
                done = size * row // total
    except (pyarrow.ArrowException, OSError, *decompression_errors()) as error:
        raise BrokenFile(f"row {row + 1}: cannot be read as Parquet ({first_line(error)})") from error
    advance(size - done)


def unpacked_bytes(metadata: Any, names: list[str]) -> int:
    """Bytes of the pages of these columns once they are decompressed, as the file's footer has them."""
    return sum(sum(group) for group in unpacked_groups(metadata, names))


def unpacked_groups(metadata: Any, names: list[str]) -> Iterator[list[int]]:
    """The same, for each row group and each column of it."""
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        columns = map(group.column, range(group.num_columns))
        yield [column.total_uncompressed_size for column in columns if column.path_in_schema.split(".")[0] in names]


def batch_rows(metadata: Any, names: list[str]) -> int:
    """How many rows may be decoded at once: each may repeat whatever its row group holds (dictionaries, prefixes)."""
    most = max((sum(group) for group in unpacked_groups(metadata, names)), default=0)
    return max(1, min(BATCH_ROWS, BATCH_BYTES // max(1, most)))


def unpacked(path: Path) -> Any:
    """The file itself, or its whole content in memory under a .gz or .zst (Parquet needs to jump about in it)."""
    if path.suffix not in (".gz", ".zst"):
        return path
    import pyarrow

    with opened(path, lambda _: None) as stream:
        return pyarrow.BufferReader(stream.read())


def records(batch: Any) -> Iterator[dict[str, Any] | Exception]:
    """Rows of a batch; where one value cannot be decoded, its row alone is given as the exception."""
    try:
        yield from batch.to_pylist()
        return
    except UnicodeDecodeError:
        pass
    for index in range(batch.num_rows):
        try:
            yield {name: batch.column(name)[index].as_py() for name in batch.schema.names}
        except UnicodeDecodeError as error:
            yield ValueError(f"not UTF-8 at byte {error.start} of the value")


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
