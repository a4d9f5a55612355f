"""An API server on a bad day: refusals, conflicts, lost connections, watches that lie, minutes of silence."""

from __future__ import annotations

import pytest
from fault_proxy import Fault, Request
from operator_process import Place, condition, counts, prepare_only
from real_cluster import needs_control_plane

pytestmark = [pytest.mark.slow, needs_control_plane("jobs")]


def changes_only(request: Request) -> bool:
    return request.is_write and not request.is_event


def jobs_watch(request: Request) -> bool:
    return request.is_watch and request.path.endswith("/jobs")


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("503 to every second write", {"status": 503, "times": 6}),
        ("429 with Retry-After", {"status": 429, "headers": {"Retry-After": "1"}, "times": 4}),
        ("409 without a reason to see", {"status": 409, "reason": "Conflict", "times": 4}),
        ("dropped before it is done", {"drop": True, "times": 5}),
        ("dropped after it is done", {"drop": True, "forward": True, "times": 5}),
        ("half a second late", {"delay_s": 0.5, "times": 10}),
    ],
)
def test_a_run_comes_to_its_end_all_the_same(place: Place, name, fault):
    turn = iter(range(1_000_000))
    place.proxy.add(Fault(lambda request: changes_only(request) and next(turn) % 2 == 0, **fault))
    path = place.submit()
    with place.kubelet(), place.operator():
        run = place.finished(path)
    assert condition(run, "Succeeded") == ("True", "NoGates")
    assert counts(run) == (1, 0, 0)
    assert place.jobs_made() == ["run-a1", "run-prepare"]


def test_retry_after_is_waited_for(place: Place):
    told = place.proxy.add(Fault(changes_only, times=1, status=429, headers={"Retry-After": "3"}))
    with place.operator() as operator:
        operator.lead()
        path = place.submit()
        place.proxy.wait(lambda: told.struck == 1)
        place.edit(path, {"metadata": {"labels": {"a": "b"}}})  # an event must not shorten it
        place.api.wait(path, lambda run: bool(run and run["metadata"].get("finalizers")))
    log = operator.log.read_text()
    assert "again in 3.0 s" in log
    assert place.proxy.changes[0].path == place.proxy.changes[1].path


def test_the_api_server_goes_away_and_comes_back(place: Place):
    path = place.submit()
    with place.kubelet(prepare_only), place.operator(lease_seconds="60") as operator:
        place.api.wait(path, lambda run: condition(run, "Running")[0] == "True")
        place.proxy.away = True
        place.proxy.cut()
        place.edit(path, {"spec": {"suspend": True}})
        place.proxy.clear()
        place.api.wait(path, lambda run: condition(run, "Suspended")[0] == "True")
        assert operator.alive()


def test_a_watch_that_expired_is_listed_anew(place: Place):
    gone = place.proxy.add(Fault(jobs_watch, times=3, gone=True))
    path = place.submit()
    with place.kubelet(), place.operator():
        run = place.finished(path)
    assert gone.struck == 3
    assert condition(run, "Succeeded")[0] == "True"


@pytest.mark.parametrize("plural", ["jobs", "pods", "continualruns"])
def test_what_a_silent_watch_keeps_to_itself_is_found_by_comparing(place: Place, plural):
    """The watch is there, looks healthy, and says nothing at all."""
    place.proxy.add(Fault(lambda each: each.is_watch and each.path.endswith(f"/{plural}"), times=None, silent=True))
    with place.kubelet(), place.operator() as operator:
        operator.lead()
        path = place.submit()
        run = place.finished(path, within_s=120)
    assert condition(run, "Succeeded")[0] == "True"


def test_a_deletion_that_no_watch_told_is_noticed(place: Place):
    path = place.submit()
    with place.kubelet(prepare_only), place.operator(identity="o") as operator:
        place.api.wait(path, lambda run: condition(run, "Running")[0] == "True")
        line = f'rewarm_run_attempts{{namespace="{place.namespace}",run="run"}}'
        operator.await_metric(line, 1.0)
        place.proxy.away = True
        place.proxy.cut()
        place.edit(path, {"metadata": {"finalizers": None}})
        assert place.api.call("DELETE", path)[0] == 200
        place.api.wait(path, lambda run: run is None)
        place.proxy.clear()
        operator.await_metric("rewarm_operator_leader", 1.0)
        operator.await_metric(line, None)
