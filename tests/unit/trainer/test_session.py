"""What a session refuses before it trains."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from tiny_models import CONFIGS, tiny

from rewarm_api.errors import ManifestError
from rewarm_trainer.model import check_positions
from rewarm_trainer.session import Session
from rewarm_trainer.state import TrainState


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


def test_the_base_is_read_again_only_once_an_update_has_moved_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """`load_base` at the start, and after a rollback that finds no checkpoint."""
    session = Session(SimpleNamespace(first_state=lambda: TrainState(experiment="", seed=0)), None, "FP32", None)  # type: ignore[arg-type]
    session.model, session.adapter, session.method = tiny(), None, None
    read: list[torch.nn.Module] = []
    monkeypatch.setattr(session, "_fresh_model", lambda: read.append(tiny()) or read[-1])
    monkeypatch.setattr(session, "start_optimizer", lambda: None)
    session.load_base()
    assert not read
    with torch.no_grad():
        for parameter in session.model.parameters():
            parameter.add_(1.0)
    session.after_update(1)
    session.load_base()
    assert len(read) == 1
    expected = dict(read[0].named_parameters())
    assert all(torch.equal(parameter, expected[name]) for name, parameter in session.model.named_parameters())
