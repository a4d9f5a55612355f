"""Two real text corpora that every machine with CPython has, so that the quickstart downloads nothing.

general.jsonl   English documentation prose: the language reference that `help()` reads, and the docstrings of the
                standard library; examples, signatures and repeated paragraphs taken out.
code.jsonl      the standard library's source without docstrings and comments: so the two share no text.

One JSON object a line: `text`, and `origin` (topic or module), which keeps cuts of one origin on one side of the
hold-out. The texts follow the Python version; the same version gives the same bytes.

    python benchmarks/quickstart/corpora.py quickstart/corpora
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import inspect
import io
import json
import re
import sys
import sysconfig
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

# Tests and demonstrations, other people's packages, and generated tables (the codecs).
EXCLUDED = {
    "__pycache__", "config", "ensurepip", "encodings", "idle_test", "lib2to3", "pydoc_data", "site-packages",
    "dist-packages", "test", "tests", "turtledemo",
}  # fmt: skip
PROSE_CHARACTERS = 2_500
CODE_CHARACTERS = 4_000
SMALLEST_DOCUMENT = 200
# One statement longer than this is a table, not something that anybody reads.
LARGEST_PIECE = 16_000
# Brackets, underscores, operators: English prose has few, a paragraph of code many.
_CODE_MARKS = re.compile(r"[=(){}\[\]_<>|\\/@#*]")
_WORD = re.compile(r"[A-Za-z][a-z']+")


@dataclass(frozen=True)
class Document:
    text: str
    origin: str


def modules() -> Iterator[tuple[str, str]]:
    """(module name, source) of the standard library's Python modules, in order of name."""
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if any(part in EXCLUDED or part.startswith(("config-", "_sysconfigdata")) for part in parts):
            continue
        try:
            with tokenize.open(path) as file:
                yield ".".join(parts), file.read()
        except (SyntaxError, UnicodeDecodeError):
            continue


def is_prose(paragraph: str) -> bool:
    """At least one sentence of English words, and hardly any marks of code."""
    if ">>>" in paragraph or len(_WORD.findall(paragraph)) < 8:
        return False
    letters = len(re.sub(r"\s", "", paragraph))
    return len(_CODE_MARKS.findall(paragraph)) < 0.04 * letters


class Prose:
    """Paragraphs of prose, each kept once in the whole corpus, packed into documents of one origin."""

    def __init__(self) -> None:
        self._seen: set[bytes] = set()

    def paragraphs(self, text: str) -> Iterator[str]:
        for paragraph in re.split(r"\n\s*\n", text):
            words = " ".join(paragraph.split())
            key = hashlib.sha256(re.sub(r"[^a-z]", "", words.lower()).encode()).digest()
            if key not in self._seen and is_prose(words):
                self._seen.add(key)
                yield words

    def documents(self, origin: str, texts: Iterable[str]) -> Iterator[Document]:
        paragraphs = [paragraph for text in texts for paragraph in self.paragraphs(text)]
        yield from packed(origin, paragraphs, PROSE_CHARACTERS, "\n\n")


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


def docstrings(tree: ast.Module) -> Iterator[str]:
    """Cleaned docstrings of a module, its classes and functions, in order."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            text = ast.get_docstring(node)
            if text:
                yield inspect.cleandoc(text)


def general() -> Iterator[Document]:
    """The general domain: topics of the language reference, then docstrings by module."""
    from pydoc_data.topics import topics

    prose = Prose()
    for name, text in sorted(topics.items()):
        yield from prose.documents(f"topic {name}", [text])
    for name, source in modules():
        yield from prose.documents(name, docstrings(ast.parse(source)))


def without_words(source: str) -> str:
    """The same program without docstrings and comments; a body that held nothing else becomes `pass`."""
    lines = source.splitlines(keepends=True)
    cuts: list[tuple[int, int, int, int, str]] = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        first = node.body[0] if node.body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            alone = len(node.body) == 1 and not isinstance(node, ast.Module)
            begin = _column(lines, first.lineno, first.col_offset)
            end = _column(lines, first.end_lineno or 0, first.end_col_offset or 0)
            cuts.append((first.lineno, begin, first.end_lineno or 0, end, "pass" if alone else ""))
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            cuts.append((*token.start, *token.end, ""))
    for row, column, end_row, end_column, instead in sorted(cuts, reverse=True):
        head, tail = lines[row - 1][:column], lines[end_row - 1][end_column:]
        if not instead and tail.lstrip().startswith(";"):
            # `"""text"""; x = 1` is legal: the rest of the line stays.
            tail = tail.lstrip().removeprefix(";").lstrip(" ")
        lines[row - 1 : end_row] = [head + instead + tail]
    kept = [line.rstrip() for line in "".join(lines).splitlines()]
    return "\n".join(line for line in kept if line) + "\n"


def _column(lines: list[str], row: int, offset: int) -> int:
    """ast counts UTF-8 bytes, tokenize and str count characters."""
    return len(lines[row - 1].encode()[:offset].decode())


def definitions(source: str) -> Iterator[str]:
    """A module cut before each of its top-level statements, and before each member of a long class."""
    lines = source.splitlines(keepends=True)
    starts = []
    for node in ast.parse(source).body:
        starts.append(_first_line(node))
        length = sum(map(len, lines[node.lineno - 1 : node.end_lineno]))
        if isinstance(node, ast.ClassDef) and length > CODE_CHARACTERS:
            starts += map(_first_line, node.body[1:])
    edges = [0, *sorted(set(starts) - {0}), len(lines)]
    for begin, end in pairwise(edges):
        yield "".join(lines[begin:end])


def _first_line(node: ast.stmt) -> int:
    """Counted from 0, decorators included."""
    decorators = getattr(node, "decorator_list", [])
    return min([node.lineno, *(decorator.lineno for decorator in decorators)]) - 1


def is_table(text: str) -> bool:
    """Generated tables of numbers are no source that anybody wrote."""
    return sum(character.isdigit() for character in text) > 0.15 * len(text)


def code() -> Iterator[Document]:
    """The new domain: one document a module; long modules cut between definitions."""
    seen: set[bytes] = set()
    for name, source in modules():
        try:
            program = without_words(source)
            pieces = [program] if len(program) <= CODE_CHARACTERS else list(definitions(program))
        except (SyntaxError, tokenize.TokenError):
            continue
        fresh = []
        for piece in pieces:
            key = hashlib.sha256(piece.encode()).digest()
            if key not in seen and len(piece) <= LARGEST_PIECE and not is_table(piece):
                seen.add(key)
                fresh.append(piece)
        yield from packed(name, fresh, CODE_CHARACTERS, "")


def write(folder: Path) -> dict[str, tuple[int, int]]:
    """Write both corpora; (documents, UTF-8 bytes of text) of each."""
    folder.mkdir(parents=True, exist_ok=True)
    sizes = {}
    for name, documents in (("general", general()), ("code", code())):
        found = list(documents)
        temporary = folder / f".{name}.jsonl.tmp"
        with open(temporary, "w", encoding="utf-8") as file:
            for document in found:
                file.write(json.dumps(asdict(document), ensure_ascii=False) + "\n")
        temporary.replace(folder / f"{name}.jsonl")
        sizes[name] = (len(found), sum(len(document.text.encode()) for document in found))
    return sizes


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    for name, (documents, size) in write(parser.parse_args().folder).items():
        print(f"{name}: {documents} documents, {size / 1e6:.2f} MB of text", file=sys.stderr)


if __name__ == "__main__":
    main()
