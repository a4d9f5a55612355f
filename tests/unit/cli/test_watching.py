"""Following objects: lists and watches as one stream; patience with a server that is away, none with a refusal."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest

from rewarm_api.errors import DependencyError
from rewarm_cli import watching
from rewarm_cli.cluster import StreamEnded
from rewarm_cli.cluster_errors import DeniedError, ExpiredError
from rewarm_cli.watching import Change, DeadlineError, Synced, observe


class Clock:
    """Time that passes only where it is slept away."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(watching, "time", clock)
    return clock


class Server:
    """Lists and watches as told; the last of each is what it goes on saying. A float in a watch is time that passes."""

    def __init__(self, clock: Clock, lists: list[Any], watches: list[Any]) -> None:
        self._clock, self._lists, self._watches = clock, lists, watches
        self.versions: list[str] = []

    def list(self, *_: Any, **__: Any) -> tuple[list[dict[str, Any]], str]:
        answer = self._next(self._lists)
        if isinstance(answer, Exception):
            raise answer
        return answer, "7"

    def watch(self, resource: Any, namespace: Any, version: str, **_: Any) -> Iterator[dict[str, Any]]:
        self.versions.append(version)
        for step in self._next(self._watches):
            if isinstance(step, Exception):
                raise step
            if isinstance(step, float):
                self._clock.now += step
                continue
            yield step

    @staticmethod
    def _next(answers: list[Any]) -> Any:
        return answers.pop(0) if len(answers) > 1 else answers[0]


def item(name: str, version: int = 1) -> dict[str, Any]:
    return {"metadata": {"name": name, "uid": name, "resourceVersion": str(version)}}


def event(kind: str, name: str, version: int) -> dict[str, Any]:
    return {"type": kind, "object": item(name, version)}


def changes(server: Server, count: int) -> list[tuple[str, str]]:
    def word(change: Change) -> tuple[str, str]:
        return type(change).__name__, "" if isinstance(change, Synced) else change.object["metadata"]["name"]

    return [word(change) for change in islice(observe(server, "pods", "default"), count)]  # type: ignore[arg-type]


def test_the_list_comes_first_then_what_changes(clock):
    server = Server(clock, [[item("a")]], [[event("ADDED", "b", 8), event("DELETED", "a", 9)], [240.0]])
    assert changes(server, 4) == [("Seen", "a"), ("Synced", ""), ("Seen", "b"), ("Gone", "a")]


def test_a_forgotten_version_means_the_list_again_and_what_vanished_is_told(clock):
    server = Server(clock, [[item("a"), item("b")], [item("b"), item("c")]], [[ExpiredError("old")], [240.0]])
    assert changes(server, 5)[3:] == [("Gone", "a"), ("Seen", "c")]
    assert server.versions[0] == "7"


def test_a_watch_that_something_between_drops_goes_on_where_it_was(clock):
    watches = [[event("ADDED", "b", 8), 60.0, StreamEnded("dropped")], [60.0, event("MODIFIED", "b", 9)]]
    server = Server(clock, [[]], watches)
    assert changes(server, 3) == [("Synced", ""), ("Seen", "b"), ("Seen", "b")]
    assert server.versions == ["7", "8"]
    assert clock.now == 1000 + 60 + 60, "a good connection that ends asks for no pause"


@pytest.mark.parametrize(
    ("failure", "error", "patience"),
    [
        (DependencyError("away"), DependencyError, watching.PATIENCE_SECONDS),
        (DeniedError("no"), DeniedError, watching.REFUSED_SECONDS),
        (StreamEnded("at once"), DependencyError, watching.PATIENCE_SECONDS),
    ],
)
def test_a_server_that_never_watches_again_is_an_error_in_the_end(clock, failure, error, patience):
    server = Server(clock, [[]], [[failure]])
    with pytest.raises(error):
        changes(server, 2)
    assert patience < clock.now - 1000 <= patience + 30


def test_patience_begins_anew_with_every_sign_of_life(clock):
    away = [DependencyError("away")]
    watches = [*([away] * 20), [event("ADDED", "b", 8)], *([away] * 20), [event("MODIFIED", "b", 9)], [240.0]]
    assert changes(Server(clock, [[]], watches), 3)[1:] == [("Seen", "b"), ("Seen", "b")]
    assert clock.now - 1000 > watching.PATIENCE_SECONDS


def test_one_that_was_away_for_long_may_refuse_for_a_moment_when_it_comes_back(clock):
    watches = [*([[DependencyError("away")]] * 10), [DeniedError("not yet")], [event("ADDED", "b", 8)], [240.0]]
    assert changes(Server(clock, [[]], watches), 2)[1:] == [("Seen", "b")]
    assert clock.now - 1000 > watching.REFUSED_SECONDS


def test_a_stream_of_errors_is_no_sign_of_life(clock):
    broken = {"type": "ERROR", "object": {"code": 500, "message": "etcd is away"}}
    with pytest.raises(DependencyError, match="etcd is away"):
        changes(Server(clock, [[]], [[broken]]), 2)


def test_a_first_list_that_fails_is_an_error_at_once(clock):
    with pytest.raises(DeniedError):
        changes(Server(clock, [DeniedError("no")], [[]]), 1)
    assert clock.now == 1000


def test_a_server_that_is_away_at_the_first_list_is_waited_for(clock):
    """Whoever observes has been answered a moment before: only the API server's restart can lie between."""
    assert changes(Server(clock, [DependencyError("away"), [item("a")]], [[240.0]]), 2) == [
        ("Seen", "a"),
        ("Synced", ""),
    ]


def test_a_deadline_ends_it(clock):
    server = Server(clock, [[]], [[30.0]])
    with pytest.raises(DeadlineError):
        for _ in observe(server, "pods", "default", deadline=1000 + 100.0):  # type: ignore[arg-type]
            pass
    assert clock.now == 1120
