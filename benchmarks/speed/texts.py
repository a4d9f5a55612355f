"""Real text for rows that read it: the source of Python's standard library, as JSON lines."""

from __future__ import annotations

import json
import sysconfig
from collections.abc import Iterator
from pathlib import Path


def documents() -> Iterator[str]:
    """Every module of the standard library in order of name, packages of others left out."""
    folder = Path(sysconfig.get_path("stdlib"))
    for path in sorted(folder.rglob("*.py")):
        if "site-packages" not in path.parts:
            text = path.read_text(encoding="utf-8", errors="replace")
            if text.strip():
                yield text


def write(folder: Path, megabytes: float, files: int = 4, skip: float = 0.0) -> int:
    """About `megabytes` of it in `files` files of `folder`, after the first `skip`; the bytes of text written.

    What the library does not have is made from it again, each document under a line that says which time.
    """
    folder.mkdir(parents=True, exist_ok=True)
    streams = [(folder / f"{number}.jsonl").open("w", encoding="utf-8") for number in range(files)]
    wanted, passed, size, count, time = megabytes * 1e6, skip * 1e6, 0, 0, 0
    while size < wanted:
        for text in documents():
            if passed > 0:
                passed -= len(text)
                continue
            line = text if not time else f"# {time}\n{text}"
            streams[count % files].write(json.dumps({"text": line}) + "\n")
            size, count = size + len(line.encode("utf-8", "replace")), count + 1
            if size >= wanted:
                break
        time += 1
    for stream in streams:
        stream.close()
    return size
