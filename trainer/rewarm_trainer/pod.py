"""What runs in a pod: `python -m rewarm_trainer.pod prepare`, `... train`, and `... study` for the fit of a study.

Whatever happens, it ends with an exit code of the contract and a termination message that says why (trainer.md).
"""

from __future__ import annotations

import os
import shutil
import sys
import traceback
from collections.abc import Sequence

from rewarm_api.errors import Preempted, RewarmError
from rewarm_api.reported import PinsSummary, Termination
from rewarm_api.study_status import StudyResult
from rewarm_trainer.endings import INTERNAL, Ending
from rewarm_trainer.finish import read_report
from rewarm_trainer.pod_settings import Pod
from rewarm_trainer.reporter import Reporter, Server, read_last
from rewarm_trainer.signals import StopRequest
from rewarm_trainer.workdir import WorkFolder, read_snapshot

_COMMANDS = ("prepare", "train", "study")
Found = PinsSummary | StudyResult | None
"""What a Job is there for, in short."""


def main(arguments: Sequence[str]) -> int:
    if len(arguments) != 1 or arguments[0] not in _COMMANDS:
        print(f"usage: python -m rewarm_trainer.pod {' | '.join(_COMMANDS)}", file=sys.stderr)
        return 64
    stop = StopRequest()
    stop.install()
    ending, pod, found = Ending("pod", INTERNAL), None, None
    try:
        pod = Pod.from_environment()
        shutil.rmtree(pod.notes, ignore_errors=True)
        pod.notes.mkdir(parents=True, exist_ok=True)
        ending, found = _run(arguments[0], pod)
    except RewarmError as error:
        ending = Ending("pod", error.exit_code, str(error))
    except Exception as error:
        ending = Ending("pod", INTERNAL, f"{type(error).__name__}: {error}")
        traceback.print_exc()
    if stop.asked and ending.code != Preempted.exit_code:
        ending = Ending("pod", Preempted.exit_code, ending.message or "stopped as asked")
    if ending.message:
        print(f"rewarm: {ending.message}", file=sys.stderr, flush=True)
    if pod:
        write_last_words(pod, ending, found)
    return ending.code


def _run(command: str, pod: Pod) -> tuple[Ending, Found]:
    if command == "study":
        from rewarm_trainer.pod_study import fit

        return Ending("pod", 0), fit(pod)
    is_prepare = command == "prepare"
    told = pod.node == 0
    server = Server.from_environment() if told else None
    until = None if is_prepare else pod.taken_over
    reporter = Reporter(server, pod.notes, activity="Preparing" if is_prepare else "Starting", until=until)
    try:
        if is_prepare:
            from rewarm_trainer.pod_prepare import prepare

            return Ending("pod", 0), prepare(pod, reporter)
        from rewarm_trainer.pod_train import train

        return train(pod, reporter), None
    finally:
        reporter.close()


def write_last_words(pod: Pod, ending: Ending, found: Found) -> None:
    """The termination message; one that cannot be written is not worth another exit code."""
    said: dict[str, object] = {"outcome": ending.outcome, "message": ending.message, "exit_code": ending.code}
    if isinstance(found, PinsSummary):
        said["pins"] = found
    elif isinstance(found, StudyResult):
        said["study"] = found
    elif pod.node == 0:
        if (report := read_last(pod.notes)) is not None:
            said["report"] = report
            # A run that is trained and judged stays so, also when its pod was told to go while it said so.
            said["outcome"] = report.outcome if report.outcome == "Succeeded" else ending.outcome
        said["tags"] = tags_of(pod)
    try:
        pod.termination_log.write_text(Termination(**said).to_message())
    except (OSError, ValueError) as error:
        print(f"rewarm: no termination message ({error})", file=sys.stderr, flush=True)


def tags_of(pod: Pod) -> dict[str, str]:
    """Lineage of the model version, where there is a report: what is too long for a message is left to the trainer."""
    from rewarm_api.pins import Pins
    from rewarm_trainer.registration import lineage

    work = WorkFolder(pod.work)
    report = read_report(work.report)
    if report is None or report.get("outcome") != "Succeeded":
        return {}
    try:
        pins = Pins.model_validate_json(work.pins.read_text())
        tags = lineage(read_snapshot(work), pins, report)
    except (OSError, ValueError, KeyError, RewarmError):
        return {}
    return {name: value for name, value in tags.items() if 0 < len(value) <= 512}


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
