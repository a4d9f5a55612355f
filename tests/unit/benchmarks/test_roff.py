"""Manual pages to text: fonts and escapes resolved, everything that is not running text left out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewarm_bench import roff
from rewarm_bench.debian import in_language
from rewarm_bench.documents import ENGLISH, GERMAN, Prose, is_prose

PAGE = r""".\" A comment
.TH TAIL 1 "September 2022" "GNU coreutils" "User Commands"
.SH NAME
tail \- output the last part of files \" why not
.SH DESCRIPTION
Print the last 10 lines of each
.I FILE
to standard output,
as
.BR epoll_wait (2)
does \(em or \fBnot\fP.
.PP
.nf
int main(void);
.fi
.TP
\fB\-c\fR, \fB\-\-bytes\fR=\fI\,NUM\/\fR
output the last NUM bytes;
or use \-c +NUM
.EX
    $ tail -c 5
.EE
.UR https://www.gnu.org/
the home page
.UE .
.IP \(bu 3
A last \*(lqitem\*(rq with gr\[u00FC]n and 2\ kB.
"""


def test_a_page_becomes_paragraphs() -> None:
    assert roff.paragraphs(PAGE).split("\n\n") == [
        "tail - output the last part of files",
        "Print the last 10 lines of each\nFILE\nto standard output,\nas\nepoll_wait(2)\ndoes — or not.",
        "-c, --bytes=NUM",
        "output the last NUM bytes;\nor use -c +NUM",
        "https://www.gnu.org/\nthe home page\n.",
        "A last “item” with grün and 2 kB.",
    ]


@pytest.mark.parametrize("source", [".so man2/open.2\n", ".Dd May 1\n.Dt LS 1\n.Sh NAME\n.Nm ls\n", ""])
def test_an_alias_and_another_macro_package_have_no_text(source: str) -> None:
    assert roff.paragraphs(source) == ""


def test_definitions_tables_and_conditions_are_no_text() -> None:
    source = ".de FN\nnothing here\n..\nbefore\n.TS\nl l.\na\tb\n.TE\nafter\n.ie \\n(.g .ds Aq \\(aq\n.el .ds Aq \"'\n"
    assert roff.paragraphs(source).split() == ["before", "after"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"\s-1POSIX\s0 \f(CWcode\fP \f[BI]x\f[]", "POSIX code x"),
        (r"a\e0 and \\n, caf\('e, na\[:i]ve stra\(sse", r"a\0 and \n, caf, nave straße"),
        (r"\w'wide'x\h'5n'y\v'-1'z", "xyz"),
        ("no escapes at all", "no escapes at all"),
        ("a lone one at the end \\", "a lone one at the end \\"),
    ],
)
def test_escapes(text: str, expected: str) -> None:
    assert roff.plain(text) == expected


@pytest.mark.parametrize(
    ("rest", "expected"),
    [
        ("epoll_wait (2)", ["epoll_wait", "(2)"]),
        ('"two words" one', ["two words", "one"]),
        ('"a ""quoted"" word"', ['a "quoted" word']),
        (r"a\ b c", [r"a\ b", "c"]),
        ("", []),
    ],
)
def test_arguments(rest: str, expected: list[str]) -> None:
    assert roff.arguments(rest) == expected


@given(st.text(alphabet="abAB.'\\\"-fPTHSEX(){}[]u 0\n", max_size=200))
def test_any_page_is_read_and_leaves_no_request(source: str) -> None:
    text = roff.paragraphs(source)
    assert "\n\n\n" not in text
    assert text == text.strip()


def test_languages_are_told_apart_by_their_function_words() -> None:
    german = "Die Datei wird nicht gelesen, und der Befehl ist mit einer Fehlermeldung zu Ende."
    english = "The file is not read, and the command ends with a message that says why."
    assert [in_language(german, GERMAN), in_language(english, GERMAN)] == [True, False]
    assert [in_language(german, ENGLISH), in_language(english, ENGLISH)] == [False, True]


def test_german_prose_counts_umlauts_as_letters() -> None:
    words = "Überprüfen möglicher Änderungen größerer Schlüssel für übrige Öffnungen"
    assert len(GERMAN.word.findall(words)) == 8
    assert is_prose(words, GERMAN)
    prose = Prose(GERMAN, characters=100)
    assert [each.text for each in prose.documents("a", [f"{words * 4}\n\n{words * 4}"])] == [words * 4], "once"
