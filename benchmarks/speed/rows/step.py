"""Training steps: the product beside packaged trainers and a bare loop, at equal precision; then all at defaults."""

from __future__ import annotations

import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rewarm_trainer import machine, techniques
from speed import flops, peers
from speed.arm import Arm, ArmError, cpu, rounds, seconds
from speed.result import Bar, Result, Table
from speed.spread import Spread, fastest, ratios

SMALL = {"hidden": 384, "layers": 6, "vocabulary": 4096}
LARGE = {"hidden": 512, "layers": 10, "vocabulary": 16384}
TINY = {"hidden": 64, "layers": 2, "vocabulary": 512}
PACKAGED = ("Trainer", "Trainer compiled", "litgpt")
"""Peers of the bar; OLMo-core stands beside them: its model runs here, its trainer does not."""

Case = tuple[dict[str, int], int, int, bool]


def cases(size: str) -> list[Case]:
    """(sizes, length, rows, bf16) of one size of the bench."""
    if size == "smoke":
        return [(TINY, 32, 2, True)]
    every = [
        (model, length, 2048 // length, bf16)
        for model in (SMALL, LARGE)
        for length in (256, 1024)
        for bf16 in (True, False)
    ]
    return every if size == "full" else every[:2]


def arms_of(work: dict[str, int], bf16: bool, folder: Path, stack: ExitStack) -> tuple[dict[str, Arm], list[str]]:
    """Every arm that starts, and a note for every one that does not."""
    here = "speed.arms.training"
    shared = {"work": work, "bf16": bf16}
    wanted: dict[str, tuple[str, str, dict[str, Any], peers.Environment | None]] = {
        "rewarm": (here, "Rewarm", {**shared, "compiled": True}, None),
        "bare loop": (here, "Bare", {**shared, "compiled": True}, None),
        "Trainer": (here, "HuggingFace", {**shared, "compiled": False}, None),
        "Trainer compiled": (here, "HuggingFace", {**shared, "compiled": True}, None),
        "litgpt": ("speed.arms.peers", "LitGPT", {**shared, "compiled": True}, peers.LITGPT),
        "OLMo-core's model": ("speed.arms.peers", "Olmo", {**shared, "compiled": True}, peers.OLMO),
    }
    arms, notes = {}, []
    for name, (module, kind, options, environment) in wanted.items():
        own = name in ("rewarm", "bare loop")
        try:
            if environment is None:
                arms[name] = stack.enter_context(Arm(module, kind, options, own=True, spinning=not own))
                continue
            peer = peers.find(environment, folder)
            if peer.python is None:
                notes.append(f"{name}: {peer.problem}.")
                continue
            arms[name] = stack.enter_context(Arm(module, kind, options, python=peer.python, own=False, spinning=True))
        except ArmError as error:
            notes.append(f"{name}: {error}.")
    return arms, notes


def measure_case(case: Case, size: str, folder: Path) -> tuple[tuple[str, ...], list[Bar], list[str]]:
    """One line of the table and its bars."""
    model, length, count, bf16 = case
    work = {**model, "length": length, "rows": count}
    with ExitStack() as stack:
        arms, notes = arms_of(work, bf16, folder, stack)
        for name, arm in list(arms.items()):
            try:
                arm.ask("run", steps=2 if size == "smoke" else 3)
            except ArmError as error:
                notes.append(f"{name}: {error}.")
                del arms[name]
        parameters = arms["rewarm"].facts["parameters"]
        for name, arm in arms.items():
            own = arm.facts.get("parameters", parameters)
            if abs(own / parameters - 1) > 0.001:
                notes.append(f"{name} has {own:,} parameters, rewarm's model {parameters:,}.")
        few = {"smoke": (2, 1), "standard": (5, 2), "full": (7, 3)}[size]
        answers = rounds(arms, few[0], "run", first={"steps": 1}, steps=few[1])
    with Arm("speed.arms.ceiling", "Matmul", {"bf16": bf16}) as product:
        ceiling = float(product.ask("measure", size=128 if size == "smoke" else 2048).value)
    label = f"{parameters / 1e6:.1f}M, T = {length:,}, {'bf16' if bf16 else 'fp32'}"
    times = {name: seconds(each) for name, each in answers.items()}
    tokens = length * count * few[1]
    rates = [f"{tokens / Spread.of(times[name]).median:,.0f}" if name in times else "" for name in COLUMNS]
    mine = times["rewarm"]
    packaged = {name: times[name] for name in PACKAGED if name in times}
    best = fastest(packaged)
    bars = [
        Bar.on(f"{label}: rewarm / fastest packaged peer ({best})", 1.1, ratios(mine, packaged[best])),
        Bar.on(f"{label}: rewarm / Trainer", 1.3, ratios(mine, times["Trainer"])),
        Bar.on(f"{label}: rewarm / bare loop with the same techniques", 0.97, ratios(mine, times["bare loop"])),
    ]
    spent = tokens / Spread.of(cpu(answers["rewarm"])).median
    operations = flops.per_token(parameters, model["layers"], model["hidden"], length)
    used = flops.utilisation(tokens / Spread.of(mine).median, operations, ceiling)
    return (label, *rates, f"{spent:,.0f}", f"{ceiling / 1e9:,.0f}", f"{used:.0%}"), bars, notes


NO_BF16 = "this processor does not compute in BF16, so the product takes FP32 on it"


def worth_measuring(case: Case, found: techniques.Machine) -> bool:
    """BF16 on a processor that has to imitate it is nobody's choice; a rehearsal goes through it all the same."""
    return found.native_bf16 or not case[3] or case[0] == TINY


COLUMNS = ("rewarm", "bare loop", "Trainer", "Trainer compiled", "litgpt", "OLMo-core's model")


def measure(size: str, folder: Path) -> Result:
    lines, bars, notes = [], [], []
    here = [case for case in cases(size) if worth_measuring(case, machine.find())]
    for case in here:
        line, own, said = measure_case(case, size, folder)
        lines.append(line)
        bars += own
        notes += [f"{line[0]}: {note}" for note in said]
    bars += [
        Bar.missing(
            f"{case[0]['hidden']} wide, T = {case[1]:,}, {'bf16' if case[3] else 'fp32'}: the same three",
            1.1,
            "in the time of `make bench`; `make bench NAME=step SIZE=full`" if case not in cases(size) else NO_BF16,
        )
        for case in cases("full" if size == "standard" else size)
        if case not in here
    ]
    titan = peers.find(peers.TORCHTITAN, folder)
    versions = {k: v for each in (peers.LITGPT, peers.OLMO) for k, v in peers.find(each, folder).versions.items()}
    versions.pop("torch", None)
    notes.append(f"torchtitan: {titan.problem or 'installs, but has no arm here'}.")
    table = Table(
        "Tokens per second at equal precision",
        ("", *COLUMNS, "rewarm, by CPU-second", "one large product, Gflop/s", "rewarm, of it"),
        tuple(lines),
    )
    unique = tuple(dict.fromkeys(notes))
    return Result("step", "Training step", (table,), tuple(bars), unique, size, versions=versions)


def defaults(size: str, folder: Path) -> Result:
    """Both at their own defaults from an empty compilation cache, start and compilation included.

    Steps of 256 tokens, which cost the optimizer as much as the model; at full size of 2,048 (half an hour).
    """
    model, length, count = (TINY, 32, 1) if size == "smoke" else (SMALL, 256, 8 if size == "full" else 1)
    steps = 4 if size == "smoke" else 1000
    work = {**model, "length": length, "rows": count}
    spent: dict[str, float] = {}
    own = machine.find().native_bf16
    for name, kind, bf16, compiled in (("rewarm", "Rewarm", own, True), ("Trainer", "HuggingFace", False, False)):
        with tempfile.TemporaryDirectory() as cache:
            began = time.perf_counter()
            options = {"work": work, "bf16": bf16, "compiled": compiled}
            environment = {"TORCHINDUCTOR_CACHE_DIR": cache}
            with Arm("speed.arms.training", kind, options, spinning=name == "Trainer", environment=environment) as arm:
                arm.ask("run", steps=steps)
            spent[name] = time.perf_counter() - began
    lines = tuple((name, f"{value:,.0f}") for name, value in spent.items())
    table = Table(f"{steps:,} steps of {length * count} tokens", ("", "seconds"), lines)
    ratio = Spread.of([spent["Trainer"] / spent["rewarm"]])
    bar = Bar.on(f"{steps:,} steps at each one's defaults, compilation included: rewarm / Trainer", 2.5, ratio)
    taken = "BF16 compute, which this processor has" if own else "FP32, since this processor has no BF16"
    note = f"rewarm's defaults: {taken}; compiled blocks. The Trainer's: FP32, eager."
    return Result("defaults", "At their defaults", (table,), (bar,), (note,), size)
