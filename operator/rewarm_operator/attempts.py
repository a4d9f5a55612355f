"""Why an attempt ended, what that costs, and when the next one may start: the cause table of the design. Pure.

Nothing here looks at a previous phase: a Job and its pods, as they are, tell the cause.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal
from zlib import crc32

from rewarm_api.messages import one_line
from rewarm_api.reported import Termination
from rewarm_operator import moments, names, pods
from rewarm_operator.observed import Object

Budget = Literal["failures", "disruptions", ""]

CAUSE_OF_CODE = {64: "InvalidSpec", 65: "BadData", 66: "MissingInput", 75: "DependencyUnavailable", 76: "Diverged"}
CAUSE_OF_DISRUPTION = {
    "PreemptionByScheduler": "Preempted",
    "EvictionByEvictionAPI": "Evicted",
    "TerminationByKubelet": "Evicted",
    "DeletionByTaintManager": "NodeLost",
    "DeletionByPodGC": "NodeLost",
}
ENDS_THE_RUN = frozenset({"InvalidSpec", "BadData", "Diverged"})
WAITS_FOR_INPUT = frozenset({"MissingInput", "DependencyUnavailable"})
_BUDGETS: Mapping[str, Budget] = {
    "Preempted": "disruptions", "Evicted": "disruptions", "NodeLost": "disruptions",
    "Hang": "failures", "OutOfMemory": "failures", "Unknown": "failures",
}  # fmt: skip

LIST_AFTER_SECONDS = 2
"""How old a Job's verdict is when its pods are asked for what their watch has not told yet."""
SETTLE_SECONDS = 10
"""How long after that we wait for the last words of deleted pods, which only a watch tells."""
_FIRST_BACKOFF = 10.0
_LONGEST_BACKOFF = 300.0
_EXIT_CODE = re.compile(r"exit code (\d+)")
_DISRUPTION_RULE = "rule at index 0"


@dataclass(frozen=True)
class End:
    """The end of an attempt (or of preparation)."""

    cause: str
    message: str
    at: datetime
    """When: the Job's word, else the moment it was noticed."""
    termination: Termination | None = None
    """What rank 0 said last, else what the rank that ended first said."""


@dataclass(frozen=True)
class Judged:
    """`end` is None while the attempt goes on; then `look_again` says in how many seconds it could be over.

    `asks_for_pods`: the pods that we see do not tell the story of the Job's verdict, so they are to be listed.
    """

    end: End | None = None
    look_again: float | None = None
    asks_for_pods: bool = False


def budget_of(cause: str) -> Budget:
    """Which budget an end is taken from; empty: none."""
    return _BUDGETS.get(cause, "")


def spent(job: Object) -> dict[str, int]:
    """The counts that a preparation or a fit was made with: what was spent before it."""
    text = (job["metadata"].get("annotations") or {}).get(names.SPENT_ANNOTATION)
    try:
        found: Any = json.loads(text or "{}")
    except ValueError:
        return {}
    return {str(key): int(value) for key, value in found.items() if isinstance(value, int)}


def judge(
    job: Object,
    all_pods: Sequence[Object],
    now: datetime,
    *,
    margin: int,
    listed: datetime | None = None,
    finished_by_record: bool = False,
) -> Judged:
    """Whether the attempt of this Job has ended, and why. `margin`: seconds after which a deleted pod is lost.

    `listed`: when its pods were asked for after its verdict. Two watches come in no order, and after an outage of the
    API server one of them may be back long before the other: how old a verdict is says nothing about the pods.
    `finished_by_record`: rank 0 reported its final verdict, whatever became of the pods after that.
    A Job that Kueue has suspended has not ended.
    """
    members = pods.owned_by(job, all_pods)
    verdict = _verdict(job)
    if verdict is not None:
        at = moments.parse(verdict.get("lastTransitionTime")) or now
        if not finished_by_record and not _settled(job, verdict, members):
            early = LIST_AFTER_SECONDS - moments.seconds_between(at, now)
            if listed is None:
                return Judged(look_again=early) if early > 0 else Judged(asks_for_pods=True)
            left = SETTLE_SECONDS - moments.seconds_between(listed, now)
            if left > 0:
                return Judged(look_again=left)
        return Judged(classify(job, members, at, finished_by_record=finished_by_record, stuck=False))
    if (job.get("spec") or {}).get("suspend"):
        return Judged()
    lost = [moment for moment in (pods.lost_at(pod, margin) for pod in members) if moment is not None]
    if not lost:
        return Judged()
    if min(lost) <= now:
        return Judged(classify(job, members, now, finished_by_record=finished_by_record, stuck=True))
    return Judged(look_again=moments.seconds_between(now, min(lost)))


