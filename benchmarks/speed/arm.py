"""Arms: processes that wait while another measures. The side of the bench."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from rewarm_bench.product import ROOT
from speed.spread import Spread

# What libgomp does when nobody says otherwise; the product says otherwise, its peers do not.
SPINNING = "300000"
PRODUCT = tuple(str(ROOT / part) for part in ("benchmarks", "api", "trainer", "operator", "cli"))


class ArmError(RuntimeError):
    """An arm ended; the last line that it said."""


@dataclass(frozen=True)
class Answer:
    """One request: wall and processor seconds, resident memory before it and at its peak, and what it returned."""

    seconds: float
    cpu_seconds: float
    before_megabytes: float
    peak_megabytes: float
    value: Any = None


class Arm:
    """An object of `module` in a process of its own. Use as a context."""

    def __init__(
        self,
        module: str,
        kind: str,
        options: Mapping[str, Any],
        *,
        python: str | Path = sys.executable,
        own: bool = True,
        spinning: bool = False,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """`own`: with the product's packages; without, only the benchmarks are seen. `spinning`: libgomp's own way."""
        kept = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "PYTHONPATH")}
        if spinning:
            kept["GOMP_SPINCOUNT"] = SPINNING
        paths = PRODUCT if own else PRODUCT[:1]
        asked = {"paths": paths, "module": module, "kind": kind, "options": dict(options)}
        self.name = f"{module}.{kind}"
        # What an arm writes goes when it is ended; what a compiler made stays for the next one.
        self._place = tempfile.TemporaryDirectory(prefix="rewarm-speed-", ignore_cleanup_errors=True)
        kept["TORCHINDUCTOR_CACHE_DIR"] = str(Path(tempfile.gettempdir()) / "rewarm-speed-compiled")
        kept["TMPDIR"] = self._place.name
        self._log = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 - open as long as the arm
        self._process = subprocess.Popen(
            [str(python), str(Path(__file__).with_name("serve.py")), json.dumps(asked)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env={**kept, **(environment or {})},
        )
        try:
            self.facts: dict[str, Any] = self._answer()["facts"]
        except BaseException:
            self.close()
            raise

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        for line in self._process.stdout:
            if line.startswith('{"answer"'):  # peers print things of their own
                found: dict[str, Any] = json.loads(line)["answer"]
                return found
        code = self._process.wait()
        self._log.seek(0)
        said = [line.strip() for line in self._log if line.strip()] or ["nothing"]
        raise ArmError(f"{self.name} ended with {code}: {said[-1][:300]}")

    def ask(self, verb: str, **arguments: Any) -> Answer:
        """Have the arm do something, and wait for it. ArmError when it ends instead."""
        assert self._process.stdin
        try:
            self._process.stdin.write(json.dumps({"verb": verb, "arguments": arguments}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the reason comes with its answer
        return Answer(**self._answer())

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._log.close()
        self._place.cleanup()

    def __enter__(self) -> Arm:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def rounds(
    arms: Mapping[str, Arm], count: int, verb: str, *, first: Mapping[str, Any] | None = None, **arguments: Any
) -> dict[str, list[Answer]]:
    """Each arm once in every round, in one order.

    `first`: arguments of a request before that, which does not count: whoever was before has left the caches full of
    its own, and an arm that always comes after the same other one would pay for it every time.
    """
    answers: dict[str, list[Answer]] = {name: [] for name in arms}
    for _ in range(count):
        for name, arm in arms.items():
            if first is not None:
                arm.ask(verb, **first)
            answers[name].append(arm.ask(verb, **arguments))
    return answers


def seconds(answers: Sequence[Answer]) -> list[float]:
    return [answer.seconds for answer in answers]


def cpu(answers: Sequence[Answer]) -> list[float]:
    return [answer.cpu_seconds for answer in answers]


TAKEN = ("", "", "seconds", "CPU-seconds")
"""The columns of `taken`."""


def taken(label: str, answers: Mapping[str, Sequence[Answer]], times: int = 1) -> list[tuple[str, ...]]:
    """What each arm took: a line of a table for each. `times`: how often a request did what is counted."""
    return [
        (label, name, *(Spread.of([one / times for one in kind(each)]).words(3) for kind in (seconds, cpu)))
        for name, each in answers.items()
    ]
