"""Exactly one holder, whatever the clocks on the walls say, and nobody acts after his time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from memory_cluster import MemoryCluster

from rewarm_operator import lease as module
from rewarm_operator.lease import LOST_EXIT_CODE, LeaderLease
from rewarm_operator.resources import LEASE


class Clock:
    """This machine's own clock, by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "clock", clock)
    return clock


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await test()

    asyncio.run(bounded())


def lease(cluster: MemoryCluster, identity: str, deaths: list[int] | None = None) -> LeaderLease:
    return LeaderLease(cluster, "system", "rewarm", identity, 15, die=[].append if deaths is None else deaths.append)


def test_the_second_waits_until_the_record_has_not_moved_for_its_whole_time(clock):
    async def test() -> None:
        cluster = MemoryCluster()
        first, second = lease(cluster, "first"), lease(cluster, "second")
        assert await first._try()
        assert not await second._try()
        clock.now += 14
        assert await first._try()
        assert not await second._try()
        clock.now += 14
        assert not await second._try()
        clock.now += 2
        assert await second._try()
        assert second.holds()
        record = cluster.objects["Lease", "system", "rewarm"]["spec"]
        assert (record["holderIdentity"], record["leaseTransitions"]) == ("second", 2)

    run(test)


@pytest.mark.parametrize("renewed", ["2001-01-01T00:00:00.000000Z", "2999-01-01T00:00:00.000000Z", "nonsense"])
def test_times_of_other_machines_are_not_believed(clock, renewed):
    async def test() -> None:
        cluster = MemoryCluster()
        spec = {"holderIdentity": "first", "leaseDurationSeconds": 15, "renewTime": renewed}
        cluster.put(LEASE, "system", {"metadata": {"name": "rewarm"}, "spec": spec})
        second = lease(cluster, "second")
        assert not await second._try()
        clock.now += 14
        assert not await second._try()
        clock.now += 2
        assert await second._try()

    run(test)


def test_a_holder_stops_before_anybody_else_may_begin(clock):
    async def test() -> None:
        cluster = MemoryCluster()
        first, second = lease(cluster, "first"), lease(cluster, "second")
        assert await first._try()
        assert not await second._try()
        began = clock.now
        while not await second._try():
            clock.now += 0.5
            if first.holds():
                assert clock.now - began < 10
        assert not first.holds()
        assert clock.now - began > 15

    run(test)


def test_of_two_that_try_at_once_one_gets_it(clock):
    async def test() -> None:
        cluster = MemoryCluster()
        leases = [lease(cluster, f"operator-{number}") for number in range(8)]
        assert sorted(await asyncio.gather(*(each._try() for each in leases))) == [False] * 7 + [True]
        assert sum(each.holds() for each in leases) == 1

    run(test)


def test_an_answer_that_is_lost_is_no_leadership_but_found_again(clock):
    async def test() -> None:
        cluster = MemoryCluster()
        first = lease(cluster, "first")
        cluster.away = True
        assert not await first._try()
        assert not first.holds()
        cluster.away = False
        assert await first._try()
        cluster.away = True
        clock.now += 9
        assert not await first._try()
        assert first.holds()
        clock.now += 2
        assert not first.holds()

    run(test)


def test_the_watchdog_ends_a_process_whose_lease_was_not_renewed(clock):
    async def test() -> None:
        cluster, deaths = MemoryCluster(), []
        first = lease(cluster, "first", deaths)
        assert await first._try()
        clock.now += 11
        first._watch()
        assert deaths == [LOST_EXIT_CODE]
        assert not first.holds()

    run(test)


def test_a_released_lease_is_taken_at_once(clock):
    async def test() -> None:
        cluster = MemoryCluster()
        first, second = lease(cluster, "first"), lease(cluster, "second")
        assert await first._try()
        assert not await second._try()
        await first.release()
        assert not first.holds()
        assert await second._try()
        await first.release()
        assert cluster.objects["Lease", "system", "rewarm"]["spec"]["holderIdentity"] == "second"

    run(test)


def test_a_lease_taken_by_another_ends_the_process(clock):
    async def test() -> None:
        cluster, deaths = MemoryCluster(), []
        first = lease(cluster, "first", deaths)
        first._period = 0.0
        assert await first._try()
        spec = {"holderIdentity": "thief", "leaseDurationSeconds": 15}
        cluster.put(LEASE, "system", {"metadata": {"name": "rewarm"}, "spec": spec})
        task = asyncio.create_task(first.keep())
        while not deaths:
            await asyncio.sleep(0)
        task.cancel()
        assert deaths[0] == LOST_EXIT_CODE
        assert not first.holds()

    run(test)
