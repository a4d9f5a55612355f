"""What the client answers: typed, read leniently. An operator that is newer than this client may say more.

Pure. Machines read conditions; nothing here guesses from `summary`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from rewarm_api.status import Condition, RunStatus

PROMOTE = "rewarm.dev/promote"
"""Annotation that asks the operator for a promotion; it is there until the operator has answered."""
Truth = Literal["True", "False", "Unknown"]


class Run(BaseModel):
    """A ContinualRun as it stands now."""

    model_config = ConfigDict(frozen=True)

    name: str
    """metadata.name"""
    namespace: str
    """Empty for a run on this machine."""
    uid: str
    """Of this run, never used again."""
    created: str = ""
    """When it was submitted, RFC 3339."""
    deleting: bool = False
    """Deletion was asked for and is not finished."""
    annotations: dict[str, str] = {}
    """As on the object."""
    spec: dict[str, Any] = {}
    """As submitted: defaults are in the snapshot, not here."""
    status: RunStatus = RunStatus()
    """As observed."""
    object: dict[str, Any] = {}
    """The whole object as the API server has it, without managedFields."""
    action: str = ""
    """What submitting did: created, configured or unchanged."""

    def condition(self, kind: str) -> Condition | None:
        """The condition of this type, or None when nobody has looked yet."""
        return next((item for item in self.status.conditions if item.type == kind), None)

    def truth(self, kind: str) -> Truth:
        """`True`, `False`, or `Unknown` also when there is no such condition."""
        found = self.condition(kind)
        return "Unknown" if found is None else found.status

    @property
    def finished(self) -> bool:
        """Trained and judged, or ended without a verdict: `Succeeded` never changes again."""
        return self.truth("Succeeded") != "Unknown"

    @property
    def succeeded(self) -> bool:
        """Trained and judged, whatever the gates say."""
        return self.truth("Succeeded") == "True"

    @property
    def suspended(self) -> bool:
        """Asked for; the condition Suspended says whether it is done."""
        return self.spec.get("suspend") is True

    @property
    def summary(self) -> str:
        """One word for eyes."""
        return self.status.summary or ("Deleting" if self.deleting else "Pending")

    @property
    def registered_model(self) -> str:
        """Name of the model in the registry."""
        return str((self.spec.get("tracking") or {}).get("registeredModel") or self.name)


class RunEvent(BaseModel):
    """Something that happened to a run, or to one of its Jobs or pods."""

    model_config = ConfigDict(frozen=True)

    time: str
    """When it last happened, RFC 3339."""
    type: str
    """Normal or Warning."""
    reason: str
    """In one word."""
    message: str
    """In a sentence."""
    about: str
    """`ContinualRun/llama`, `Pod/llama-a1-0-x7f2k`."""
    count: int = 1
    """How often."""
    uid: str = ""
    """Of the Event; the same one again counts on."""


class LogLine(BaseModel):
    """One line that a pod wrote."""

    model_config = ConfigDict(frozen=True)

    time: str
    """When it was written, RFC 3339."""
    role: str
    """trainer or prepare."""
    attempt: int | None
    """From 1; None for preparation."""
    rank: int
    """Of the node."""
    text: str
    """Without its line end."""
    missed: bool = False
    """`text` says why this pod's log could not be read (any further): its node is gone, its container was removed."""

    @property
    def prefix(self) -> str:
        """`a2/0`: attempt 2, node 0."""
        if self.role == "trainer":
            return f"a{self.attempt}/{self.rank}"
        return self.role if self.attempt is None else f"{self.role}{self.attempt}/{self.rank}"


def run_of(document: Mapping[str, Any]) -> Run:
    """A Run from an object of the API server."""
    metadata = {key: value for key, value in document["metadata"].items() if key != "managedFields"}
    return Run(
        name=metadata["name"],
        namespace=metadata.get("namespace", ""),
        uid=metadata.get("uid", ""),
        created=metadata.get("creationTimestamp", ""),
        deleting="deletionTimestamp" in metadata,
        annotations=metadata.get("annotations") or {},
        spec=document.get("spec") or {},
        status=status_of(document.get("status") or {}),
        object={**document, "metadata": metadata},
    )


def status_of(document: Mapping[str, Any]) -> RunStatus:
    """A RunStatus without what this version cannot read: unknown fields, and values of a later form."""
    remaining: Any = _copied(dict(document))
    while True:
        try:
            return RunStatus.model_validate(remaining)
        except ValidationError as error:
            # One at a time: taking an item out of a list moves those after it.
            _remove(remaining, error.errors(include_url=False, include_input=False)[0]["loc"])


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value


def _remove(document: dict[str, Any], location: tuple[int | str, ...]) -> None:
    """Take away what stands at `location`; a required field that is missing takes its parent along."""
    place: Any = document
    holder, key = place, location[0]
    for step in location:
        if not isinstance(place, (dict, list)) or (isinstance(place, dict) and step not in place):
            break
        holder, key = place, step
        place = place[step]  # type: ignore[index]
    holder.pop(key)
