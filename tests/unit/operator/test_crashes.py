"""The operator dies between any two of its actions, or a second one acts on what it saw before: the same end."""

from __future__ import annotations

import pytest
from operator_world import Conflict, World

from rewarm_api.reported import Report, Termination
from rewarm_operator.reconcile import decide

VERDICT = Termination(
    outcome="Succeeded",
    report=Report.model_validate(
        {
            "outcome": "Succeeded",
            "checkpoint": {"uri": "s3://runs/llama/checkpoints/step-00001954", "step": 1954},
            "gates": [{"name": "maxForgetting", "limit": 0.02, "value": 0.01, "result": "Pass"}],
            "promotion": {"promoted": True, "reason": "all gates pass"},
        }
    ),
    tags={"rewarm.dev/base": "llama"},
)


class Story:
    """What happens to the run from outside: each attempt has a fate, met once its Job is there."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.fates = {
            "llama-prepare": [lambda n: world.fail(n, 75, message="bucket away"), lambda n: world.succeed(n)],
            "llama-a1": [lambda n: world.fail(n, 70, rank=1)],
            "llama-a2": [self._preempt],
            "llama-a3": [self._suspend],
            "llama-a4": [lambda n: world.fail(n, 66)],
            "llama-a5": [self._commit_and_hang],
            "llama-a6": [lambda n: world.delete_job(n)],
            "llama-a7": [lambda n: world.succeed(n, VERDICT)],
        }

    def _preempt(self, name: str) -> None:
        self.world.disrupt(name, 1, "PreemptionByScheduler")
        self.world.fail(name, 143, rank=1)

    def _suspend(self, name: str) -> None:
        self.world.edit("suspend", True)

    def _commit_and_hang(self, name: str) -> None:
        self.world.report(name, 5, checkpoint={"uri": "s3://runs/llama/checkpoints/step-00000100", "step": 100})

    def go_on(self) -> bool:
        """The next thing that happens; False when the story is over."""
        world = self.world
        world.wait(320)
        for pod in list(world.pods.values()):
            if pod["metadata"].get("deletionTimestamp"):
                del world.pods[pod["metadata"]["name"]]
        for name in list(world.live_jobs()):
            if not world.pods_of(world.jobs[name]):
                world.schedule(name)
                return True
            if self.fates.get(name):
                self.fates[name].pop(0)(name)
                world.wait(15)
                return True
        if world.run["spec"].get("suspend") and not list(world.live_jobs()):
            world.edit("suspend", False)
            return True
        return False


def play(world: World, *, crash_at: int | None = None, stale: bool = False) -> tuple[int, World]:
    """Live the whole story. The operator dies before its action number `crash_at`; returns how many there were."""
    story, done, idle = Story(world), 0, 0
    old = world.observed()
    for _ in range(400):
        decision = world.decide()
        before = world.observed()
        for action in decision.actions:
            if done == crash_at:
                done += 1
                world.restart()
                break
            done += 1
            world.execute(action)
        if stale:
            for action in decide(old, world.settings).actions:
                try:
                    world.execute(action)
                except Conflict:
                    break
            old = before
        if not decision.actions:
            idle = 0 if story.go_on() else idle + 1
            if idle > 3:
                return done, world
    raise AssertionError(f"the story does not end: {world.status['attempts'][-2:]}")


def outcome(world: World) -> dict[str, object]:
    status = world.status
    return {
        "conditions": [(c["type"], c["status"], c["reason"]) for c in status["conditions"]],
        "attempts": [(entry["number"], entry["cause"]) for entry in status["attempts"]],
        "counts": {name: status["counts"][name] for name in ("attempts", "failures", "disruptions")},
        "summary": status["summary"],
        "promotion": status["promotion"],
        "tracking": status["tracking"],
        "jobs": sorted(world.jobs),
    }


def fresh() -> World:
    return World(tracking={"uri": "http://mlflow:5000"})


def attempts_posted(world: World) -> list[str]:
    return [name for name in world.posted if "-a" in name]


EXPECTED = [
    (1, "Unknown"),
    (2, "Preempted"),
    (3, "Suspended"),
    (4, "MissingInput"),
    (5, "Hang"),
    (6, "Preempted"),
    (7, "Completed"),
]


def test_the_story_of_seven_attempts():
    _, world = play(fresh())
    told = outcome(world)
    assert told["attempts"] == EXPECTED
    assert told["counts"] == {"attempts": 7, "failures": 0, "disruptions": 2}, "the final commit cleared the failures"
    assert told["jobs"] == ["llama-a4", "llama-a7", "llama-prepare"], "the three newest are kept, those with pods go"
    assert attempts_posted(world) == [f"llama-a{number}" for number in range(1, 8)]
    assert world.told("Succeeded") == ("True", "GatesPassed")
    assert world.registry.promoted_alias == "champion"
    assert told["promotion"]["promoted"] is True


_, _WHOLE = play(fresh())
_ACTIONS = play(fresh())[0]


@pytest.mark.parametrize("crash_at", range(_ACTIONS))
def test_dying_before_any_action_changes_nothing_in_the_end(crash_at):
    _, world = play(fresh(), crash_at=crash_at)
    assert outcome(world) == outcome(_WHOLE)
    assert attempts_posted(world) == [f"llama-a{number}" for number in range(1, 8)], "one Job for each attempt"


def test_a_second_operator_that_acts_on_an_older_picture_changes_nothing_in_the_end():
    _, world = play(fresh(), stale=True)
    assert outcome(world) == outcome(_WHOLE)
    assert attempts_posted(world) == [f"llama-a{number}" for number in range(1, 8)]
