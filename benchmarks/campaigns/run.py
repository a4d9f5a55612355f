"""Fault campaigns against the real product: one table.

    python benchmarks/campaigns/run.py [NAME ...] [--count N] [--workdir DIR] [--dry]
    make campaign NAME=kill

Without a name: all of them. Writes docs/reliability.md, the section of each campaign when it has ended, and ends with 1
when anything was lost, doubled or not survived, or a campaign could not run here. --dry writes nothing.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import importlib.metadata
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / part) for part in ("benchmarks", "tests/support", "tools/cluster")]

from campaigns import tally as tallies  # noqa: E402
from campaigns.world import make_world  # noqa: E402
from rewarm_bench.pages import replace_in  # noqa: E402

CAMPAIGNS = {"kill": "campaigns.kill", "storage": "campaigns.storage"}
CAMPAIGNS |= {name: f"campaigns.{name}" for name in ("preemption", "tracking", "divergence")}
# Not operator.py: beside run.py that would hide Python's own module of this name.
CAMPAIGNS |= {"operator": "campaigns.operator_faults"}
PAGE = ROOT / "docs" / "reliability.md"


def machine() -> str:
    """What it ran on, and the versions that matter."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "mlflow", "boto3"))
    return f"{os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}, {versions}"


def run(name: str, root: Path, count: int | None) -> tallies.Tally:
    module = importlib.import_module(CAMPAIGNS[name])
    began = time.monotonic()
    tally: tallies.Tally = module.campaign(make_world(root / name), **({"count": count} if count else {}))
    tally.seconds = time.monotonic() - began
    return tally


def write(name: str, tally: tallies.Tally, count: int | None) -> None:
    command = f"make campaign NAME={name}{f' COUNT={count}' if count else ''}"
    text = tallies.section(tally, command, machine(), datetime.date.today().isoformat())
    replace_in(PAGE, f"<!-- campaigns:{name} writes from here -->", f"<!-- campaigns:{name} to here -->", text)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(CAMPAIGNS)}; default: all")
    parser.add_argument("--count", type=int, help="about how many faults; default: each campaign's own")
    parser.add_argument("--workdir", type=Path, help="where runs go; default: a folder that is removed at the end")
    parser.add_argument("--dry", action="store_true", help="write no page")
    given = parser.parse_args()
    if unknown := [name for name in given.names if name not in CAMPAIGNS]:
        parser.error(f"no campaign {', '.join(unknown)}; there are {', '.join(CAMPAIGNS)}")
    found, left_out = [], []
    with tempfile.TemporaryDirectory(prefix="rewarm-campaign-", dir=given.workdir) as folder:
        for name in given.names or CAMPAIGNS:
            try:
                tally = run(name, Path(folder), given.count)
            except tallies.CannotRun as error:
                left_out.append(name)
                print(f"{name}: left out, {error}", file=sys.stderr)
                continue
            found.append(tally)
            if not given.dry:
                write(name, tally, given.count)
            for problem in tally.problems:
                print(f"{name}: {problem}", file=sys.stderr)
            print(f"{tally.campaign}: {tallies.kinds(tally.by_kind)}", file=sys.stderr, flush=True)
    print(tallies.summary(found))
    return 0 if all(tally.is_clean for tally in found) and not left_out else 1


if __name__ == "__main__":
    sys.exit(main())
