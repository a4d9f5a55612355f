"""Many logs as one stream: who wrote a line, in what order, across broken connections and into later attempts."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator

import pytest

from rewarm_api.errors import DependencyError, ManifestError, Problem
from rewarm_cli import logs
from rewarm_cli.cluster import StreamEnded
from rewarm_cli.cluster_errors import DeniedError
from rewarm_cli.logs import Follower, Pod, Selection, instant, line_of, pod_of, snapshot_lines

BEGIN = "2026-01-31T12:00:0"


def pod(
    attempt: int | None = 1, rank: int = 0, *, role: str = "trainer", started: bool = True, ended: bool = False
) -> Pod:
    name = f"{role}-{attempt}-{rank}"
    return Pod(name, f"uid-{name}", "default", role, attempt, rank, started, ended)


class Streams:
    """What containers write, as lists per opening of their log; the last opening stays the last."""

    def __init__(self, **openings: list[list[str | Exception]]) -> None:
        self.openings = {name.replace("_", "-"): lines for name, lines in openings.items()}
        self.asked: list[tuple[str, str]] = []

    def __call__(self, pod: Pod, since: str) -> Iterator[str]:
        self.asked.append((pod.name, since))
        left = self.openings[pod.name]
        for line in left.pop(0) if len(left) > 1 else left[0]:
            if isinstance(line, Exception):
                raise line
            yield line


def lines(*texts: str) -> list[str | Exception]:
    return [f"{BEGIN}{text[0]}.000000000Z {text[1:]}" for text in texts]


def told(found: Iterator) -> list[str]:
    return [f"{line.prefix} | {line.text}" for line in found]


def test_what_was_written_comes_attempt_by_attempt_with_ranks_merged_by_time():
    streams = Streams(
        prepare_None_0=[lines("0tokenised")],
        trainer_1_0=[lines("1a", "3c")],
        trainer_1_1=[lines("2b", "4d")],
        trainer_2_0=[lines("0earlier clock")],
    )
    pods = [pod(2), pod(1, 1), pod(1), pod(None, role="prepare"), pod(3, started=False)]
    assert told(snapshot_lines(pods, Selection(), streams)) == [
        "prepare | tokenised", "a1/0 | a", "a1/1 | b", "a1/0 | c", "a1/1 | d", "a2/0 | earlier clock",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("selection", "wanted"),
    [
        (Selection(attempt=1), ["a1/0 | a", "a1/1 | b"]),
        (Selection(rank=1), ["a1/1 | b"]),
        (Selection(role="prepare"), ["prepare | p"]),
        (Selection(attempt=2, rank=1), []),
    ],
)
def test_only_what_is_asked_for(selection, wanted):
    streams = Streams(
        prepare_None_0=[lines("0p")], trainer_1_0=[lines("1a")], trainer_1_1=[lines("2b")], trainer_2_0=[lines("3c")]
    )
    pods = [pod(None, role="prepare"), pod(1), pod(1, 1), pod(2)]
    assert told(snapshot_lines(pods, selection, streams)) == wanted


def test_a_log_that_is_gone_does_not_hide_the_others():
    streams = Streams(trainer_1_0=[[StreamEnded("gone")]], trainer_1_1=[lines("2b")])
    assert told(snapshot_lines([pod(1), pod(1, 1)], Selection(), streams)) == ["a1/1 | b"]


def test_following_goes_on_into_a_new_attempt_and_ends_with_the_run():
    more: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def read(which: Pod, since: str) -> Iterator[str]:
        if which.attempt == 1:
            yield from [] if since else lines("1one")
            return
        if not since:
            while (text := more.get()) is not None:
                yield text

    follower = Follower(Selection(), read)
    follower.pod(pod(1))
    stream = follower.lines()
    assert next(stream).text == "one"
    follower.pod(pod(1, ended=True))
    follower.gone(pod(1))
    # The next attempt: seen while pending, then running.
    follower.pod(pod(2, started=False))
    follower.pod(pod(2))
    more.put(f"{BEGIN}5Z two")
    assert (line := next(stream)).text == "two"
    assert line.prefix == "a2/0"
    # The run ends before the last line is written, and before its pod is seen to end.
    follower.finish()
    more.put(f"{BEGIN}6Z three")
    more.put(None)
    follower.pod(pod(2, ended=True))
    assert [line.text for line in stream] == ["three"]


def test_ranks_are_followed_side_by_side():
    follower = Follower(Selection(), Streams(trainer_1_0=[lines("1a")], trainer_1_1=[lines("1b")]))
    for rank in (0, 1):
        follower.pod(pod(1, rank, ended=True))
    follower.finish()
    assert sorted(told(follower.lines())) == ["a1/0 | a", "a1/1 | b"]


def test_a_broken_stream_is_read_on_from_its_last_line_without_repeating_it():
    streams = Streams(trainer_1_0=[[*lines("1a", "2b"), StreamEnded("cut")], lines("2b", "3c")])
    follower = Follower(Selection(), streams)
    follower.pod(pod(1, ended=True))
    follower.finish()
    assert told(follower.lines()) == ["a1/0 | a", "a1/0 | b", "a1/0 | c"]
    assert streams.asked == [("trainer-1-0", ""), ("trainer-1-0", f"{BEGIN}2.000000000Z")]


def test_a_stream_that_ends_while_its_container_runs_is_asked_again():
    streams = Streams(trainer_1_0=[lines("1a"), lines("1a", "2b")])
    follower = Follower(Selection(), streams)
    follower.pod(pod(1))
    stream = follower.lines()
    assert next(stream).text == "a"
    follower.pod(pod(1, ended=True))
    follower.finish()
    assert [line.text for line in stream] == ["b"]


def test_a_server_that_is_away_for_a_moment_is_waited_for():
    streams = Streams(trainer_1_0=[[DependencyError("503")], lines("1a")])
    follower = Follower(Selection(), streams)
    follower.pod(pod(1, ended=True))
    follower.finish()
    assert told(follower.lines()) == ["a1/0 | a"]


def test_a_node_that_is_gone_is_said_and_hides_nothing():
    lost = DependencyError("no route to the kubelet")
    streams = Streams(trainer_1_0=[[lost]], trainer_1_1=[lines("2b")])
    found = list(snapshot_lines([pod(1), pod(1, 1)], Selection(), streams))
    assert sorted((line.rank, line.missed) for line in found) == [(0, True), (1, False)]
    assert "no route to the kubelet" in found[0].text + found[1].text


def test_following_gives_up_a_lost_log_and_goes_on_with_the_others(monkeypatch):
    monkeypatch.setattr(logs, "_FAILURES", 1)
    monkeypatch.setattr(logs, "_PAUSE", 0.01)
    removed = ManifestError(Problem("pods", "a container that was removed", "a log", "z"))
    follower = Follower(Selection(), Streams(trainer_1_0=[[removed]], trainer_2_0=[lines("1a")]))
    follower.pod(pod(1))
    follower.pod(pod(2, ended=True))
    follower.finish()
    assert sorted((line.prefix, line.missed) for line in follower.lines()) == [("a1/0", True), ("a2/0", False)]


def test_a_refusal_ends_the_stream_with_its_error():
    refusal = DeniedError(Problem("pods/log", "x", "y", "z"))
    follower = Follower(Selection(), Streams(trainer_1_0=[[refusal]]))
    follower.pod(pod(1))
    with pytest.raises(DeniedError, match="pods/log"):
        list(follower.lines())


def test_a_run_without_any_pod_ends_with_the_run():
    follower = Follower(Selection(), Streams())
    threading.Thread(target=follower.finish).start()
    assert list(follower.lines()) == []


def test_times_of_any_precision_sort():
    ordered = ["2026-01-31T12:00:05Z", "2026-01-31T12:00:05.1Z", "2026-01-31T12:00:05.12Z", "2026-01-31T12:00:06Z"]
    keys = [instant(time) for time in ordered]
    assert keys == sorted(keys)


def test_a_line_keeps_its_text():
    line = line_of(pod(2, 3), f"{BEGIN}1Z   indented  text\r")
    assert (line.prefix, line.text) == ("a2/3", "  indented  text")


def api_pod(**state: dict) -> dict:
    return {
        "metadata": {
            "name": "llama-a2-1-x7f2k", "namespace": "research", "uid": "p-1",
            "labels": {
                "rewarm.dev/role": "trainer", "rewarm.dev/attempt": "2",
                "batch.kubernetes.io/job-completion-index": "1",
            },
        },
        "status": {"phase": "Running", "containerStatuses": [{"name": "trainer", "state": state}]},
    }  # fmt: skip


def test_a_pod_is_read_by_its_labels_and_the_state_of_its_trainer():
    found = pod_of(api_pod(running={"startedAt": "now"}))
    assert (found.role, found.attempt, found.rank, found.started, found.ended) == ("trainer", 2, 1, True, False)
    assert not pod_of(api_pod(waiting={"reason": "ContainerCreating"})).started
    assert pod_of(api_pod(terminated={"exitCode": 0})).ended