def classify(job: Object, members: Sequence[Object], at: datetime, *, finished_by_record: bool, stuck: bool) -> End:
    """The cause table. `members` are the attempt's pods in order of rank; `stuck`: one of them would not go."""
    endings = [ending for ending in map(pods.ended, members) if ending is not None]
    first_word = next((ending.termination for ending in endings if ending.rank == 0 and ending.termination), None)
    if finished_by_record or _rank_0_succeeded(job, members):
        return End("Completed", "trained and judged", at, first_word)
    disruption = _disruption(members)
    if disruption is not None:
        return End(*disruption, at, first_word)
    word = _by_the_jobs_word(job, len(members))
    if word[0] == "Evicted":
        # The evicted pod may be gone before the others, which were only stopped because of it.
        return End(*word, at, first_word)
    failed = sorted(
        (ending for ending in endings if ending.code != 0),
        key=lambda ending: (ending.finished or at, ending.rank),
    )
    if failed:
        culprit = failed[0]
        return End(_cause_of(culprit), _sentence(culprit), at, first_word or culprit.termination)
    if stuck:
        return End("NodeLost", "a pod does not end after its grace period: its node is lost", at, first_word)
    return End(*(_rejected(members) or word), at, first_word)


def vanished(members: Sequence[Object], at: datetime, *, finished_by_record: bool) -> End:
    """The end of an attempt whose Job somebody deleted: what its pods say, else Preempted (it was taken away)."""
    nothing: Object = {"metadata": {"uid": ""}, "spec": {}, "status": {}}
    end = classify(nothing, members, at, finished_by_record=finished_by_record, stuck=False)
    if end.cause != "Unknown" or any(ending.code for ending in map(pods.ended, members) if ending is not None):
        return end
    return End("Preempted", "its Job was deleted", at, end.termination)


def backoff(cause: str, in_a_row: int, seed: str) -> float:
    """Seconds from an end to the next attempt.

    A disruption waits for nothing, nor does a first failure; then 10 s, doubled each time, up to 5 minutes, less up to
    a tenth that depends on the seed, so that a thousand runs that miss the same bucket do not come back together.
    """
    if budget_of(cause) == "disruptions" or cause == "Suspended":
        return 0.0
    steps = in_a_row - 1 if cause in WAITS_FOR_INPUT else in_a_row - 2
    if steps < 0:
        return 0.0
    longest = min(_FIRST_BACKOFF * float(2 ** min(steps, 16)), _LONGEST_BACKOFF)
    return longest * (1 - crc32(f"{seed}/{in_a_row}".encode()) % 1000 / 10_000)


def ends_in_a_row(entries: Sequence[Mapping[str, Any]]) -> int:
    """How many of the newest ended attempts ended alike: by the same kind of waiting, or by any failure."""
    causes = [str(entry.get("cause") or "") for entry in entries]
    kinds = ["wait" if cause in WAITS_FOR_INPUT else budget_of(cause) for cause in causes if cause]
    count = 0
    for kind in reversed(kinds):
        if kind != kinds[-1]:
            break
        count += 1
    return count


def _verdict(job: Object) -> Mapping[str, Any] | None:
    """The condition by which the Job says that it is over, the final word first."""
    for kind in ("Complete", "Failed", "SuccessCriteriaMet", "FailureTarget"):
        found = pods.condition(job, kind)
        if found is not None:
            return found
    return None


def has_verdict(job: Object) -> bool:
    """The Job says that it is over, or is about to be."""
    return _verdict(job) is not None


