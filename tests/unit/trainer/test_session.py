"""What a session refuses before it trains."""

from __future__ import annotations

import pytest
from tiny_models import CONFIGS, tiny

from rewarm_api.errors import ManifestError
from rewarm_trainer.model import check_positions


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_only_learned_positions_have_an_end(kind: str) -> None:
    model = tiny(kind)
    check_positions(model, 64)
    if kind != "gpt2":
        check_positions(model, 65)
        return
    with pytest.raises(ManifestError) as caught:
        check_positions(model, 65)
    (problem,) = caught.value.problems
    assert (problem.field, problem.found) == ("spec.training.sequenceLength", "65")
    assert problem.expected == "at most 64: this base has learned that many positions"
