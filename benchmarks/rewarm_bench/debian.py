"""Manual pages out of Debian packages, fetched by apt-get without root into a folder of our own.

The only part of the benchmarks that talks to the network; what it fetched is found again. Another release of Debian has
other texts: the corpora's digests say which these were.
"""

from __future__ import annotations

import gzip
import re
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

from rewarm_bench import roff
from rewarm_bench.documents import ENGLISH, GERMAN, Document, Language, Prose

ENGLISH_PACKAGES = ("manpages", "manpages-dev")
GERMAN_PACKAGES = ("manpages-de",)
_GERMAN_WORDS = re.compile(r"\b(?:der|die|das|und|ist|sind|wird|werden|nicht|ein|eine|einer|den|dem|von|mit|für|auf)\b")
_ENGLISH_WORDS = re.compile(r"\b(?:the|of|and|is|are|to|a|an|that|this|be|by|for|with|not|from|on|it)\b")
ADVICE = (
    "this needs Debian or Ubuntu with apt-get and dpkg-deb, and the package index once; or put the packages' .deb "
    "files into the folder yourself"
)


def packages(names: tuple[str, ...], folder: Path) -> list[Path]:
    """The .deb of each package, downloaded unless it lies in the folder. SystemExit says what to do when it cannot."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        if not _found(name, folder) and not _download(name, folder):
            raise SystemExit(f"{folder}: cannot fetch the Debian package {name}: {ADVICE}")
    return [_found(name, folder)[-1] for name in names]


def _found(name: str, folder: Path) -> list[Path]:
    return sorted(folder.glob(f"{name}_*.deb"))


def _download(name: str, folder: Path) -> bool:
    """By the machine's own package lists; where these are empty, by lists of our own."""
    lists = (folder / "lists").resolve()
    own = [f"Dir::State::Lists={lists}", f"Dir::Cache={lists / 'cache'}", "Debug::NoLocking=true"]
    options = [part for option in own for part in ("-o", option)]
    try:
        if _quiet(["apt-get", "download", name], folder):
            return True
        (lists / "partial").mkdir(parents=True, exist_ok=True)
        return _quiet(["apt-get", *options, "update"], folder) and _quiet(
            ["apt-get", *options, "download", name], folder
        )
    except FileNotFoundError:
        return False


def _quiet(command: list[str], folder: Path) -> bool:
    return subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0


def pages(package: Path) -> Iterator[tuple[str, str]]:
    """(page, its source) of a package, in order of name; links to other pages are left out."""
    unpacked = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE)
    assert unpacked.stdout is not None
    found = []
    with tarfile.open(fileobj=unpacked.stdout, mode="r|") as archive:
        for member in archive:
            path = Path(member.name)
            file = archive.extractfile(member) if member.isfile() and "man" in path.parts else None
            if file is not None and path.suffix == ".gz":
                found.append((path.stem, _text(gzip.decompress(file.read()))))
    if unpacked.wait():
        raise SystemExit(f"{package}: dpkg-deb cannot read it; remove the file and start again")
    yield from sorted(found)


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")


def manual(names: tuple[str, ...], folder: Path, language: Language, characters: int) -> Iterator[Document]:
    """Prose of the packages' pages in one language; a page's documents share its name as their origin."""
    prose = Prose(language, characters)
    for package in packages(names, folder):
        for page, source in pages(package):
            text = roff.paragraphs(source)
            kept = [part for part in text.split("\n\n") if in_language(part, language)]
            yield from prose.documents(page, ["\n\n".join(kept)])


def in_language(paragraph: str, language: Language) -> bool:
    """Translated pages keep untranslated paragraphs: the function words tell them apart."""
    german, english = len(_GERMAN_WORDS.findall(paragraph)), len(_ENGLISH_WORDS.findall(paragraph))
    return german > english if language == GERMAN else english >= german


def english(folder: Path, characters: int) -> Iterator[Document]:
    yield from manual(ENGLISH_PACKAGES, folder, ENGLISH, characters)


def german(folder: Path, characters: int) -> Iterator[Document]:
    yield from manual(GERMAN_PACKAGES, folder, GERMAN, characters)
