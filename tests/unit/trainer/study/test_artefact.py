"""What an artefact says of an answer beside its number."""

from __future__ import annotations

from typing import Any

import pytest

from rewarm_trainer.laws.cmr import PowerLaw
from rewarm_trainer.laws.dcpt import DcptLaw
from rewarm_trainer.study.artefact import Place, _largest, _warnings, laws_of

LAW = PowerLaw(0.5, 2.0, 2.0)
SIZE, TOKENS = 1000, 4096
SHARES = (0.2, 0.4, 0.6, 0.8, 1.0)


def facts_of(away: float) -> dict[str, Any]:
    """A study whose old loss lies `away` above and below the law in turn."""
    points = [
        {"run": f"{share}", "parameters": SIZE, "tokens": TOKENS, "share": share,
         "loss": LAW(share) + (away if number % 2 else -away), "final": True}
        for number, share in enumerate(SHARES)
    ]  # fmt: skip
    baseline = [{"parameters": SIZE, "loss": 2.1}]
    return {
        "tolerance": "3%",
        "runs": [{"tokens": TOKENS}],
        "sets": {"old": {"role": "Retained", "baseline": baseline, "fitted": points, "held_out": []}},
    }


@pytest.mark.parametrize(("away", "said"), [(0.0001, None), (0.4, "its interval covers nearly every measured ratio")])
def test_an_answer_that_the_runs_do_not_carry_says_so(away: float, said: str | None) -> None:
    facts = facts_of(away)
    answer = _largest(facts, laws_of(facts), Place("", SIZE, TOKENS))
    assert answer["replay_ratio"] is not None
    if said is None:
        assert answer["why"] is None
        assert answer["high"] - answer["low"] < 0.1
    else:
        assert answer["why"].startswith(said)
        assert answer["high"] - answer["low"] > 0.7


SURFACE = DcptLaw(1.6, 0.0, 0.3, 0.3, 1.1, 0.5, 1.5, 0.5, 0.2, 1.0, TOKENS)


@pytest.mark.parametrize(("sign", "warned"), [(1, False), (-1, True)])
def test_losses_that_rise_with_tokens_are_named_where_the_law_cannot_follow(sign: int, warned: bool) -> None:
    """The D-CPT law lets losses only fall with tokens; a constant rate without replay does not."""
    budgets = (TOKENS, 4 * TOKENS, 16 * TOKENS)
    points = [
        {"run": f"{share}-{tokens}", "parameters": SIZE, "tokens": tokens, "share": share,
         "loss": 5 + sign * SURFACE(SIZE, tokens, 1 - share), "final": True}
        for tokens in budgets for share in SHARES
    ]  # fmt: skip
    study = laws_of(
        {
            "runs": [{"tokens": tokens} for tokens in budgets],
            "sets": {"old": {"role": "Retained", "baseline": [{"parameters": SIZE, "loss": 5.0}], "fitted": points,
                             "held_out": []}},
        }
    )  # fmt: skip
    found = _warnings(study)
    assert len(found) == warned, found
    if warned:
        assert found[0].startswith("the D-CPT law fits set old badly (R2 ")
        assert "ask about measured budgets" in found[0]
