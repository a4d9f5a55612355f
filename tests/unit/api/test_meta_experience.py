"""`replay.method: MetaExperienceReplay`: what is refused, and what a snapshot says."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rewarm_api.errors import ManifestError
from rewarm_api.resolve import make_plan, resolve
from rewarm_api.validate import Validation

REPLAY = "{ratio: 0.25, method: MetaExperienceReplay, metaExperience: {interval: 8}, sources: [{name: o, uri: o.txt}]}"


def test_defaults_stand_in_the_snapshot_and_nowhere_else(check: Callable[..., Validation]) -> None:
    run = check({"spec.replay": REPLAY}).run
    assert run is not None
    assert resolve(run, uid="u").to_json()["replay"]["metaExperience"] == {"interval": 8, "epsilon": 0.1}
    plain = check({"spec.replay": REPLAY, "spec.replay.method": "Interleave", "spec.replay.metaExperience": None}).run
    assert plain is not None
    assert "metaExperience" not in resolve(plain, uid="u").to_json()["replay"]


@pytest.mark.parametrize(
    ("changes", "field", "found"),
    [
        ({"spec.replay.method": "Interleave"}, "spec.replay.metaExperience", "metaExperience with method Interleave"),
        ({"spec.replay.metaExperience.interval": "33"}, "spec.replay.metaExperience.interval", "33 of 64 steps"),
        ({"spec.replay.metaExperience": None}, "spec.replay.metaExperience.interval", "500 of 64 steps"),
        ({"spec.replay.metaExperience.epsilon": "1.1"}, "spec.replay.metaExperience.epsilon", "1.1"),
        ({"spec.replay.metaExperience.interval": "0"}, "spec.replay.metaExperience.interval", "0"),
    ],
)
def test_refusals(check: Callable[..., Validation], changes: dict[str, str], field: str, found: str) -> None:
    (problem,) = check({"spec.budget.tokens": "65536", "spec.replay": REPLAY, **changes}).problems
    assert (problem.field, problem.found) == (field, found)


def test_two_intervals_are_enough_and_epochs_are_judged_once_they_are_counted(check: Callable[..., Validation]) -> None:
    exactly = {"spec.budget.tokens": "65536", "spec.replay.metaExperience.interval": "32"}
    assert check({"spec.replay": REPLAY, **exactly}).valid
    run = check({"spec.replay": REPLAY, "spec.budget": "{epochs: 1}"}).run
    assert run is not None
    with pytest.raises(ManifestError, match=r"interval: found 8 of 15 steps, .*use at most 7"):
        make_plan(resolve(run, uid="u"), 15 * 1024)
