"""Operators that die, come again, or are two: the same final state, and never a second Job for one attempt."""

from __future__ import annotations

import contextlib
from collections import Counter

import pytest
from fault_proxy import Fault, Request
from operator_process import OperatorProcess, Place, condition, counts, prepare_only
from real_cluster import needs_control_plane

pytestmark = [pytest.mark.slow, needs_control_plane("jobs")]

MOST_WRITES = 10
"""Writes of a run without Events, at most; the first test holds it."""


def made(place: Place) -> Counter[str]:
    """Jobs that the API server made for the operator, by name: one uid each, whatever was posted."""
    return Counter(f"{request}" for request in place.proxy.changes if request.method == "POST")


def test_an_undisturbed_run_takes_few_writes_and_a_restart_none(place: Place):
    path = place.submit()
    with place.kubelet(), place.operator() as operator:
        place.finished(path)
        # What follows the verdict (an Event, the last look) is done when nothing waits for a visit any more.
        operator.await_metric("rewarm_operator_queue_depth", 0.0)
        operator.end()
    changes = [str(request) for request in place.proxy.changes]
    assert len(changes) <= MOST_WRITES, changes
    assert all(count == 1 for count in made(place).values()), made(place)
    before = place.api.get(path)
    place.proxy.forget()
    with place.operator() as operator:
        operator.lead()
        operator.await_metric('rewarm_operator_reconcile_seconds_count{result="unchanged"}', 1.0)
        # LIST-and-compare comes every 5 s in these tests: wait for one, because it must not write either.
        lists = Counter(request.path for request in place.proxy.requests)
        place.proxy.wait(lambda: Counter(r.path for r in place.proxy.requests)[place.jobs] > lists[place.jobs] + 1)
    assert place.proxy.writes == []
    assert place.api.get(path)["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]


@pytest.mark.parametrize("forward", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("number", range(1, MOST_WRITES + 1))
def test_killed_at_a_write_the_run_ends_as_if_nothing_had_been(place: Place, number: int, forward: bool):
    operator = place.operator()
    seen = 0

    def is_the_one(request: Request) -> bool:
        nonlocal seen
        if request.is_write and not request.is_event:
            seen += 1
            return seen == number
        return False

    def kill(_: Request) -> None:
        operator.kill()

    fault = place.proxy.add(Fault(is_the_one, forward=forward, drop=True, call=kill))
    path = place.submit()
    with place.kubelet(), contextlib.ExitStack() as stack:
        stack.enter_context(operator)
        restart_when_dead(place, operator, path)
        run = place.finished(path)
    assert fault.struck == 1 or seen < number
    assert condition(run, "Succeeded") == ("True", "NoGates")
    assert counts(run) == (1, 0, 0)
    assert [item["cause"] for item in run["status"]["attempts"]] == ["Completed"]
    assert place.jobs_made() == ["run-a1", "run-prepare"]


def restart_when_dead(place: Place, operator: OperatorProcess, path: str) -> None:
    """Wait for its death or for the end of the run; after a death, start it again."""
    while operator.alive():
        with contextlib.suppress(AssertionError):
            place.finished(path, within_s=1)
            return
    operator.start()


def test_of_two_operators_one_acts_and_the_other_goes_on_after_its_death(place: Place):
    with place.kubelet(prepare_only), place.operator("first") as first:
        first.lead()
        with place.operator("second") as second:
            second.await_metric("rewarm_operator_leader", 0.0)
            path = place.submit()
            place.api.wait(path, lambda run: condition(run, "Running")[0] == "True")
            assert all(count == 1 for count in made(place).values()), made(place)
            assert second.metric("rewarm_operator_leader") == 0.0
            first.kill()
            second.lead()
            place.edit(path, {"spec": {"suspend": True}})
            place.api.wait(path, lambda run: condition(run, "Suspended")[0] == "True")
    lease = place.api.get(f"/apis/coordination.k8s.io/v1/namespaces/{place.namespace}/leases/rewarm")
    assert lease["spec"]["holderIdentity"] == "second"
    assert lease["spec"]["leaseTransitions"] == 2


def test_an_operator_that_is_asked_to_end_hands_the_lease_over(place: Place):
    path = f"/apis/coordination.k8s.io/v1/namespaces/{place.namespace}/leases/rewarm"
    with place.operator("first") as first:
        first.lead()
        assert first.end() == 0
    assert place.api.get(path)["spec"]["holderIdentity"] == ""
    with place.operator("second") as second:
        second.lead()
    assert place.api.get(path)["spec"]["holderIdentity"] == "second"


def test_an_operator_that_cannot_renew_ends_before_the_lease_does(place: Place):
    """Its process is gone by then, so whoever takes the Lease next acts alone."""
    with place.operator("first", lease_seconds="6") as first:
        first.lead()
        place.proxy.add(Fault(lambda request: "/leases" in request.path, times=None, status=503))
        assert first.process is not None
        assert first.process.wait(30) == 75
    assert "the Lease is lost" in first.log.read_text()
