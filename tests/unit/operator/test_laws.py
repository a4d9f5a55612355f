"""Laws that hold whatever happens to a run: any order of events from outside, any crash, any wait."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from operator_world import Conflict, World, merged

from rewarm_operator import names
from rewarm_operator.actions import Create, ListPods, PatchStatus
from rewarm_operator.reconcile import decide
from rewarm_operator.status_changes import changes_of

Happening = Callable[[World], None]


def live(world: World) -> str | None:
    return next(iter(world.live_jobs()), None)


def start(world: World) -> None:
    name = live(world)
    if name and not world.pods_of(world.jobs[name]):
        world.schedule(name)


def on_running(act: Callable[[World, str], None]) -> Happening:
    def happen(world: World) -> None:
        name = live(world)
        if name and world.pods_of(world.jobs[name]):
            act(world, name)

    return happen


def succeed(world: World, name: str) -> None:
    if name.endswith("-prepare"):
        world.succeed(name)


def report(world: World, name: str) -> None:
    number = names.attempt_number("llama", name)
    if number is not None:
        step = number * 100
        world.report(name, number, progress={"step": step}, checkpoint={"uri": f"s3://c/{step}", "step": step})


HAPPENINGS: dict[str, Happening] = {
    "start": start,
    "succeed": on_running(succeed),
    "boom": on_running(lambda w, n: w.fail(n, 70)),
    "missing": on_running(lambda w, n: w.fail(n, 66)),
    "preempted": on_running(lambda w, n: w.fail(n, 143)),
    "report": on_running(report),
    "taken away": on_running(lambda w, n: w.delete_job(n)),
    "half-done": on_running(lambda w, n: w.end_job(n, "FailureTarget")),
    "suspend": lambda w: w.edit("suspend", True),
    "resume": lambda w: w.edit("suspend", False),
    "restart": lambda w: w.restart(),
    "pods go": lambda w: w.pods.clear(),
    "a moment": lambda w: w.wait(11),
    "a while": lambda w: w.wait(400),
}
STORIES = st.lists(st.tuples(st.sampled_from(sorted(HAPPENINGS)), st.integers(0, 6)), max_size=30)
PROLOGUE = [("start", 9), ("succeed", 9), ("a moment", 9), ("start", 9)]


class Law:
    """What must be true after each single action."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.attempts = 0
        self.verdict: str | None = None

    def check(self) -> None:
        world = self.world
        status = world.status
        count = status.get("counts", {}).get("attempts", 0)
        assert count >= self.attempts, "attempts never go down"
        self.attempts = count
        numbers = [entry["number"] for entry in status.get("attempts", [])]
        assert numbers == sorted(set(numbers)), "numbers strictly increase"
        assert all(entry.get("cause") for entry in status.get("attempts", [])[:-1]), "no attempt without a cause"
        posted = [name for name in world.posted if names.attempt_number("llama", name)]
        assert len(posted) == len(set(posted)), "one Job for each attempt"
        assert all(names.attempt_number("llama", name) <= count for name in posted), "counted before it is posted"
        verdict = next((c["status"] for c in status.get("conditions", []) if c["type"] == "Succeeded"), None)
        assert self.verdict in (None, "Unknown", verdict), "Succeeded never changes back"
        self.verdict = verdict


def visit(world: World, law: Law, crash_after: int) -> None:
    decision = world.decide()
    creates = [a.body["metadata"]["name"] for a in decision.actions if isinstance(a, Create)]
    assert len([name for name in creates if names.attempt_number("llama", name)]) <= 1
    assert len([a for a in decision.actions if isinstance(a, PatchStatus)]) <= 1
    for count, action in enumerate(decision.actions):
        if count >= crash_after:
            world.restart()
            break
        world.execute(action)
        law.check()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(STORIES)
def test_laws_hold_through_every_story(story):
    world = World()
    law = Law(world)
    for happening, crash_after in [*PROLOGUE, *story]:
        for _ in range(4):
            visit(world, law, crash_after)
        HAPPENINGS[happening](world)
    world.settle()
    law.check()
    attempts = [name for name in world.live_jobs() if names.attempt_number("llama", name)]
    assert len(attempts) <= 1, "never two live attempts once all is said"
    assert world.decide().actions == (), "deciding again asks for nothing"
    world.restart()
    written = [action for action in world.decide().actions if not isinstance(action, ListPods)]
    assert written == [], "a restart with nothing changed writes nothing"


@settings(max_examples=40, deadline=None)
@given(STORIES)
def test_the_same_picture_gives_the_same_decision_and_is_left_as_it_was(story):
    world = World()
    for happening, _ in [*PROLOGUE, *story]:
        world.settle()
        HAPPENINGS[happening](world)
    observed = world.observed()
    before = copy.deepcopy(observed)
    assert decide(observed, world.settings) == decide(before, world.settings)
    assert observed == before


@settings(max_examples=25, deadline=None)
@given(STORIES)
def test_a_second_operator_with_an_older_picture_breaks_no_law(story):
    world = World()
    law = Law(world)
    old = world.observed()
    for happening, _ in [*PROLOGUE, *story]:
        world.settle()
        HAPPENINGS[happening](world)
        with contextlib.suppress(Conflict):
            for action in decide(old, world.settings).actions:
                world.execute(action)
        law.check()
        old = world.observed()


JSON = st.recursive(st.integers() | st.text(max_size=3), lambda inner: st.lists(inner, max_size=2), max_leaves=4)
OBJECTS = st.recursive(
    st.dictionaries(st.sampled_from("abcd"), JSON, max_size=4),
    lambda inner: st.dictionaries(st.sampled_from("abcd"), inner, max_size=3),
    max_leaves=6,
)


@given(OBJECTS, OBJECTS)
def test_a_patch_turns_one_status_into_the_other(before, after):
    changes = changes_of(before, after)
    assert merged(before, changes) == after
    assert bool(changes) == (before != after)
    assert changes_of(after, after) == {}


@pytest.mark.parametrize("name", sorted(HAPPENINGS))
def test_each_happening_happens(name):
    """A story is worth its name only if its parts do something."""
    world = World()
    world.start()
    if name == "succeed":
        world = World()
        world.settle()
        world.schedule("llama-prepare")
    if name == "start":
        world.pods.clear()
    if name == "resume":
        world.edit("suspend", True)
    before = (world.observed(), world.leading_since)
    HAPPENINGS[name](world)
    assert (world.observed(), world.leading_since) != before
