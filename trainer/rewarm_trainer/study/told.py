"""From a study's artefact to what its fit says of it: the answers in short, bounded, as replay ratios. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rewarm_api.snapshot import Role
from rewarm_api.study_status import (
    MOST_ANSWERS,
    MOST_SETS,
    MOST_WARNINGS,
    Artefact,
    BestForCorpus,
    LargestShare,
    SetFit,
    StudyAnswers,
    StudyResult,
)

_DIGITS = 6


def told(artefact: Mapping[str, Any], uri: str, warnings: Iterable[str] = ()) -> StudyResult:
    """What the status of the study gets. `uri`: where the artefact lies."""
    answers = artefact["answers"]
    return StudyResult(
        answers=StudyAnswers(
            largest_share=[_largest(item) for item in answers["largest_share"][-MOST_ANSWERS:]],
            best_for_corpus=[_best(item) for item in answers["best_for_corpus"][:8]],
            sets=[_fit(name, artefact) for name in sorted(artefact["laws"])[:MOST_SETS]],
        ),
        artefact=Artefact(uri=uri, digest=artefact["digest"]),
        warnings=[*warnings, *artefact["warnings"]][:MOST_WARNINGS],
    )


def _largest(item: Mapping[str, Any]) -> LargestShare:
    return LargestShare(
        **_common(item), tolerance=item["tolerance"], decided_by=item.get("decided_by") or "", tokens=item["tokens"]
    )


def _best(item: Mapping[str, Any]) -> BestForCorpus:
    return BestForCorpus(**_common(item), corpus_tokens=item["corpus_tokens"], tokens=item.get("tokens"))


def _common(item: Mapping[str, Any]) -> dict[str, Any]:
    """Shares of new text turn round when read as replay."""
    return {
        "model": item["model"],
        "replay_ratio": item["replay_ratio"],
        "low": _turned(item.get("high")),
        "high": _turned(item.get("low")),
        "law": item.get("law") or "",
        "at_border": bool(item.get("at_border")),
        "why": item["why"] or "",
    }


def _turned(share: float | None) -> float | None:
    return None if share is None else round(min(1.0, max(0.0, 1.0 - share)), _DIGITS)


def _fit(name: str, artefact: Mapping[str, Any]) -> SetFit:
    laws = artefact["laws"][name]
    fitted = [*laws["cmr"], *([laws["dcpt"]] if laws["dcpt"] else [])]
    r2 = [law["fit"]["r2"] for law in fitted if law["fit"]["r2"] is not None]
    errors = [law["fit"]["mean"] for law in fitted]
    held_out = [law["hold_out"]["mean"] for law in fitted if law["hold_out"]]
    return SetFit(
        set=name,
        role=Role(laws["role"]),
        r2=round(min(r2), _DIGITS) if r2 else None,
        fit_error=round(max(errors), _DIGITS) if errors else None,
        hold_out_error=round(max(held_out), _DIGITS) if held_out else None,
    )
