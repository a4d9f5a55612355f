"""`python -m rewarm_dashboards FOLDER` writes every dashboard as JSON into the folder (`make dashboards`)."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from rewarm_dashboards import fleet, run


def texts() -> dict[str, str]:
    """File name -> JSON of every dashboard."""
    made = {"rewarm-run.json": run.build(), "rewarm-fleet.json": fleet.build()}
    return {name: json.dumps(value, cls=JSONEncoder, indent=1, sort_keys=True) + "\n" for name, value in made.items()}


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts().items():
        (folder / name).write_text(text)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
