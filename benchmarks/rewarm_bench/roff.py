"""The words of a manual page: man(7) source to paragraphs of plain text. Pure.

Fonts, headings, tags, tables and literal blocks go; what stays is running text, paragraphs apart by an empty line.
Pages in mdoc(7), whose macros are words of the sentence, give nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

# Macros that only change the font of their arguments: together as words, or alternating without a space.
_FONT = {"B", "I", "R", "SM", "SB"}
_ALTERNATING = {"BI", "BR", "IB", "IR", "RB", "RI"}
_BLOCK_END = {"nf": "fi", "EX": "EE", "TS": "TE", "EQ": "EN", "PS": "PE", "de": ".", "de1": ".", "ig": ".", "SY": "YS"}
# A link's text stands between these; their own arguments are the address.
_LINK = {"UR", "MT"}
_LINK_END = {"UE", "ME"}
_GLYPHS = {
    "aq": "'", "dq": '"', "lq": "“", "rq": "”", "oq": "‘", "cq": "’", "bu": "•", "em": "—", "en": "–", "co": "©",
    "ha": "^", "ti": "~", "rs": "\\", "mu": "×", "sc": "§", "ss": "ß", ":a": "ä", ":o": "ö", ":u": "ü", ":A": "Ä",
    ":O": "Ö", ":U": "Ü", "Fo": "«", "Fc": "»", "<=": "≤", ">=": "≥", "!=": "≠", "+-": "±", "->": "→", "de": "°",
    "ga": "`", "at": "@", "sh": "#", "or": "|", "bv": "|", "hy": "-", "mi": "-", "pl": "+", "eq": "=", "ts": "ς",
}  # fmt: skip
_ESCAPE = re.compile(
    r"""\\(?:
      [fFmMgkR](?:\[[^\]]*\]|\(..|.)          # fonts and colours
    | [nY](?:[+-]?(?:\[[^\]]*\]|\(..|.))      # number registers
    | s[+-]?(?:\[[^\]]*\]|\(..|'[^']*'|\d)    # sizes
    | [hvwlLobDXZHSNAxC]'[^']*'                # motions, drawings
    | \*(?:\[(?P<string>[^\]]*)\]|\((?P<string2>..)|(?P<string1>.))
    | \[(?P<glyph>[^\]]*)\] | \((?P<glyph2>..)
    | (?P<one>.)
    )""",
    re.VERBOSE,
)
_ONE = {"-": "-", "e": "\\", "\\": "\\", "~": " ", " ": " ", "0": " ", "'": "'", "`": "`", ".": ".", "t": " "}


def paragraphs(source: str) -> str:
    """Running text of one man(7) page; nothing for an alias (`.so`) or a page in mdoc(7)."""
    lines = source.splitlines()
    if any(line.startswith((".so ", ".Dd ", ".Sh ")) for line in lines):
        return ""
    text = "\n".join(_words(_without_blocks(lines)))
    return re.sub(r"\n\s*\n+", "\n\n", text).strip()


def plain(text: str) -> str:
    """Text with its escapes resolved."""
    return _ESCAPE.sub(_resolved, text)


def arguments(rest: str) -> list[str]:
    """Arguments of a request: words, or "quoted strings" in which "" is a quotation mark."""
    found = re.findall(r'"((?:[^"]|"")*)"?|((?:\\.|[^\s"\\])(?:\\.|[^\s\\])*)', rest)
    return [quoted.replace('""', '"') if quoted else word for quoted, word in found]


def _resolved(match: re.Match[str]) -> str:
    string = match["string"] or match["string2"] or match["string1"]
    if string:
        return {"lq": "“", "rq": "”"}.get(string, "")
    glyph = match["glyph"] or match["glyph2"]
    if glyph:
        if re.fullmatch(r"u[0-9A-F]{4,6}", glyph):
            return chr(int(glyph[1:], 16))
        return _GLYPHS.get(glyph, "")
    return _ONE.get(match["one"] or "", "")


def _without_blocks(lines: Iterable[str]) -> Iterator[str]:
    """Lines outside of literal blocks, tables and definitions, comments taken out; a block is a break."""
    until = ""
    for line in lines:
        request = _request(line)
        if until:
            if request == until or line.rstrip() in (f".{until}", ".."):
                until = ""
            continue
        if line.startswith(("'\\\"", '.\\"', '\\"')) or line.strip() in (".", "'"):
            continue
        if request in _BLOCK_END:
            until = _BLOCK_END[request]
            yield ""
            continue
        yield re.sub(r'\s*\\["#].*$', "", line)


def _request(line: str) -> str:
    match = re.match(r"[.'][ \t]*([A-Za-z0-9]+)", line)
    return match[1] if match else ""


def _words(lines: Iterable[str]) -> Iterator[str]:
    tag = False
    for line in lines:
        request = _request(line)
        if not request:
            text = "" if line.startswith((".", "'")) else plain(line)
        else:
            rest = arguments(line[1:].lstrip()[len(request) :].strip())
            if request in _FONT:
                text = plain(" ".join(rest))
            elif request in _ALTERNATING or request in _LINK_END:
                text = plain("".join(rest))
            elif request in _LINK:
                text = plain(rest[0]) if rest else ""
            else:
                tag = request in ("TP", "TQ")
                yield ""
                continue
        yield text
        if tag:
            # The line after TP is the tag: a paragraph of its own, which is no sentence.
            yield ""
            tag = False
