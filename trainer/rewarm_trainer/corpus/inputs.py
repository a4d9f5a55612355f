"""From a `uri` to the files it means. Decides names, order and format of input files; reads no content.

Order: by path relative to the fixed part of the uri (what stands before the first wildcard), so that a corpus has the
same order and digest wherever it lies. In globs `*` and `?` stay within one folder, `**` crosses folders.

Who may write into a corpus must not choose what else is read: a link that a folder or a glob brings in, and any link in
a claim, has to stay inside. A local file that the manifest itself names may be a link to anywhere.
"""

from __future__ import annotations

import glob as python_glob
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from rewarm_api.errors import DataError, MissingInputError
from rewarm_api.snapshot import Format
from rewarm_trainer.claims import claim_path, claim_root

WILDCARDS = re.compile(r"[*?\[]")
SUFFIXES = {
    ".parquet": Format.PARQUET,
    ".jsonl": Format.JSON_LINES,
    ".ndjson": Format.JSON_LINES,
    ".json": Format.JSON_LINES,
    ".txt": Format.TEXT,
    ".text": Format.TEXT,
    ".md": Format.TEXT,
    ".bin": Format.TOKENS,
}


@dataclass(frozen=True, slots=True)
class InputFile:
    """One file of a source, wherever it lies.

    `relative` is its name within the source; `version` what the store says about its content (S3: the entity tag;
    Hugging Face: the commit), empty where only reading can tell (local files).
    """

    uri: str
    relative: str
    size: int
    version: str = ""
    format: Format | None = None

    @property
    def local(self) -> Path | None:
        return None if "://" in self.uri else Path(self.uri)


def expand(uri: str, root: Path) -> list[InputFile]:
    """The files that `uri` means, sorted by relative path. `root` is what a relative path is relative to.

    Raises MissingInputError (66), naming the uri, when nothing is there.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return expand_local(uri, uri, root)
    if scheme == "file":
        return expand_local(uri, rest, root)
    if scheme == "claim":
        return expand_local(uri, str(claim_path(uri)), root, within=claim_root(uri))
    if scheme == "s3":
        return expand_s3(uri)
    if scheme == "hf":
        from rewarm_trainer.corpus.hugging_face import expand_dataset

        return expand_dataset(uri, root)
    raise MissingInputError(f"{uri}: cannot be read here; expected a path, file://, claim://, s3:// or hf://")


def expand_local(uri: str, path: str, root: Path, within: Path | None = None) -> list[InputFile]:
    """Files of a path, a glob or a folder (all files below it, hidden ones left out).

    Links must not lead out of `within`; where that is not given, out of the folder that is read. Raises DataError (65)
    for one that does.
    """
    place = (root / Path(path).expanduser()).absolute()
    if place.is_dir():
        base, found = place, [file for file in place.rglob("*") if file.is_file() and not hidden(file, place)]
    elif place.is_file():
        base, found = place.parent, [place]
    elif WILDCARDS.search(path):
        pattern = str(Path(path).expanduser())
        base = root.absolute() / fixed_part(pattern)
        names = python_glob.iglob(pattern, root_dir=root, recursive=True)
        found = [file for name in names if (file := root.absolute() / name).is_file()]
    else:
        raise MissingInputError(f"{uri}: no such file or folder (looked for {place}); correct the uri or create it")
    if not found:
        what = "the folder holds no file" if place.is_dir() else "no file matches"
        raise MissingInputError(f"{uri}: {what} (looked for {place}); correct the uri or create the files")
    if within is not None or found != [place]:
        _check_links(found, within or base)
    files = [InputFile(str(file), file.relative_to(base).as_posix(), file.stat().st_size) for file in found]
    return sorted(files, key=lambda file: file.relative)


def _check_links(files: Sequence[Path], within: Path) -> None:
    boundary = within.resolve()
    inside: dict[Path, bool] = {}
    for file in files:
        if file.parent not in inside:
            inside[file.parent] = file.parent.resolve().is_relative_to(boundary)
        if inside[file.parent] and not (file.is_symlink() and not file.resolve().is_relative_to(boundary)):
            continue
        raise DataError(
            f"{file}: leads by a link to {file.resolve()}, expected a file inside {within}; copy it there, or make "
            "the place it lies in a source of its own"
        )


def hidden(file: Path, base: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(base).parts)


def fixed_part(pattern: str) -> str:
    """The folder before the first wildcard, with its slash."""
    match = WILDCARDS.search(pattern)
    return pattern[: pattern.rindex("/", 0, match.start()) + 1] if match and "/" in pattern[: match.start()] else ""


def expand_s3(uri: str) -> list[InputFile]:
    """Objects that a key, a prefix (as a folder) or a glob over keys means."""
    from rewarm_trainer.storage import S3Storage

    bucket, _, key = uri.removeprefix("s3://").partition("/")
    store = S3Storage(f"s3://{bucket}")
    if WILDCARDS.search(key):
        base, matches = fixed_part(key), re.compile(translate(key)).fullmatch
        entries = [entry for entry in store.list(key[: WILDCARDS.search(key).start()]) if matches(entry.key)]  # type: ignore[union-attr]
    else:
        entries = [entry for entry in store.list(key) if entry.key == key]
        base = key[: key.rfind("/") + 1]
        if not entries:
            base = key.rstrip("/") + "/" if key else ""
            entries = [entry for entry in store.list(base) if not entry.key.endswith("/")]
    if not entries:
        raise MissingInputError(f"{uri}: no object matches; correct the uri or upload the files")
    files = [
        InputFile(f"s3://{bucket}/{entry.key}", entry.key.removeprefix(base), entry.size, entry.version)
        for entry in entries
    ]
    return sorted(files, key=lambda file: file.relative)


def translate(pattern: str) -> str:
    """A glob over object keys as a regular expression."""
    pieces = re.split(r"(\*\*/|\*\*|\*|\?|\[!?\]?[^\]]*\])", pattern)
    known = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return "".join(
        known.get(piece) or ("[" + piece[1:].replace("!", "^", 1) if is_class(piece) else re.escape(piece))
        for piece in pieces
    )


def is_class(piece: str) -> bool:
    return piece.startswith("[") and piece.endswith("]") and len(piece) > 2


def with_formats(files: Sequence[InputFile], asked: Format | None) -> list[InputFile]:
    """Each file with its format: the one that was asked for, else by suffix (.gz and .zst are looked through). Rows of
    a dataset (hf://) have none.

    Raises DataError (65) for a suffix that says nothing.
    """
    return [file if file.uri.startswith("hf://") else replace(file, format=asked or format_of(file)) for file in files]


def format_of(file: InputFile) -> Format:
    name = PurePosixPath(file.relative)
    suffix = PurePosixPath(name.stem).suffix if name.suffix in (".gz", ".zst") else name.suffix
    if suffix.lower() not in SUFFIXES:
        raise DataError(
            f"{file.uri}: format unknown from suffix {suffix!r}, expected one of {', '.join(SUFFIXES)} "
            "(also with .gz or .zst); set the source's format"
        )
    return SUFFIXES[suffix.lower()]
