"""Which writes the operator's campaign kills at: before and after each one that was seen, and each of them once."""

from __future__ import annotations

import itertools

import pytest
from fault_proxy import Request

from campaigns import operator_stage
from campaigns.operator_faults import LEASE_WRITES, Killer, Point, kind_of, points, spread

NAMESPACE = "/apis/rewarm.dev/v1alpha1/namespaces/n"


def request(method: str, path: str) -> Request:
    return Request(method, path, {})


STATUS = request("PATCH", f"{NAMESPACE}/continualruns/run/status")
FINALIZER = request("PATCH", f"{NAMESPACE}/continualruns/run")
JOB = request("POST", "/apis/batch/v1/namespaces/n/jobs")
LEASE = request("PUT", "/apis/coordination.k8s.io/v1/namespaces/n/leases/rewarm")
READ = request("GET", "/apis/batch/v1/namespaces/n/jobs")
REVIEW = request("POST", "/apis/authentication.k8s.io/v1/tokenreviews")


def test_every_write_is_met_before_and_after():
    found = points([LEASE, FINALIZER, STATUS, READ, JOB, REVIEW, STATUS])
    assert [(point.kind, point.number) for point in found[::2]] == [
        ("Lease", 1), ("finalizer", 1), ("status", 1), ("Job", 1), ("status", 2)
    ]  # fmt: skip
    assert [point.after for point in found] == [False, True] * 5


def test_a_lease_is_renewed_for_ever_and_met_a_few_times():
    assert len(points([LEASE] * 20)) == 2 * LEASE_WRITES


def test_what_is_not_known_yet_has_a_name_all_the_same():
    assert kind_of(request("DELETE", "/api/v1/namespaces/n/pods/p")) == "delete pods"


def test_kills_of_one_life_are_far_from_each_other():
    aims = points([STATUS] * 10)
    lives = spread(aims, 4)
    assert [len(each) for each in lives] == [4] * 5
    assert sorted(map(str, itertools.chain(*lives))) == sorted(map(str, aims))
    assert [point.number for point in lives[0]] == [1, 3, 6, 8]


def test_a_write_that_was_not_done_comes_again_under_its_number():
    deaths: list[str] = []
    killer = Killer(
        lambda: deaths.append("x"), [Point("status", 2, False), Point("status", 2, True), Point("Job", 1, True)]
    )
    before, after = killer.faults()

    def meets(each: Request) -> str:
        if before.match(each):
            return "before"
        return "after" if after.match(each) else ""

    story = [request(each.method, each.path) for each in (STATUS, READ, STATUS, STATUS, JOB, STATUS, JOB)]
    assert [meets(each) for each in story] == ["", "", "before", "after", "after", "", ""]
    assert (killer.left, len(killer.struck)) == ([], 3)


class Listed:
    """An API server that lists Jobs at one version."""

    jobs = "/jobs"
    since = "1"

    def __init__(self) -> None:
        self.api = self

    def get(self, path: str) -> dict[str, object]:
        assert path == self.jobs
        return {"metadata": {"resourceVersion": "900"}}


def test_a_server_that_was_killed_leaves_out_too_little_for_a_job_to_come_and_go():
    history = operator_stage.History(Listed())
    assert history._bridge({"code": 410, "message": "too old resource version: 6798 (6808)"}, "6798") == "6808"
    assert history.problems == []


@pytest.mark.parametrize("message", ["too old resource version: 6798 (6900)", "the server is on fire"])
def test_any_other_gap_in_the_history_is_told(message):
    history = operator_stage.History(Listed())
    assert history._bridge({"message": message}, "6798") == "900"
    assert history.problems == [f"the history of Jobs has a gap after 6798: {message}"]
