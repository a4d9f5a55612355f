"""`rewarm export`: a verified checkpoint as a folder that `AutoModelForCausalLM.from_pretrained` loads."""

from __future__ import annotations

from pathlib import Path

from rewarm_api.errors import MissingInputError


def execute(folder: Path, checkpoint: str | None, out: Path) -> int:
    """0. Raises MissingInputError (66) without such a run or checkpoint, DataError (65) when a digest is wrong."""
    if not folder.is_dir():
        raise MissingInputError(f"{folder}: no such folder; name the work folder of a run")
    from rewarm_trainer.export import export

    export(folder, checkpoint, out)
    print(out)
    return 0
