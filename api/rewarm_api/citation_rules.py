"""Rules of a ratio that is taken from a study: `spec.replay.ratio: {fromStudy: ...}`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rewarm_api.corpus import CitedRatio
from rewarm_api.errors import Problem
from rewarm_api.messages import found_text
from rewarm_api.rules import rule


def _cites(spec: Any) -> bool:
    return spec.replay is not None and isinstance(spec.replay.ratio, CitedRatio)


@rule("replay.ratio", "budget.epochs")
def cited_ratio_has_a_budget_in_tokens(spec: Any) -> Iterator[Problem]:
    if _cites(spec) and spec.budget is not None and spec.budget.epochs is not None:
        yield Problem(
            "spec.budget.epochs",
            "epochs with a ratio from a study",
            "tokens: how many an epoch needs depends on the ratio that the study is asked for",
            "write budget: {tokens: ...}",
        )


@rule("replay.ratio", "phases")
def cited_ratio_holds_in_every_phase(spec: Any) -> Iterator[Problem]:
    for index, phase in enumerate(spec.phases if _cites(spec) else []):
        if phase is not None and phase.replay_ratio is not None:
            yield Problem(
                f"spec.phases[{index}].replayRatio",
                found_text(phase.replay_ratio),
                "no replayRatio with a ratio from a study: its law knows runs of one ratio",
                "remove replayRatio, or write replay.ratio as a number",
            )


@rule("replay.ratio", "replay.adaptive")
def cited_ratio_is_not_moved(spec: Any) -> Iterator[Problem]:
    if _cites(spec) and spec.replay.adaptive is not None:
        yield Problem(
            "spec.replay.adaptive",
            "adaptive with a ratio from a study",
            "one of them: the study's law knows runs of one ratio",
            "remove adaptive, or write replay.ratio as a number within its bounds",
        )
