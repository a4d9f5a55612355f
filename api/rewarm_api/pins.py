"""The pins: what only the data can tell. Made once by preparation, never again."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from rewarm_api.frozen import Frozen, added, digest_of
from rewarm_api.snapshot import EvaluationSet, Plan, Role, Snapshot


class SourcePin(Frozen):
    """What preparation found in one source."""

    digest: str = Field(description="sha256 over sorted (relative path, sha256 of file)")
    prepared: str = Field(description="content address of its token shards in the cache")
    documents: int = Field(description="training documents, after deduplication and hold-out")
    duplicates: int
    held_out_documents: int
    bad_lines: int
    tokens: int
    rows: int
    dropped_tokens: int
    weight: float = Field(description="as asked, or the training rows")
    repeats: float = Field(description="epochs of this source that the plan needs")
    scores: dict[str, str] = added({}, "content address of its documents' scores, by column")
    left_out: int = added(0, "documents that the source's subset left out")


class Inherited(Frozen):
    """Where a set comes from that an earlier stage of the chain introduced."""

    run: str = Field(description="name of the run that introduced it")
    uid: str
    name: str = Field(description="its name there")


class SetPin(Frozen):
    digest: str = Field(description="sha256 over the documents' hashes, in order")
    prepared: str
    documents: int
    tokens: int
    inherited: Inherited | None = added(None, "the earlier stage whose set this is; scored here with the role Retained")


class Pins(Frozen):
    """What only the data can tell. Made once by preparation, never again."""

    version: int = 1
    base_model: dict[str, Any] = Field(description="what a name, branch, alias or `Latest` stood for")
    tokenizer: str = Field(description="fingerprint")
    eos: int
    bos: int | None
    vocabulary: int
    sources: dict[str, SourcePin]
    sets: dict[str, SetPin]
    plan: Plan
    teacher: dict[str, Any] | None = added(None, "what the teacher of spec.mixture stood for")
    finish: tuple[dict[str, Any], ...] = added((), "the models that finish names: field, and what its name stood for")

    @property
    def digest(self) -> str:
        return digest_of(self.to_json())

    def evaluation_sets(self, snapshot: Snapshot) -> tuple[EvaluationSet, ...]:
        """Every set that the run scores: those of its own, then those of earlier stages."""
        inherited = (
            EvaluationSet(
                name=name, role=Role.RETAINED, uri=None, format=None, text_field="", label_field="", date_field=""
            )
            for name, pin in self.sets.items()
            if pin.inherited
        )
        return (*snapshot.evaluation.sets, *inherited)
