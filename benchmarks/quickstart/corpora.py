"""The two corpora of the quickstart, from what ships with CPython: nothing is downloaded.

general.jsonl   English documentation prose; code.jsonl   the standard library's source without its words.

One JSON object a line: `text`, and `origin` (topic or module), which keeps cuts of one origin on one side of the
hold-out.

    python benchmarks/quickstart/corpora.py quickstart/corpora
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rewarm_bench import documents, python_text


def write(folder: Path) -> dict[str, documents.Corpus]:
    """Write both corpora; what became of each."""
    return {
        name: documents.write(folder / f"{name}.jsonl", found)
        for name, found in (("general", python_text.general()), ("code", python_text.code()))
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    for name, corpus in write(parser.parse_args().folder).items():
        print(f"{name}: {corpus.documents} documents, {corpus.text_bytes / 1e6:.2f} MB of text", file=sys.stderr)


if __name__ == "__main__":
    main()
