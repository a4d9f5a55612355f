"""One look at one object of ours, a run or a study: the status it should have, and what should be done. Pure.

What both have in common: conditions, Events, objects to be made. `visit.py` and `study_visit.py` add the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal, Protocol

from rewarm_operator import attempts, conditions
from rewarm_operator.actions import Action, Create, Emit, ListPods
from rewarm_operator.observed import Object
from rewarm_operator.settings import Settings

Json = dict[str, Any]


class Seen(Protocol):
    """What `Observed` and `ObservedStudy` have in common."""

    @property
    def now(self) -> datetime: ...

    @property
    def pods(self) -> tuple[Object, ...]: ...

    @property
    def listed(self) -> Mapping[str, datetime]: ...

    @property
    def collisions(self) -> tuple[str, ...]: ...

    @property
    def refused(self) -> Mapping[str, str]: ...


def copied(value: Any) -> Any:
    """A deep copy of JSON; `copy.deepcopy` took a quarter of a visit's time."""
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    return [copied(item) for item in value] if isinstance(value, list) else value


class Look:
    """Made anew for each decision about `owner`."""

    noun = "run"

    def __init__(self, owner: Object, seen: Seen, settings: Settings) -> None:
        self.owner, self.seen, self.settings = owner, seen, settings
        metadata = owner["metadata"]
        self.name, self.namespace, self.uid = str(metadata["name"]), str(metadata["namespace"]), str(metadata["uid"])
        self.generation = int(metadata.get("generation") or 1)
        self.stored: Json = dict(owner.get("status") or {})
        self.status: Json = copied(self.stored)
        self.said: dict[str, conditions.Fact] = {}
        self.deletes: list[Action] = []
        self.after: list[Action] = []
        self.events: list[Emit] = []
        self.look_again: float | None = None

    # -- what is read --------------------------------------------------------------------------------------------------

    @property
    def now(self) -> datetime:
        return self.seen.now

    @property
    def spec(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.owner.get("spec") or {}
        return found

    def stored_condition(self, kind: str) -> Mapping[str, Any]:
        return conditions.find(self.stored, kind)

    def is_true(self, kind: str) -> bool:
        """Whether the status says so already, or will after this look."""
        fact = self.said.get(kind)
        return fact.status == "True" if fact else self.stored_condition(kind).get("status") == "True"

    def end_of(self, job: Object, *, finished_by_record: bool = False) -> attempts.End | None:
        """How a Job of ours ended; None while it goes on, or while what its pods said last is asked for."""
        uid = str(job["metadata"]["uid"])
        judged = attempts.judge(
            job,
            self.seen.pods,
            self.now,
            margin=self.settings.stuck_margin_seconds,
            listed=self.seen.listed.get(uid),
            finished_by_record=finished_by_record,
        )
        self.wake(judged.look_again)
        if judged.asks_for_pods:
            self.after.append(ListPods(uid))
        return judged.end

    # -- what is written -----------------------------------------------------------------------------------------------

    def say(self, kind: str, status: Literal["True", "False", "Unknown"], reason: str, message: str = "") -> None:
        """A condition; the last word of a look stands."""
        self.said[kind] = conditions.Fact(status, reason, message)

    def emit(self, type_: Literal["Normal", "Warning"], reason: str, message: str) -> None:
        """An Event; it goes out with the status that tells the same, so once per transition."""
        self.events.append(Emit(type_, reason, message))

    def create(self, body: Json) -> None:
        """Ask for an object. If its name is taken, or it is refused, the status says so and it is asked for again."""
        name = f"{body['kind']}/{body['metadata']['name']}"
        if name in self.seen.collisions:
            mend = f"delete or rename it, or give the {self.noun} another name"
            self.say("Degraded", "True", "NameCollision", f"{name} exists and belongs to something else; {mend}")
            self.say("Stalled", "True", "NameCollision", f"{name} exists and belongs to something else; {mend}")
        elif name in self.seen.refused:
            self.say("Stalled", "True", "CreateRefused", f"{name} is refused: {self.seen.refused[name]}")
        self.after.append(Create(body))

    @property
    def is_refused(self) -> bool:
        """Whether an object that is needed could not be made when it was asked for last."""
        return bool(self.seen.collisions or self.seen.refused)

    def wake(self, seconds: float | None) -> None:
        """Look again after this many seconds, or sooner."""
        if seconds is not None:
            self.look_again = seconds if self.look_again is None else min(self.look_again, seconds)

    def objects_only(self) -> tuple[Action, ...]:
        """What is to be done beside the status: Jobs go before others come."""
        return (*self.deletes, *self.after)

    def tell_stalls(self) -> None:
        """An Event when it starts to need help, and names what it needs."""
        fact, before = self.said.get("Stalled"), self.stored_condition("Stalled")
        told = {event.reason for event in self.events}
        if fact is not None and fact.status == "True" and fact.reason not in (before.get("reason"), *told):
            self.emit("Warning", fact.reason, fact.message)
