"""The texts of the reproductions, written once into the work folder.

general   English: Debian's manual pages (manpages, manpages-dev)     what every base is trained on
german    Debian's manual pages in German (manpages-de)               strong shift: another language
code      source of CPython's standard library without its words      strong shift: another kind of text
python    English: documentation of CPython                           weak shift: the same language, other matters

two that are made of the German one, for what needs documents of unequal quality:

noisy     most documents with a share of their letters changed at random; their field `quality` is 1 minus that share
clean     documents of other pages as they are: what runs on the noisy text are measured on

and one of the general one, for what needs a form that no other text has:

exchanges questions and answers about a page: a sentence is begun, the answer is its rest

Documents are cut at about 1,200 characters: many short ones say more about a difference than a few long ones.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

from rewarm_bench import debian, python_text
from rewarm_bench.documents import Corpus, Document, write

CHARACTERS = 1_200
GENERAL, GERMAN, CODE, PYTHON = "general", "german", "code", "python"
NOISY, CLEAN, QUALITY, EXCHANGES = "noisy", "clean", "quality", "exchanges"
_GPL = "GPL-3.0-or-later and others"
_MAN = "various free licences of the Linux man-pages"
LICENSES = {GENERAL: _MAN, EXCHANGES: _MAN, GERMAN: _GPL, NOISY: _GPL, CLEAN: _GPL,
            CODE: "PSF-2.0", PYTHON: "PSF-2.0"}  # fmt: skip
_TEXTS: dict[str, Callable[[Path], Iterator[Document]]] = {
    GENERAL: lambda debs: debian.english(debs, CHARACTERS),
    GERMAN: lambda debs: debian.german(debs, CHARACTERS),
    CODE: lambda debs: python_text.code(CHARACTERS),
    PYTHON: lambda debs: python_text.general(CHARACTERS),
}
NAMES = tuple(_TEXTS)
CLEAN_SHARE, SPOILED_SHARE, WORST = 24, 0.8, 0.6
"""One page in 24 is kept for `clean`; of the others so many documents are spoiled, up to this share of letters."""


@dataclass(frozen=True)
class Scored(Document):
    quality: float


def _is_kept(document: Document) -> bool:
    return sha256(document.origin.encode()).digest()[0] % CLEAN_SHARE == 0


def spoiled(document: Document) -> Scored:
    """The document with a share of its letters changed; a function of its text alone."""
    chance = random.Random(sha256(document.text.encode()).digest())
    share = round(chance.uniform(0, WORST), 3) if chance.random() < SPOILED_SHARE else 0.0
    letters = (
        chance.choice("abcdefghijklmnopqrstuvwxyz") if each.isalpha() and chance.random() < share else each
        for each in document.text
    )
    return Scored("".join(letters), document.origin, round(1 - share, 3))


BEGUN = 5
"""Words of a sentence that a question quotes."""
_SENTENCE = re.compile(r"[^.!?]+[.!?](?=\s|$)")


def exchanged(document: Document) -> Document:
    """The document's sentences as questions and answers, without what has no rest to answer with."""
    sentences = (" ".join(found.split()) for found in _SENTENCE.findall(document.text))
    halves = ((words[:BEGUN], words[BEGUN:]) for words in map(str.split, sentences) if len(words) > BEGUN)
    turns = (
        f"### Question: how does {document.origin} go on after “{' '.join(begun)}”?\n### Answer: {' '.join(rest)}\n"
        for begun, rest in halves
    )
    return Document("".join(turns), document.origin)


_DERIVED: dict[str, Callable[[Path], Iterator[Document]]] = {
    NOISY: lambda debs: (spoiled(each) for each in debian.german(debs, CHARACTERS) if not _is_kept(each)),
    CLEAN: lambda debs: (each for each in debian.german(debs, CHARACTERS) if _is_kept(each)),
    EXCHANGES: lambda debs: (each for each in map(exchanged, debian.english(debs, CHARACTERS)) if each.text),
}


def prepare(folder: Path) -> dict[str, Corpus]:
    """Write the texts unless they stand there; documents, bytes and digest of each."""
    facts = folder / "corpora.json"
    known = json.loads(facts.read_text()) if facts.exists() else {}
    for name, make in {**_TEXTS, **_DERIVED}.items():
        if name not in known:
            known[name] = asdict(write(folder / f"{name}.jsonl", make(folder / "debian")))
            facts.write_text(json.dumps(known, indent=1) + "\n")
    return {name: Corpus(**value) for name, value in known.items()}
