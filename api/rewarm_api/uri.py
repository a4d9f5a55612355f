"""Addresses of text and weights: their scheme, where they work, and the format that their suffix tells."""

from __future__ import annotations

import re

from rewarm_api.snapshot import Format

SOURCE_SCHEMES = ("s3", "file", "hf", "claim")
FOLDER_SCHEMES = ("s3", "claim")
CLAIM_PATTERN = re.compile(r"claim://[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/\S.*")
S3_PATTERN = r"^s3://[^/\s*?\[\]]+(/\S*)?$"

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_SUFFIX = {
    "parquet": Format.PARQUET,
    "jsonl": Format.JSON_LINES,
    "ndjson": Format.JSON_LINES,
    "json": Format.JSON_LINES,
    "txt": Format.TEXT,
    "text": Format.TEXT,
    "md": Format.TEXT,
    "bin": Format.TOKENS,
}


def scheme_of(uri: str) -> str:
    """The scheme in lower case, '' for a plain path."""
    found = _SCHEME.match(uri)
    return found[1].lower() if found else ""


def is_task_file(task: str) -> bool:
    """Whether a task of a benchmark is a file, and not a name that lm-evaluation-harness knows."""
    return task.endswith((".yaml", ".yml"))


def format_of(uri: str) -> Format | None:
    """The format by suffix, compression apart; None for hf:// (rows of a dataset) and for an unknown suffix."""
    if scheme_of(uri) == "hf":
        return None
    name = uri.rsplit("/", 1)[-1].lower()
    name = name.removesuffix(".gz").removesuffix(".zst")
    _, dot, suffix = name.rpartition(".")
    return _SUFFIX.get(suffix) if dot else None
