"""Conditions: all of them at once, a time that moves only with the status, and other people's left alone."""

from __future__ import annotations

from rewarm_api.status import CONDITION_TYPES
from rewarm_operator import conditions
from rewarm_operator.conditions import Fact

THEN, NOW = "2026-11-21T12:00:00Z", "2026-11-21T13:00:00Z"


def written(*visits: tuple[dict[str, Fact], int, str], status: dict | None = None) -> dict:
    status = status or {}
    for facts, generation, moment in visits:
        conditions.write(status, facts, generation, moment)
    return status


def test_every_known_type_is_there_from_the_first_visit():
    status = written(({}, 1, THEN))
    assert [each["type"] for each in status["conditions"]] == list(CONDITION_TYPES)
    assert {each["status"] for each in status["conditions"]} == {"Unknown"}
    assert {each["lastTransitionTime"] for each in status["conditions"]} == {THEN}


def test_the_time_moves_with_the_status_and_not_with_reason_or_message():
    status = written(
        ({"Running": Fact("False", "Starting")}, 1, THEN),
        ({"Running": Fact("False", "Unschedulable", "no node")}, 1, NOW),
    )
    found = conditions.find(status, "Running")
    assert (found["reason"], found["message"], found["lastTransitionTime"]) == ("Unschedulable", "no node", THEN)
    found = conditions.find(written(({"Running": Fact("True", "Training")}, 1, NOW), status=status), "Running")
    assert found["lastTransitionTime"] == NOW


def test_what_is_not_said_stays_and_follows_the_generation():
    status = written(({"SpecValid": Fact("True", "Valid")}, 1, THEN), ({}, 2, NOW))
    found = conditions.find(status, "SpecValid")
    assert (found["status"], found["observedGeneration"], found["lastTransitionTime"]) == ("True", 2, THEN)


def test_a_verdict_stands():
    status = written(
        ({"Succeeded": Fact("True", "GatesPassed")}, 1, THEN),
        ({"Succeeded": Fact("False", "Unknown")}, 1, NOW),
    )
    assert conditions.find(status, "Succeeded")["reason"] == "GatesPassed"
    assert conditions.is_finished(status)


def test_other_peoples_conditions_are_kept():
    theirs = {
        "type": "example.com/Approved",
        "status": "True",
        "reason": "Boss",
        "message": "",
        "lastTransitionTime": THEN,
    }
    status = written(({}, 1, NOW), status={"conditions": [theirs]})
    assert status["conditions"][-1] == theirs
    assert len(status["conditions"]) == len(CONDITION_TYPES) + 1


def test_a_message_is_one_bounded_line():
    status = written(({"Stalled": Fact("True", "X", "a\nb" + "c" * 5000)}, 1, THEN))
    message = conditions.find(status, "Stalled")["message"]
    assert "\n" not in message
    assert len(message) == 1000
