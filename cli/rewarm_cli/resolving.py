"""`resolution` of `rewarm plan`: what each evaluation set of a manifest can resolve, as far as that is known now.

Known best from the run that is continued (its documents, and how much their losses spread), else from local files that
are quickly read; else assumed from `heldOut`, and said so. Prepares nothing, and a missing file is no error here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rewarm_api.errors import RewarmError
from rewarm_api.pins import Pins
from rewarm_api.snapshot import EvaluationSet, Role, Snapshot, Source
from rewarm_trainer.corpus.readers import Broken, BrokenFile, Fields
from rewarm_trainer.corpus.selection import BYTES_PER_TOKEN, Rule
from rewarm_trainer.resolution import ASSUMED, POWER, Documents, Spread, resolution
from rewarm_trainer.statistics import CONFIDENCE

READABLE_BYTES = 64_000_000
EQUAL_DOCUMENTS = "of equal length"


@dataclass(frozen=True)
class Earlier:
    """A set of the run that is continued."""

    role: Role
    text: tuple[Any, ...]
    documents: Documents
    spread: Spread


def resolutions(snapshot: Snapshot, pins: Pins | None, root: Path) -> dict[str, Any]:
    """`{"confidence", "power", "sets": {NAME: ...}}`, sets of the run that is continued included."""
    earlier = dict(_earlier(snapshot, root))
    sets: dict[str, Any] = {}
    for chosen in snapshot.evaluation.sets:
        known = earlier.pop(chosen.name, None)
        if known and known.text == _text(chosen, snapshot, root):
            sets[chosen.name] = _facts(chosen.role, known.documents, known.spread, inherited=False)
            continue
        documents = _pinned(chosen, pins) or _counted(chosen, snapshot, root) or _assumed(chosen, snapshot)
        sets[chosen.name] = _facts(chosen.role, documents, ASSUMED, inherited=False)
    for name, known in earlier.items():
        if name not in sets:
            sets[name] = _facts(Role.RETAINED, known.documents, known.spread, inherited=True)
    return {"confidence": CONFIDENCE, "power": POWER, "sets": sets}


def rows(facts: dict[str, Any]) -> list[tuple[str, ...]]:
    """A line for each set: name, role, documents, reach and detectable change, nats per token."""
    return [
        (
            name,
            item["role"] + (", inherited" if item["inherited"] else ""),
            f"{item['documents']:,}" if item["verdict"] else f"{item['documents']:,} (no verdict)",
            "" if item["reach"] is None else f"{item['reach']:.3f}",
            "" if item["detectable"] is None else f"{item['detectable']:.3f}",
        )
        for name, item in facts["sets"].items()
    ]


def footnotes(facts: dict[str, Any]) -> list[str]:
    """Where the numbers of each set are known from."""
    return [
        f"{name}: documents {item['documents_from']}; spread of their changes {item['spread']:.3f}, "
        f"{item['spread_from']}"
        for name, item in facts["sets"].items()
    ]


def _facts(role: Role, documents: Documents, spread: Spread, *, inherited: bool) -> dict[str, Any]:
    return {"role": str(role), "inherited": inherited, **resolution(documents, spread)}


def _earlier(snapshot: Snapshot, root: Path) -> Iterator[tuple[str, Earlier]]:
    """The sets that the run to be continued has scored, where its folder is on this machine."""
    path = snapshot.base_model.options.get("path") if snapshot.base_model.kind == "run" else None
    if not path:
        return
    from rewarm_trainer.checkpoint import manifest_root
    from rewarm_trainer.workdir import WorkFolder, read_snapshot

    work = WorkFolder(root / str(path))
    try:
        former, pins = read_snapshot(work), Pins.model_validate_json(work.pins.read_text())
        for chosen in pins.evaluation_sets(former):
            baseline = json.loads((work.state / "baseline" / f"{chosen.name}.json").read_text())
            where = f"run {former.name}"
            spread, final = ASSUMED, work.state / "final" / f"{chosen.name}.json"
            if final.exists():
                after = json.loads(final.read_text())["nats"]
                change = [second - first for first, second in zip(baseline["nats"], after, strict=True)]
                spread = Spread.measured(change, baseline["labels"], f"measured by {where}")
            documents = Documents.of(baseline["labels"], where)
            yield chosen.name, Earlier(chosen.role, _text(chosen, former, manifest_root(work)), documents, spread)
    except (OSError, ValueError, KeyError, RewarmError):
        # Not there yet, or not as it should be: the run itself will say so. Planning goes on with what is known.
        return


def _text(chosen: EvaluationSet, snapshot: Snapshot, root: Path) -> tuple[Any, ...]:
    """What decides which documents a set has, as far as a manifest tells."""
    source = _source(chosen, snapshot)
    if source is None:
        uri = chosen.uri or ""
        return (str(root / uri) if "://" not in uri else uri, chosen.text_field)
    uri = source.uri
    held_out = snapshot.evaluation.held_out
    return (str(root / uri) if "://" not in uri else uri, source.text_field, source.group_field, held_out)


def _source(chosen: EvaluationSet, snapshot: Snapshot) -> Source | None:
    """The source that a set is held out of; None for one with a text of its own."""
    if chosen.uri is not None:
        return None
    return next((source for source in snapshot.sources if source.name == chosen.name), None)


def _pinned(chosen: EvaluationSet, pins: Pins | None) -> Documents | None:
    """Where the plan needed the corpora prepared, the sets are counted too."""
    if pins is None or chosen.name not in pins.sets:
        return None
    count = pins.sets[chosen.name].documents
    return Documents(count, count, f"counted, as if {EQUAL_DOCUMENTS}")


def _counted(chosen: EvaluationSet, snapshot: Snapshot, root: Path) -> Documents | None:
    """From local files, where there is little enough to read; duplicates are not looked for."""
    source = _source(chosen, snapshot)
    fields = Fields(source.text_field if source else chosen.text_field)
    given = source or chosen
    sizes = _sizes(given.uri or "", given.format, fields, root)
    if not sizes:
        return None
    if source is None:
        return Documents.of(sizes, "counted in its files")
    rule = Rule.of(snapshot.evaluation.held_out)
    count = rule.documents(len(sizes))
    mean = max(1.0, sum(sizes) / len(sizes) / BYTES_PER_TOKEN)
    count = min(count, max(rule.minimum_documents, int(rule.maximum_tokens / mean)))
    return Documents.of(sizes, f"held out of {len(sizes)} documents counted in its files", count)


def _sizes(uri: str, asked: Any, fields: Fields, root: Path) -> list[int]:
    """UTF-8 lengths of the documents of small local files; empty where they are not that, or not there."""
    from rewarm_trainer.corpus.fetch import documents_of
    from rewarm_trainer.corpus.inputs import expand, with_formats

    if "://" in uri and not uri.startswith("file://"):
        return []
    try:
        files = with_formats(expand(uri, root), asked)
        if any(file.local is None for file in files) or sum(file.size for file in files) > READABLE_BYTES:
            return []
        found = (entry for file in files for entry in documents_of(file, fields, root, lambda amount: None))
        return [len(entry.text.encode()) for entry in found if not isinstance(entry, Broken)]
    except (OSError, RewarmError, BrokenFile):
        return []


def _assumed(chosen: EvaluationSet, snapshot: Snapshot) -> Documents:
    """Nothing can be read: what `heldOut` takes from any source that is large enough."""
    smallest = snapshot.evaluation.held_out.minimum_documents
    words = f"assumed: heldOut.minimumDocuments, {EQUAL_DOCUMENTS}; its text was not read"
    if chosen.uri is not None:
        words = f"assumed: as many as heldOut.minimumDocuments, {EQUAL_DOCUMENTS}; its text was not read"
    return Documents(smallest, smallest, words)
