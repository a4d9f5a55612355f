"""From the folders of finished runs to the skill graph that they teach: `python -m rewarm_trainer.skills FOLDER...`.

The runs come from `python -m rewarm_api.skills FILE`; what counts as help says `controllers/learned_graph.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rewarm_api.errors import MissingInputError, RewarmError
from rewarm_trainer.controllers.learned_graph import Help, Trained, helps_of, lines, trained_on


def learn(folders: Sequence[Path]) -> list[Help]:
    """The helps between the sources of finished learning runs. MissingInputError (66) where a run is missing."""
    from rewarm_trainer.compare import compare
    from rewarm_trainer.workdir import WorkFolder, read_snapshot

    runs: dict[Trained, Path] = {}
    for folder in folders:
        if not WorkFolder(folder).snapshot.exists():
            raise MissingInputError(f"{folder}: not a run (no snapshot.json); give the work folders of finished runs")
        runs[trained_on(read_snapshot(WorkFolder(folder)))] = folder
    helps = helps_of(runs, compare)
    if not helps:
        raise MissingInputError("no pair of sources has its runs: give those of each source alone and of two together")
    return helps


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what was learned; an exit code."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if not given:
        print("usage: python -m rewarm_trainer.skills FOLDER...", file=sys.stderr)
        return 64
    try:
        helps = learn([Path(each) for each in given])
    except RewarmError as error:
        print(f"rewarm: {error}", file=sys.stderr)
        return error.exit_code
    print("\n".join(lines(helps)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
