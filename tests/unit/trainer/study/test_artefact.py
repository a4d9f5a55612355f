"""What an artefact says of an answer beside its number."""

from __future__ import annotations

from typing import Any

import pytest

from rewarm_trainer.laws.cmr import PowerLaw
from rewarm_trainer.study.artefact import Place, _largest, laws_of

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
