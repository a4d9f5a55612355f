"""Documents out of raw text: what counts as prose, each paragraph once, cuts of one origin, one JSON object a line.

Pure but for `write`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

PROSE_CHARACTERS = 2_500
SMALLEST_DOCUMENT = 200
# Brackets, underscores, operators: prose has few, a paragraph of code many.
_CODE_MARKS = re.compile(r"[=(){}\[\]_<>|\\/@#*]")


@dataclass(frozen=True)
class Document:
    text: str
    origin: str


@dataclass(frozen=True)
class Corpus:
    """What was written: documents, UTF-8 bytes of text, sha256 of the file."""

    documents: int
    text_bytes: int
    sha256: str


@dataclass(frozen=True)
class Language:
    """How to find words: the small letters of the language, as the inside of a character class."""

    letters: str

    @property
    def word(self) -> re.Pattern[str]:
        return re.compile(f"[{self.letters.upper().replace('ẞ', '')}{self.letters}][{self.letters}']+")

    def key(self, paragraph: str) -> bytes:
        """Equal for paragraphs that differ in case, spaces and marks only."""
        return hashlib.sha256(re.sub(f"[^{self.letters}]", "", paragraph.lower()).encode()).digest()


ENGLISH = Language("a-z")
GERMAN = Language("a-zäöüß")


def is_prose(paragraph: str, language: Language = ENGLISH) -> bool:
    """At least one sentence of words, and hardly any marks of code."""
    if ">>>" in paragraph or len(language.word.findall(paragraph)) < 8:
        return False
    letters = len(re.sub(r"\s", "", paragraph))
    return len(_CODE_MARKS.findall(paragraph)) < 0.04 * letters


class Prose:
    """Paragraphs of prose, each kept once in the whole corpus, packed into documents of one origin."""

    def __init__(self, language: Language = ENGLISH, characters: int = PROSE_CHARACTERS) -> None:
        self._language, self._characters = language, characters
        self._seen: set[bytes] = set()

    def paragraphs(self, text: str) -> Iterator[str]:
        for paragraph in re.split(r"\n\s*\n", text):
            words = " ".join(paragraph.split())
            key = self._language.key(words)
            if key not in self._seen and is_prose(words, self._language):
                self._seen.add(key)
                yield words

    def documents(self, origin: str, texts: Iterable[str]) -> Iterator[Document]:
        paragraphs = [paragraph for text in texts for paragraph in self.paragraphs(text)]
        yield from packed(origin, paragraphs, self._characters, "\n\n")


def packed(origin: str, pieces: Iterable[str], characters: int, joint: str) -> Iterator[Document]:
    """Pieces joined into documents of about `characters`; the last may be short, but not tiny."""
    held: list[str] = []
    size = 0
    for piece in pieces:
        if held and size + len(piece) > characters:
            yield Document(joint.join(held), origin)
            held, size = [], 0
        held.append(piece)
        size += len(piece)
    if size >= SMALLEST_DOCUMENT:
        yield Document(joint.join(held), origin)


def write(path: Path, documents: Iterable[Document]) -> Corpus:
    """Write a corpus whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    found = list(documents)
    data = "".join(json.dumps(asdict(document), ensure_ascii=False) + "\n" for document in found).encode()
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(data)
    temporary.replace(path)
    return Corpus(len(found), sum(len(document.text.encode()) for document in found), hashlib.sha256(data).hexdigest())
