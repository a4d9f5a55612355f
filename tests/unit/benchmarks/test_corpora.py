from __future__ import annotations

import ast

import pytest

from rewarm_bench.documents import Document, Prose, is_prose, packed
from rewarm_bench.python_text import definitions, docstrings, is_table, without_words
from science.corpora import SPOILED_SHARE, WORST, exchanged, spoiled

PROGRAM = '''#!/usr/bin/env python
"""Module words."""
import os  # why


class A(B):
    """Class words."""

    x = "a # no comment"  # a comment
    y = """text that is
    a value"""

    def empty(self):
        """Only words."""

    def f(self, é="ö"): "words"; return 1

    async def g(self):
        """Words é"""
        return "é"  # é
'''


def test_without_words_is_the_same_program_without_its_words():
    result = without_words(PROGRAM)
    assert "#" not in result.replace("a # no comment", "")
    assert "words" not in result.lower()
    stripped = ast.parse(PROGRAM)
    for node in ast.walk(stripped):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and ast.get_docstring(
            node
        ):
            node.body = node.body[1:] or [ast.Pass()]
    assert ast.dump(ast.parse(result)) == ast.dump(stripped)


def test_without_words_on_the_standard_library():
    import argparse
    import inspect
    import textwrap

    for module in (argparse, inspect, textwrap):
        result = without_words(inspect.getsource(module))
        assert list(docstrings(ast.parse(result))) == []
        assert len(result) < len(inspect.getsource(module))


def test_definitions_put_together_are_the_program():
    program = without_words(PROGRAM) + "@decorator\ndef last():\n    pass\n"
    pieces = list(definitions(program))
    assert "".join(pieces) == program
    assert pieces[-1].startswith("@decorator")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Return the number of bytes that were written to the file by the last call.", True),
        (">>> print the number of bytes that were written to the file by the last call", False),
        ("def f(a, b=None, *args, **kwargs): return dict(a=a, b=b, args=args, kwargs=kwargs) or nothing at all", False),
        ("Too short.", False),
    ],
)
def test_prose_is_told_from_code(text, expected):
    assert is_prose(text) is expected


def test_a_paragraph_appears_once_in_the_whole_corpus():
    prose = Prose()
    text = "Return the number of bytes that were written to the file by the last call."
    first = list(prose.documents("a", [text * 3]))
    assert len(first) == 1
    assert list(prose.documents("b", [text.upper() * 3, text * 3])) == []


def test_packing_keeps_everything_but_tiny_ends():
    pieces = ["x" * 90] * 25
    documents = list(packed("m", pieces, 1000, ""))
    assert {document.origin for document in documents} == {"m"}
    assert "".join(document.text for document in documents) == "x" * 90 * 25
    assert max(len(document.text) for document in documents) <= 1000
    assert list(packed("m", ["tiny"], 1000, "")) == []


def test_tables_of_numbers_are_no_source():
    assert is_table("(0x1F600, 0x1F64F, 12, 13),\n" * 50)
    assert not is_table(without_words(PROGRAM))


def test_a_spoiled_document_has_the_quality_that_it_says():
    texts = [f"Die Seite {number} beschreibt das Werkzeug und seine Schalter. " * 20 for number in range(300)]
    found = [spoiled(Document(text, "page")) for text in texts]
    assert found == [spoiled(Document(text, "page")) for text in texts], "a function of the text alone"
    for text, document in zip(texts, found, strict=True):
        letters = [pair for pair in zip(text, document.text, strict=True) if pair[0].isalpha()]
        changed = sum(before != after for before, after in letters) / len(letters)
        # A letter changed at random stays itself once in 26 times.
        assert changed == pytest.approx((1 - document.quality) * 25 / 26, abs=0.06)
        assert all(before == after for before, after in zip(text, document.text, strict=True) if not before.isalpha())
    whole = sum(document.quality == 1 for document in found) / len(found)
    assert whole == pytest.approx(1 - SPOILED_SHARE, abs=0.06)
    assert min(document.quality for document in found) >= 1 - WORST


def test_questions_and_answers_hold_the_sentences_of_the_page():
    text = "The call returns the number of bytes. It fails.\n\nOn error the variable errno is set to say why!"
    found = exchanged(Document(text, "read.2"))
    assert found.origin == "read.2"
    assert found.text.splitlines() == [
        "### Question: how does read.2 go on after “The call returns the number”?",
        "### Answer: of bytes.",
        "### Question: how does read.2 go on after “On error the variable errno”?",
        "### Answer: is set to say why!",
    ]
    assert exchanged(Document("Too short. This is as well.", "x")).text == ""
