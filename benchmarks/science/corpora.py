"""The four texts of the reproductions, written once into the work folder.

general   English: Debian's manual pages (manpages, manpages-dev)     what every base is trained on
german    Debian's manual pages in German (manpages-de)               strong shift: another language
code      source of CPython's standard library without its words      strong shift: another kind of text
python    English: documentation of CPython                           weak shift: the same language, other matters

Documents are cut at about 1,200 characters: many short ones say more about a difference than a few long ones.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from rewarm_bench import debian, python_text
from rewarm_bench.documents import Corpus, Document, write

CHARACTERS = 1_200
GENERAL, GERMAN, CODE, PYTHON = "general", "german", "code", "python"
LICENSES = {GENERAL: "various free licences of the Linux man-pages", GERMAN: "GPL-3.0-or-later and others",
            CODE: "PSF-2.0", PYTHON: "PSF-2.0"}  # fmt: skip
_TEXTS: dict[str, Callable[[Path], Iterator[Document]]] = {
    GENERAL: lambda debs: debian.english(debs, CHARACTERS),
    GERMAN: lambda debs: debian.german(debs, CHARACTERS),
    CODE: lambda debs: python_text.code(CHARACTERS),
    PYTHON: lambda debs: python_text.general(CHARACTERS),
}
NAMES = tuple(_TEXTS)


def prepare(folder: Path) -> dict[str, Corpus]:
    """Write the texts unless they stand there; documents, bytes and digest of each."""
    facts = folder / "corpora.json"
    if not facts.exists():
        found = {name: write(folder / f"{name}.jsonl", make(folder / "debian")) for name, make in _TEXTS.items()}
        facts.write_text(json.dumps({name: asdict(corpus) for name, corpus in found.items()}, indent=1) + "\n")
    return {name: Corpus(**value) for name, value in json.loads(facts.read_text()).items()}
