"""The verdict of a report in words that a person understands, for page, card and terminal.

Pure; decides words and digits, never a number. A delta is final minus baseline in nats per token: below zero is better.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Sentence(NamedTuple):
    """One finding: a word, what it means, and whether it is `good`, `bad` or `open`."""

    word: str
    text: str
    tone: str

    def __str__(self) -> str:
        return f"{self.word}: {self.text}"


_WORDS = {
    ("New", "Win"): ("Learned", "good"),
    ("New", "Tie"): ("Not shown to learn", "open"),
    ("New", "Lose"): ("Did not learn", "bad"),
    ("Retained", "Win"): ("Did not forget", "good"),
    ("Retained", "Tie"): ("No forgetting shown", "good"),
    ("Retained", "Lose"): ("Forgot", "bad"),
}


def verdict_sentences(report: Mapping[str, Any]) -> tuple[Sentence, ...]:
    """The verdict in words: what happened if the run did not succeed, then a sentence per set, what is new first."""
    sentences = []
    if report["outcome"] != "Succeeded":
        tokens = report["tokens"]
        why = f" {report['message']}" if report.get("message") else ""
        sentences.append(
            Sentence(report["outcome"], f"{tokens['trained']:,} of {tokens['requested']:,} tokens trained.{why}", "bad")
        )
    sets = sorted(report["sets"].items(), key=lambda item: item[1]["role"] != "New")
    sentences.extend(_finding(name, value) for name, value in sets if value["delta"]["mean"] is not None)
    return tuple(sentences)


def _finding(name: str, value: Mapping[str, Any]) -> Sentence:
    domain = f"{'new' if value['role'] == 'New' else 'old'}-domain loss ({name})"
    delta = value["delta"]
    verdict = value["verdict"]
    if verdict is None:
        few = f"but {value['documents']} documents are too few to judge"
        return Sentence("Undecided", f"{domain} changed by {change(delta)}, {few}.", "open")
    word, tone = _WORDS[value["role"], verdict]
    if verdict == "Tie":
        return Sentence(word, f"{domain} changed by {change(delta)}; no change lies inside the interval.", tone)
    verb = "fell" if verdict == "Win" else "rose"
    return Sentence(word, f"{domain} {verb} by {amount(delta)}.", tone)


def change(delta: Mapping[str, Any]) -> str:
    """A signed difference with its interval: `+0.012 nats per token [+0.008, +0.016]`."""
    text = f"{signed(delta['mean'])} nats per token"
    if delta["low"] is None or delta["high"] is None:
        return text
    return f"{text} [{signed(delta['low'])}, {signed(delta['high'])}]"


def amount(delta: Mapping[str, Any]) -> str:
    """The size of a clear difference: `0.84 nats per token [0.80, 0.88]`, bounds in rising order."""
    low, high = sorted((abs(delta["low"]), abs(delta["high"])))
    digits = _digits(delta)
    return f"{abs(delta['mean']):.{digits}f} nats per token [{low:.{digits}f}, {high:.{digits}f}]"


def signed(value: float, digits: int = 3) -> str:
    """A number with its sign, a true minus, and no sign on zero."""
    text = f"{value:+.{digits}f}"
    if float(text) == 0:
        return text.lstrip("+-")
    return text.replace("-", "\N{MINUS SIGN}")


def _digits(delta: Mapping[str, Any]) -> int:
    """Two digits where the interval is that wide, three or four where it is narrower."""
    width = abs(delta["high"] - delta["low"])
    return 2 if width >= 0.02 else 3 if width >= 0.002 else 4
