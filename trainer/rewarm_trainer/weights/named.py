"""The models that `spec.finish` names beside the run's own: found, brought here and pinned, before training begins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rewarm_api.errors import DataError, ManifestError, RewarmError
from rewarm_api.snapshot import Snapshot
from rewarm_trainer.base import Base, locate_model


def named_models(snapshot: Snapshot) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(field, kind of source, its options) of each."""
    for index, step in enumerate(snapshot.finish):
        path = f"spec.finish[{index}].{step.kind}"
        for number, run in enumerate(step.options.get("runs", ())):
            yield f"{path}.runs[{number}]", "run", run
        for name in ("instruct", "base"):
            if name in step.options:
                ((kind, options),) = step.options[name].items()
                yield f"{path}.{name}", kind, options


def locate_named(
    snapshot: Snapshot, root: Path, cache: Path, pinned: Sequence[Mapping[str, Any]] | None
) -> dict[str, Base]:
    """Each by its field. `pinned`: what an earlier preparation found; the same bytes are expected again (65)."""
    known = {pin["field"]: pin for pin in pinned or ()}
    return {
        field: _locate(field, kind, options, snapshot, root, cache, known.get(field))
        for field, kind, options in named_models(snapshot)
    }


def _locate(
    field: str,
    kind: str,
    options: dict[str, Any],
    snapshot: Snapshot,
    root: Path,
    cache: Path,
    pinned: Mapping[str, Any] | None,
) -> Base:
    try:
        return locate_model(kind, options, root, cache, snapshot, pinned)
    except ManifestError:
        raise
    except RewarmError as error:
        # Messages of these places speak of the field that they usually serve.
        message = str(error).replace("spec.baseModel", field)
        raise type(error)(message if field in message else f"{field}: {message}") from error


def pins_of(located: Mapping[str, Base]) -> tuple[dict[str, Any], ...]:
    """What goes into the pins."""
    return tuple({"field": field, **base.pin} for field, base in located.items())


def folder_of_base(base: Base, field: str) -> Path:
    """Where its weights lie; a model without a folder cannot be merged (65)."""
    if base.folder is None:
        raise DataError(f"{field}: a model from scratch has no weights to merge; name a model that was trained")
    return base.folder
