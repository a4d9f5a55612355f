"""Real text that every machine with CPython has: English documentation prose, and source code without it.

general   the language reference that `help()` reads, and the docstrings of the standard library; examples, signatures
          and repeated paragraphs taken out.
code      the standard library's source without docstrings and comments: so the two share no text.

The texts follow the Python version; the same version gives the same documents.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import io
import sysconfig
import tokenize
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from rewarm_bench.documents import PROSE_CHARACTERS, Document, Prose, packed

# Tests and demonstrations, other people's packages, and generated tables (the codecs).
EXCLUDED = {
    "__pycache__", "config", "ensurepip", "encodings", "idle_test", "lib2to3", "pydoc_data", "site-packages",
    "dist-packages", "test", "tests", "turtledemo",
}  # fmt: skip
CODE_CHARACTERS = 4_000
# One statement longer than this is a table, not something that anybody reads.
LARGEST_PIECE = 16_000


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


def docstrings(tree: ast.Module) -> Iterator[str]:
    """Cleaned docstrings of a module, its classes and functions, in order."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            text = ast.get_docstring(node)
            if text:
                yield inspect.cleandoc(text)


def general(characters: int = PROSE_CHARACTERS) -> Iterator[Document]:
    """English prose: topics of the language reference, then docstrings by module."""
    from pydoc_data.topics import topics

    prose = Prose(characters=characters)
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


def definitions(source: str, characters: int = CODE_CHARACTERS) -> Iterator[str]:
    """A module cut before each of its top-level statements, and before each member of a long class."""
    lines = source.splitlines(keepends=True)
    starts = []
    for node in ast.parse(source).body:
        starts.append(_first_line(node))
        length = sum(map(len, lines[node.lineno - 1 : node.end_lineno]))
        if isinstance(node, ast.ClassDef) and length > characters:
            starts += map(_first_line, node.body[1:])
    edges = [0, *sorted(set(starts) - {0}), len(lines)]
    for begin, end in pairwise(edges):
        yield "".join(lines[begin:end])


def _first_line(node: ast.stmt) -> int:
    """Counted from 0, decorators included."""
    decorators: list[ast.expr] = getattr(node, "decorator_list", [])
    return min([node.lineno, *(decorator.lineno for decorator in decorators)]) - 1


def is_table(text: str) -> bool:
    """Generated tables of numbers are no source that anybody wrote."""
    return sum(character.isdigit() for character in text) > 0.15 * len(text)


def code(characters: int = CODE_CHARACTERS) -> Iterator[Document]:
    """Source code: one document a module; long modules cut between definitions."""
    seen: set[bytes] = set()
    for name, source in modules():
        try:
            program = without_words(source)
            pieces = [program] if len(program) <= characters else list(definitions(program, characters))
        except (SyntaxError, tokenize.TokenError):
            continue
        fresh = []
        for piece in pieces:
            key = hashlib.sha256(piece.encode()).digest()
            if key not in seen and len(piece) <= LARGEST_PIECE and not is_table(piece):
                seen.add(key)
                fresh.append(piece)
        yield from packed(name, fresh, characters, "")
