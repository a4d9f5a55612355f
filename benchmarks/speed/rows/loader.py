"""Rows per CPU-second of the loader beside those of peers, resume included, and the start at any position."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from rewarm_trainer.batches import AHEAD
from speed import peers
from speed.arm import Arm, ArmError, rounds
from speed.result import Bar, Result, Table
from speed.spread import Spread, ratios

LOADERS = {
    "torchdata nodes": ("Torchdata", peers.TORCHDATA),
    "datasets, map": ("DatasetsMap", peers.DATASETS),
    "datasets, iterable": ("DatasetsIterable", peers.DATASETS),
    "mosaicml-streaming": ("Streaming", peers.STREAMING),
    "litdata": ("Litdata", peers.LITDATA),
}
BOUNDS = {"torchdata nodes": 3.0, "mosaicml-streaming": 60.0}
SPARSE = 10_000_000_000


def lot(length: int, batch: int) -> int:
    """Batches that our loader makes at once. A round of whole lots pays for all that it takes, and for no more."""
    return AHEAD // (length * batch)


def measure(size: str, folder: Path) -> Result:
    small = size == "smoke"
    whole, length, batch, batches = (128, 32, 4, 4) if small else (65_536, 256, 16, 3 * lot(256, 16))
    lines, bars, notes = [], [], []
    versions: dict[str, str] = {}
    for count in (2, 8):
        options = {"sources": count, "rows": whole // count, "length": length, "batch": batch}
        with ExitStack() as stack:
            arms = {"rewarm": stack.enter_context(Arm("speed.arms.loading", "Rewarm", options))}
            for name, (kind, environment) in LOADERS.items():
                peer = peers.find(environment, folder)
                versions |= {k: v for k, v in peer.versions.items() if k != "torch"}
                try:
                    if peer.python is None:
                        raise ArmError(peer.problem)
                    found = Arm("speed.arms.peer_loaders", kind, options, python=peer.python, own=False)
                    arms[name] = stack.enter_context(found)
                    found.ask("read", batches=2)
                except ArmError as error:
                    notes.append(f"{name}, {count} sources: {error}.")
                    arms.pop(name, None)
            arms["rewarm"].ask("read", batches=2)
            answers = rounds(arms, 2 if small else 5, "read", batches=batches)
            again = {}
            for name, arm in list(arms.items()):
                try:
                    again[name] = arm.ask("resume").seconds
                except ArmError as error:
                    notes.append(f"{name}, {count} sources, resume: {error}.")
            sparse = [arms["rewarm"].ask("anywhere", tokens=SPARSE).value for _ in range(5)] if count == 2 else []
        # A thread's clock ticks in steps: rounds shorter than one of them would divide by nothing.
        costs = {name: [max(1e-4, each.cpu_seconds) for each in found] for name, found in answers.items()}
        for name in costs:
            rate = batches * batch / Spread.of(costs[name]).median
            restart = f"{1000 * again[name]:,.1f} ms" if name in again else "fails"
            lines.append((f"{count} sources: {name}", f"{rate:,.0f}", restart))
        for name, bound in BOUNDS.items():
            what = f"{count} sources: rows per CPU-second, rewarm / {name}"
            bars.append(
                Bar.on(what, bound, ratios(costs["rewarm"], costs[name]))
                if name in costs
                else Bar.missing(what, bound, "see the notes")
            )
        for what in ("start", "anywhere") if sparse else ():
            name = {"start": "open and first batch", "anywhere": "a batch in the middle"}[what]
            spread = Spread.of([each[what] for each in sparse])
            bars.append(Bar.on(f"10 billion tokens, sparse: {name}", 0.1, spread, unit="s", at_least=False))
    title = f"Rows of {length} tokens, batches of {batch}, one process; a restart with its first batch"
    table = Table(title, ("", "rows per CPU-second", "restart"), tuple(lines))
    return Result("loader", "Loader", (table,), tuple(bars), tuple(notes), size, versions=versions)
