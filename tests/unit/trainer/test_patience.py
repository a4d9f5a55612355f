"""How long a stumbling call is tried again: jitter, one deadline, and what ends it at once."""

from __future__ import annotations

import pytest

from rewarm_api.errors import ManifestError
from rewarm_trainer.patience import LONGEST_WAIT_SECONDS, VARIABLE, Patience


class Clock:
    """Time passes only by waiting."""

    def __init__(self) -> None:
        self.now = 100.0
        self.waits: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds


class Stumble(Exception):
    pass


def patient(clock: Clock, deadline: float = 300.0, share: float = 1.0) -> Patience:
    return Patience(deadline, lambda: clock.now, clock.sleep, lambda: share)


def failing(times: int, error: Exception):
    left = iter([error] * times)

    def call() -> str:
        for each in left:
            raise each
        return "done"

    return call


def test_it_waits_longer_and_longer_up_to_a_limit() -> None:
    clock = Clock()
    assert patient(clock).keep_trying(failing(8, Stumble()), lambda error: True, "key") == "done"
    assert clock.waits == [0.5, 1, 2, 4, 8, 16, LONGEST_WAIT_SECONDS, LONGEST_WAIT_SECONDS]


def test_waits_are_drawn_so_that_clients_do_not_come_back_together() -> None:
    clock = Clock()
    patient(clock, share=0.25).keep_trying(failing(3, Stumble()), lambda error: True, "key")
    assert clock.waits == [0.125, 0.25, 0.5]


def test_at_the_deadline_the_error_is_the_callers() -> None:
    clock = Clock()
    with pytest.raises(Stumble):
        patient(clock, 10.0).keep_trying(failing(99, Stumble()), lambda error: True, "key")
    assert clock.now - 100 <= 10
    with pytest.raises(Stumble):
        patient(Clock(), 0.0).keep_trying(failing(1, Stumble()), lambda error: True, "key")


def test_what_does_not_pass_is_not_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    with pytest.raises(KeyError):
        patient(clock).keep_trying(failing(1, KeyError()), lambda error: isinstance(error, Stumble), "key")
    assert (clock.waits, caplog.text) == ([], "")


def test_it_says_once_what_it_waits_for(caplog: pytest.LogCaptureFixture) -> None:
    patient(Clock()).keep_trying(failing(3, Stumble("no answer")), lambda error: True, "s3://runs/a")
    assert [record.message for record in caplog.records] == ["s3://runs/a: no answer; trying again for up to 300 s"]


def test_the_deadline_is_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert Patience.from_environment().deadline == 300
    monkeypatch.setenv(VARIABLE, "1.5")
    assert Patience.from_environment().deadline == 1.5
    for wrong in ("soon", "-1", "inf", "nan"):
        monkeypatch.setenv(VARIABLE, wrong)
        with pytest.raises(ManifestError, match=f"{VARIABLE}: found {wrong}, expected a number of seconds, 0 or more"):
            Patience.from_environment()