def is_over(job: Object) -> bool:
    """The Job has its final word: it holds no pods any more."""
    return pods.condition(job, "Complete") is not None or pods.condition(job, "Failed") is not None


def _settled(job: Object, verdict: Mapping[str, Any], members: Sequence[Object]) -> bool:
    """Whether the pods that we see already tell the story that the Job's verdict is about."""
    if not members or not all(pods.is_terminal(pod) for pod in members):
        return False
    if verdict["type"] in ("Complete", "SuccessCriteriaMet"):
        return pods.index(members[0]) == 0
    if any(pods.condition(pod, "DisruptionTarget") for pod in members):
        return True
    expected = int((job.get("spec") or {}).get("completions") or 1)
    return len(members) >= expected and any(pods.phase(pod) == "Failed" for pod in members)


def _rank_0_succeeded(job: Object, members: Sequence[Object]) -> bool:
    if any(pods.index(pod) == 0 and pods.succeeded(pod) for pod in members):
        return True
    if pods.condition(job, "Complete") or pods.condition(job, "SuccessCriteriaMet"):
        return True
    done = str((job.get("status") or {}).get("completedIndexes") or "")
    return bool(re.match(r"0(\D|$)", done))


def _disruption(members: Sequence[Object]) -> tuple[str, str] | None:
    found = []
    for pod in members:
        target = pods.condition(pod, "DisruptionTarget")
        if target is not None:
            found.append((str(target.get("lastTransitionTime") or ""), pods.index(pod), pod, target))
    if not found:
        return None
    _, rank, pod, target = min(found, key=lambda each: each[:2])
    reason = str(target.get("reason") or "")
    message = one_line(str(target.get("message") or reason), 500)
    return CAUSE_OF_DISRUPTION.get(reason, "Evicted"), f"rank {rank} ({pod['metadata']['name']}), {reason}: {message}"


def _cause_of(ending: pods.Ended) -> str:
    if ending.reason == "OOMKilled":
        return "OutOfMemory"
    if ending.code == 143 or (ending.code == 137 and ending.was_deleted):  # 137: it took longer than its grace
        return "Preempted"
    return CAUSE_OF_CODE.get(ending.code, "Unknown")


def _sentence(ending: pods.Ended) -> str:
    said = ending.termination
    words = said.message if said is not None and said.message else one_line(ending.text, 500)
    if ending.reason == "OOMKilled":
        return f"rank {ending.rank} was killed for using more memory than its limit"
    return f"rank {ending.rank} exited with {ending.code}" + (f": {words}" if words else "")


def _rejected(members: Sequence[Object]) -> tuple[str, str] | None:
    """A pod that failed before its container began, for example because its node had no GPU after all."""
    for pod in members:
        status = pod.get("status") or {}
        if pods.phase(pod) == "Failed" and pods.ended(pod) is None and status.get("reason"):
            why = one_line(f"{status['reason']}: {status.get('message') or ''}", 500)
            return "Unknown", f"pod {pod['metadata']['name']} did not start, {why}"
    return None


def _by_the_jobs_word(job: Object, left: int) -> tuple[str, str]:
    """The cause when no pod tells it; `left`: how many of them are still there."""
    verdict = _verdict(job) or {}
    message = one_line(str(verdict.get("message") or ""), 500)
    if verdict.get("reason") == "PodFailurePolicy":
        if message.endswith(_DISRUPTION_RULE) or "DisruptionTarget" in message:
            return "Evicted", message
        code = _EXIT_CODE.search(message)
        if code is not None:
            return CAUSE_OF_CODE.get(int(code[1]), "Unknown"), message
    if verdict.get("reason") == "BackoffLimitExceeded" and left < int((job.get("spec") or {}).get("completions") or 1):
        # A pod that failed by itself stays: this one was deleted, and went with its exit code.
        return "Preempted", f"a pod was deleted ({message})"
    return "Unknown", message or "its pods are gone, and nothing says why"


def due_after(end: datetime | None, wait: float, now: datetime) -> float:
    """Seconds from now until the wait is over; 0 when it is."""
    if end is None:
        return 0.0
    return max(0.0, ((end + timedelta(seconds=wait)) - now).total_seconds())
