"""What a run's status means for the person who waits for it: what it waits for, what is wrong, whether it is too early.

Pure, and careful: good runs look bad early, and a run that waits is not a run that fails.
"""

from __future__ import annotations

from datetime import datetime

from rewarm_api.quantity import format_tokens, parse_length
from rewarm_api.status import Attempt, Condition
from rewarm_cli.durations import short
from rewarm_cli.records import PROMOTE, Run

# In the order in which a run passes them: what it waits for is the first that does not hold.
_WAY = ("SpecValid", "DataReady", "Admitted", "Running", "Checkpointed", "Evaluated", "Registered")
_PROBLEMS = ("Stalled", "Degraded")
# Forgetting is not looked at before this share of the plan (and the warm-up) has passed: docs/runs.md.
_GAP_SHARE = 10


def waits_for(run: Run) -> str:
    """What has to happen next, in one line; empty while it trains, and once it has ended."""
    if run.deleting:
        return "the operator, to take its Jobs away (it is being deleted)"
    if PROMOTE in run.annotations:
        return "the operator, to answer the promotion that was asked for"
    if run.finished:
        registered = run.condition("Registered")
        pending = registered is not None and registered.status == "Unknown" and registered.reason
        return _told(registered) if registered is not None and pending else ""
    if not run.status.conditions:
        return "the operator, which has not looked at it yet: is Rewarm installed, and does it watch this namespace?"
    generation = int((run.object.get("metadata") or {}).get("generation") or 0)
    if run.status.observed_generation is not None and run.status.observed_generation < generation:
        return f"the operator, to see the newest change (generation {generation})"
    if run.suspended:
        done = run.truth("Suspended") == "True"
        return "a resume: it is suspended" if done else "the checkpoint of the attempt that is being suspended"
    return _first_unmet(run)


def _first_unmet(run: Run) -> str:
    for kind in _WAY:
        condition = run.condition(kind)
        if condition is None or condition.status == "True":
            continue
        if kind in ("Checkpointed", "Evaluated", "Registered") and condition.status == "Unknown":
            continue
        if kind == "SpecValid" and condition.status == "False":
            # A problem, and no patience will mend it.
            return ""
        if condition.message or condition.reason:
            return _told(condition)
        if condition.status == "False":
            return f"{kind} to become True"
    return ""


def _told(condition: Condition) -> str:
    """`Preparing: text is being turned into shards (DataReady)`."""
    words = ": ".join(part for part in (condition.reason, condition.message) if part)
    return f"{words} ({condition.type})"


def problems(run: Run) -> list[str]:
    """What somebody should look at, one line each."""
    found = []
    invalid = run.condition("SpecValid")
    if invalid is not None and invalid.status == "False":
        found.append(f"{invalid.message or invalid.reason} (SpecValid)")
    for kind in _PROBLEMS:
        condition = run.condition(kind)
        waited_for = condition is not None and condition.message and condition.message in waits_for(run)
        if condition is not None and condition.status == "True" and not waited_for:
            found.append(f"{condition.message or condition.reason or 'no reason was given'} ({kind})")
    return found


def early_note(run: Run) -> str:
    """Why losses that look bad now may be nothing; empty when they do not, and once the run has ended."""
    progress = run.status.progress
    if run.finished or progress is None or not progress.target_tokens:
        return ""
    worse = [item for item in run.status.evaluation if item.delta is not None and item.delta.mean > 0]
    if not worse:
        return ""
    end = gap_end(run, progress.target_tokens)
    if progress.tokens < end:
        return (
            "too early to judge: losses rise after re-warming before they recover (the stability gap). "
            f"Forgetting is judged from {format_tokens(end)} tokens on, the verdict comes at the end."
        )
    if any(item.role == "Retained" for item in worse):
        falls = (run.spec.get("schedule") or {}).get("kind") != "Constant"
        return "not the verdict yet: it is judged at the end" + (", when the learning rate is low." if falls else ".")
    return ""


def gap_end(run: Run, target: int) -> int:
    """Tokens from which on forgetting is watched: the warm-up has ended and a tenth of the plan has passed."""
    warmup = (run.spec.get("schedule") or {}).get("warmup", "1%")
    try:
        warm = parse_length(warmup, target)
    except ValueError:
        warm = 0
    return max(warm, -(-target // _GAP_SHARE))


def attempt_line(attempt: Attempt, now: datetime) -> str:
    """`1  Preempted · steps 1–640 · 2h10m · 4.19M tokens trained again`."""
    parts = [f"{attempt.number}  {attempt.cause or 'running'}"]
    if attempt.last_step is not None and attempt.first_step is not None:
        parts.append(f"steps {attempt.first_step}–{attempt.last_step}")
    if attempt.start_time:
        end = datetime.fromisoformat(attempt.end_time) if attempt.end_time else now
        parts.append(short((end - datetime.fromisoformat(attempt.start_time)).total_seconds()))
    if attempt.tokens_recomputed:
        parts.append(f"{format_tokens(attempt.tokens_recomputed)} tokens trained again")
    return " · ".join(parts)


def plural(count: int, word: str) -> str:
    """`1 failure`, `2 failures`."""
    return f"{count} {word}" + ("" if count == 1 else "s")
