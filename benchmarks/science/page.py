"""docs/science.md: the section of one finding, written between its two marks, and its figure. Pure but for `save`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rewarm_bench import pages
from rewarm_bench.documents import Corpus
from rewarm_bench.effects import Estimate
from rewarm_bench.pages import words
from science.claims import Claim, verdict
from science.finding import Finding, Measured
from science.models import SIZES
from science.recipes import Setting


def marks(name: str) -> tuple[str, str]:
    return f"<!-- science:{name} writes from here -->", f"<!-- science:{name} to here -->"


def section(finding: Finding, setting: Setting, measured: Measured, figure: str, seconds: float) -> str:
    """Verdicts first, then the numbers that carry them, then how they came about."""
    parts = [verdicts(finding, measured.comparisons)]
    parts += [f"{table.title}\n\n{pages.table(table.header, table.rows)}" for table in measured.tables]
    parts += [f"![{finding.title}]({figure})", provenance(setting, seconds)]
    return "\n\n".join(parts)


def verdicts(finding: Finding, comparisons: Mapping[str, Mapping[str, Estimate]]) -> str:
    """Every claim of the finding has a row, whatever came out. ValueError when a claim and a measurement miss each
    other."""
    unknown = set(comparisons) - {claim.key for claim in finding.claims}
    if unknown:
        raise ValueError(f"{finding.name}: measured but never claimed: {sorted(unknown)}")
    rows = [row(claim, comparisons.get(claim.key, {})) for claim in finding.claims]
    return pages.table(("written down before the run", "paper", "published", "here", "verdict"), rows)


def row(claim: Claim, estimates: Mapping[str, Estimate]) -> tuple[str, ...]:
    named = ((f"{name}: " if name else "", estimate) for name, estimate in estimates.items())
    here = "<br>".join(f"{name}{words(estimate)}" for name, estimate in named)
    return claim.sentence, claim.paper, claim.published or "–", here, f"*{verdict(claim, estimates)}*"


def provenance(setting: Setting, seconds: float) -> str:
    parameters = SIZES[setting.size].parameters
    return (
        f"{parameters / 1e6:.2f}M parameters; base {setting.base_tokens / 1e6:g}M tokens, each continuation "
        f"{setting.tokens / 1e6:g}M; seeds {', '.join(map(str, setting.seeds))}, each with a base of its own; nats per "
        f"token, 95 % intervals over seeds and documents; {seconds / 60:.0f} minutes of processor time, bases included."
    )


def corpora(facts: Mapping[str, Corpus]) -> str:
    """The texts as they were on the machine that measured."""
    rows = [
        (name, f"{corpus.documents:,}", f"{corpus.text_bytes / 1e6:.2f} MB", f"`{corpus.sha256[:16]}`")
        for name, corpus in facts.items()
    ]
    return pages.table(("text", "documents", "UTF-8", "sha256 of its file"), rows)


def save(page: Path, name: str, text: str, beside: str | None = None) -> None:
    """Write a section between its marks. The marks of a section that the page does not have yet (a finding at another
    size) are put after those of the section `beside`."""
    begin, end = marks(name)
    whole = page.read_text()
    if begin not in whole and beside is not None:
        last = marks(beside)[1]
        page.write_text(whole.replace(last, f"{last}\n\n{begin}\n{end}"))
    pages.replace_in(page, begin, end, text)
