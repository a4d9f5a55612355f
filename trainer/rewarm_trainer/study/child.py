"""One child of a study in a process of its own: a run on this machine, exactly as `rewarm run` does it.

`python -m rewarm_trainer.study.child --document CHILD.json --manifest STUDY.yaml --workdir DIR --parent PID`. Paths in
the document are relative to the study's manifest. Dies with the study.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from rewarm_api.errors import RewarmError
from rewarm_trainer.run import run_local
from rewarm_trainer.signals import die_with


def main(arguments: list[str] | None = None) -> int:
    """The exit code of the run."""
    parser = argparse.ArgumentParser(prog="rewarm_trainer.study.child", description="One run of a study.")
    parser.add_argument("--document", type=Path, required=True)
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--parent", type=int, required=True)
    options = parser.parse_args(arguments)
    die_with(options.parent)
    try:
        return run_local(json.loads(options.document.read_text()), options.manifest, options.workdir)
    except RewarmError as error:
        for line in str(error).splitlines() or [error.cause]:
            print(f"error: {line}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
