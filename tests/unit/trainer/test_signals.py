"""Being asked to stop, in real processes: once, twice, before training; and dying with the parent."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import signal, sys
from rewarm_api.errors import Preempted
from rewarm_trainer.signals import StopRequest
stop = StopRequest()
stop.install()
stop.in_training = sys.argv[1] == "training"
try:
    print("ready", flush=True)
    while not stop.asked:
        signal.pause()
    print("asked", flush=True)
    if sys.argv[-1] == "again":
        while True:
            signal.pause()
    sys.exit(0)
except Preempted as error:
    print(error, flush=True)
    sys.exit(error.exit_code)
"""

PARENT = """
import os, subprocess, sys
from rewarm_trainer.signals import die_with_parent
program = "print('alive', flush=True); import signal; signal.pause()"
child = subprocess.Popen(
    [sys.executable, "-c", program], start_new_session=True, preexec_fn=die_with_parent, stdout=subprocess.PIPE
)
child.stdout.readline()
print(child.pid, flush=True)
sys.stdin.read()
"""


def start(*arguments: str, program: str = PROGRAM) -> subprocess.Popen[str]:
    root = Path(__file__).parents[3]
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(root / "api"), str(root / "trainer")])},
    )


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_request_during_training_is_noted_and_nothing_is_torn_down(number: signal.Signals) -> None:
    process = start("training")
    assert line(process) == "ready"
    process.send_signal(number)
    assert line(process) == "asked"
    _, rest = process.communicate()
    assert process.returncode == 0
    assert ("Ctrl-C again stops at once" in rest) == (number == signal.SIGINT)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_before_training_the_first_request_stops_with_143(number: signal.Signals) -> None:
    process = start("preparing")
    assert line(process) == "ready"
    process.send_signal(number)
    out, _ = process.communicate()
    assert process.returncode == 143
    assert out == "stopped before training began; start the same command again to go on\n"


def test_a_second_ctrl_c_stops_at_once() -> None:
    process = start("training", "again")
    assert line(process) == "ready"
    process.send_signal(signal.SIGINT)
    assert line(process) == "asked"
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate()
    assert process.returncode == 130
    assert "the last committed checkpoint stands" in rest


def test_a_repeated_sigterm_does_not_hurry_the_commit() -> None:
    """A scheduler repeats itself; only a person at the keyboard may throw the step away."""
    process = start("training", "again")
    assert line(process) == "ready"
    process.send_signal(signal.SIGTERM)
    assert line(process) == "asked"
    process.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.3)
    process.kill()
    process.communicate()


@pytest.mark.skipif(sys.platform != "linux", reason="the death signal is Linux's")
def test_a_worker_dies_with_its_parent_even_in_a_session_of_its_own() -> None:
    parent = start(program=PARENT)
    child = os.pidfd_open(int(line(parent)))
    parent.kill()
    parent.wait()
    readable, _, _ = select.select([child], [], [], 10)
    os.close(child)
    for stream in (parent.stdin, parent.stdout, parent.stderr):
        assert stream
        stream.close()
    assert readable, "the worker outlived its parent"
