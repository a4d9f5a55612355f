"""The queue's promises: coalescing, one visit per key at a time, backoff, Retry-After, fairness, the gate."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from rewarm_operator.queue import Again, Queue


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await test()

    asyncio.run(bounded())


class Visits:
    """Records visits; `answer` decides how the n-th of a key ends."""

    def __init__(self, answer: Callable[[str, int], float | None] = lambda key, count: None) -> None:
        self.seen: list[str] = []
        self.running: set[str] = set()
        self.most = 0
        self.changed = asyncio.Event()
        self.answer = answer
        self.hold: asyncio.Event | None = None

    async def __call__(self, key: str) -> float | None:
        assert key not in self.running, "two visits to one key at a time"
        self.running.add(key)
        self.most = max(self.most, len(self.running))
        try:
            if self.hold is not None:
                await self.hold.wait()
            self.seen.append(key)
            return self.answer(key, self.seen.count(key))
        finally:
            self.running.discard(key)
            self.changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self.changed.clear()
            await self.changed.wait()


def test_nothing_is_handed_out_before_the_gate_opens():
    async def test() -> None:
        visits = Visits()
        queue = Queue(visits)
        queue.add("a")
        queue.add("b")
        await asyncio.sleep(0)
        assert visits.seen == []
        assert queue.depth == 2
        queue.open()
        await visits.until(lambda: len(visits.seen) == 2)
        assert visits.seen == ["a", "b"]

    run(test)


def test_changes_of_a_key_that_waits_are_one_visit_and_during_a_visit_one_more():
    async def test() -> None:
        visits = Visits()
        visits.hold = asyncio.Event()
        queue = Queue(visits)
        for _ in range(50):
            queue.add("a")
        queue.open()
        await asyncio.sleep(0)
        assert visits.running == {"a"}
        for _ in range(50):
            queue.add("a")
        visits.hold.set()
        await visits.until(lambda: len(visits.seen) == 2)
        await queue.close()
        assert visits.seen == ["a", "a"]

    run(test)


def test_visits_are_bounded_and_close_waits_for_them():
    async def test() -> None:
        visits = Visits()
        visits.hold = asyncio.Event()
        queue = Queue(visits, visits=3)
        for number in range(10):
            queue.add(str(number))
        queue.open()
        await asyncio.sleep(0)
        assert len(visits.running) == 3
        closing = asyncio.create_task(queue.close())
        await asyncio.sleep(0)
        visits.hold.set()
        await closing
        assert visits.most == 3
        assert len(visits.seen) == 3
        assert queue.depth == 7

    run(test)


def test_a_key_that_always_fails_keeps_nobody_waiting():
    async def test() -> None:
        def answer(key: str, count: int) -> None:
            if key == "bad":
                raise RuntimeError("always")

        visits = Visits(answer)
        queue = Queue(visits, visits=1)
        queue.add("bad")
        for number in range(20):
            queue.add(str(number))
        queue.open()
        await visits.until(lambda: len(set(visits.seen)) == 21)
        assert visits.seen.count("bad") == 1

    run(test)


def test_failures_are_spaced_more_and_more_and_success_forgets_them():
    async def test() -> None:
        def answer(key: str, count: int) -> None:
            if count < 3:
                raise RuntimeError("twice")

        visits = Visits(answer)
        queue = Queue(visits)
        loop = asyncio.get_running_loop()
        began = loop.time()
        queue.open()
        queue.add("a")
        await visits.until(lambda: len(visits.seen) == 3)
        # 0.5 s and 1 s, each at least halved by jitter.
        assert loop.time() - began >= 0.74
        assert queue._failures == {}

    run(test)


def test_a_conflict_is_visited_again_at_once_but_not_for_ever():
    async def test() -> None:
        def answer(key: str, count: int) -> None:
            if count < 5:
                raise Again("conflict")

        visits = Visits(answer)
        queue = Queue(visits)
        loop = asyncio.get_running_loop()
        began = loop.time()
        queue.open()
        queue.add("a")
        await visits.until(lambda: len(visits.seen) == 3)
        assert loop.time() - began < 0.5
        await visits.until(lambda: len(visits.seen) == 4)
        assert loop.time() - began >= 0.9

    run(test)


def test_retry_after_is_kept_even_when_the_key_changes():
    async def test() -> None:
        def answer(key: str, count: int) -> None:
            if count == 1:
                raise Again("429", after=1.0)

        visits = Visits(answer)
        queue = Queue(visits)
        loop = asyncio.get_running_loop()
        queue.open()
        queue.add("a")
        await visits.until(lambda: len(visits.seen) == 1)
        began = loop.time()
        for _ in range(5):
            queue.add("a")
            await asyncio.sleep(0)
        assert len(visits.seen) == 1
        await visits.until(lambda: len(visits.seen) == 2)
        assert loop.time() - began >= 0.95

    run(test)


def test_a_burst_of_events_after_a_visit_is_one_visit_more():
    async def test() -> None:
        visits = Visits()
        queue = Queue(visits, spacing=0.2)
        loop = asyncio.get_running_loop()
        queue.open()
        queue.add("a")
        await visits.until(lambda: len(visits.seen) == 1)
        await asyncio.sleep(0)
        began = loop.time()
        for _ in range(20):
            queue.add("a")
            await asyncio.sleep(0)
        queue.add("b")
        await visits.until(lambda: visits.seen.count("a") == 2)
        assert loop.time() - began >= 0.15
        assert visits.seen == ["a", "b", "a"]
        await asyncio.sleep(0.25)
        assert visits.seen == ["a", "b", "a"]

    run(test)


def test_a_wished_time_is_kept_unless_a_change_comes_before():
    async def test() -> None:
        visits = Visits(lambda key, count: 60.0 if count == 1 else None)
        queue = Queue(visits)
        queue.open()
        queue.add("a")
        await visits.until(lambda: len(visits.seen) == 1)
        await asyncio.sleep(0)
        assert set(queue._timers) == {"a"}
        queue.add_after("a", 0.01)
        await visits.until(lambda: len(visits.seen) == 2)
        await asyncio.sleep(0)
        assert queue._timers == {}

    run(test)
