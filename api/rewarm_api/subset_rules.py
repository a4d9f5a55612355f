"""Rules on subsets of a source and the scores that they are chosen by."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rewarm_api.errors import Problem
from rewarm_api.messages import NOTHING, found_text
from rewarm_api.quantity import parse_percent
from rewarm_api.rules import exactly_one, named_sources, rule
from rewarm_api.snapshot import Format
from rewarm_api.uri import format_of


def _subsets(spec: Any) -> Iterator[tuple[str, Any]]:
    for path, source in named_sources(spec):
        if source.subset is not None:
            yield path, source


@rule("corpus.sources", "replay.sources")
def subset_has_one_size(spec: Any) -> Iterator[Problem]:
    for path, source in _subsets(spec):
        yield from exactly_one(f"{path}.subset", source.subset, "share", "tokens")
        if source.subset.share is not None and parse_percent(source.subset.share) == 0:
            yield Problem(f"{path}.subset.share", source.subset.share, "more than 0%", "raise share")


@rule("corpus.sources", "replay.sources")
def scores_are_read_where_they_are_used(spec: Any) -> Iterator[Problem]:
    for path, source in named_sources(spec):
        by = source.subset.by if source.subset is not None else None
        if by in ("HighestScore", "LowestScore") and not source.score_field:
            yield Problem(f"{path}.scoreField", NOTHING, f"the field that {by} looks at", "add scoreField")
        if source.score_field and by in (None, "Random"):
            yield Problem(
                f"{path}.scoreField",
                found_text(source.score_field),
                "a subset by HighestScore or LowestScore, which uses it",
                "remove scoreField, or add such a subset",
            )


@rule("corpus.sources", "replay.sources")
def subsets_are_chosen_from_documents(spec: Any) -> Iterator[Problem]:
    for path, source in named_sources(spec):
        kind = source.format or (None if source.uri is None else format_of(source.uri))
        if kind is Format.TOKENS and source.subset is not None:
            yield Problem(f"{path}.subset", "subset with format Tokens", "documents to choose from", "remove subset")
        if kind in (Format.TEXT, Format.TOKENS) and source.score_field:
            yield Problem(
                f"{path}.scoreField", source.score_field, f"no scoreField with format {kind}", "remove scoreField"
            )
