"""Training steps: the product beside packaged trainers and a bare loop, at equal precision; then all at defaults."""

from __future__ import annotations

import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rewarm_trainer import machine, techniques
from speed import flops, peers
from speed.arm import TAKEN, Arm, ArmError, rounds, seconds, taken
from speed.ceiling import large_product
from speed.profiling import SPENT, most, spent_line
from speed.result import Bar, Result, Table
from speed.spread import Spread, fastest, ratios
from speed.work import Work

SMALL = {"hidden": 384, "layers": 6, "vocabulary": 4096}
LARGE = {"hidden": 512, "layers": 10, "vocabulary": 16384}
TINY = {"hidden": 64, "layers": 2, "vocabulary": 512}
TOGETHER = "rewarm, documents together"
"""As litgpt and OLMo-core take rows: no document of a row is kept from its neighbours. The product keeps them apart."""
PROFILED = ("rewarm", TOGETHER, "litgpt")
"""The Trainer takes its steps in a thread that a profiler of the asking one does not see."""
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
        TOGETHER: (here, "Rewarm", {**shared, "compiled": True, "masking": False}, None),
        "bare loop": (here, "Bare", {**shared, "compiled": True}, None),
        "Trainer": (here, "HuggingFace", {**shared, "compiled": False}, None),
        "Trainer compiled": (here, "HuggingFace", {**shared, "compiled": True}, None),
        "litgpt": ("speed.arms.peers", "LitGPT", {**shared, "compiled": True}, peers.LITGPT),
        "OLMo-core's model": ("speed.arms.peers", "Olmo", {**shared, "compiled": True}, peers.OLMO),
    }
    arms, notes = {}, []
    for name, (module, kind, options, environment) in wanted.items():
        own = name in ("rewarm", TOGETHER, "bare loop")
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


@dataclass(frozen=True)
class Measured:
    """One case: its line of the table, bars, notes, what a step takes of each, and lines of where its time goes."""

    line: tuple[str, ...]
    bars: list[Bar]
    notes: list[str]
    taken: list[tuple[str, ...]]
    profile: list[tuple[str, ...]]


def profile_of(arms: dict[str, Arm], steps: int) -> dict[str, dict[str, float]]:
    """Milliseconds of some steps in each group of operations, arm by arm."""
    return {name: arms[name].ask("profile", steps=steps).value for name in PROFILED if name in arms}


def measure_case(case: Case, size: str, folder: Path) -> Measured:
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
        label = f"{parameters / 1e6:.1f}M, T = {length:,}, {'bf16' if bf16 else 'fp32'}"
        profile = profile_of(arms, few[1])
    ceiling = large_product(bf16=bf16, small=size == "smoke")
    times = {name: seconds(each) for name, each in answers.items()}
    tokens = length * count * few[1]
    rates = [f"{tokens / Spread.of(times[name]).median:,.0f}" if name in times else "" for name in COLUMNS]
    mine = times["rewarm"]
    packaged = {name: times[name] for name in PACKAGED if name in times}
    best = fastest(packaged)
    bars = [
        Bar.on(f"{label}: rewarm / fastest packaged peer ({best})", 1.1, ratios(mine, packaged[best])),
        Bar.on(f"{label}: {TOGETHER} / fastest packaged peer ({best})", 1.1, ratios(times[TOGETHER], packaged[best])),
        Bar.on(f"{label}: rewarm / Trainer", 1.3, ratios(mine, times["Trainer"])),
        Bar.on(f"{label}: rewarm / bare loop with the same techniques", 0.97, ratios(mine, times["bare loop"])),
    ]
    beside = {name: ratios(mine, times[name]).median for name in (best, "Trainer")}
    notes.append(f"of rewarm's step {most(profile['rewarm'], beside)}")
    operations = flops.per_token(parameters, model["layers"], model["hidden"], length)
    used = flops.utilisation(tokens / Spread.of(mine).median, operations, ceiling)
    line = (label, *rates, f"{ceiling / 1e9:,.0f}", f"{used:.0%}")
    spent = [(label, name, *spent_line(each, few[1])) for name, each in profile.items()]
    return Measured(line, bars, notes, taken(label, answers, few[1]), spent)


NO_BF16 = "this processor does not compute in BF16, so the product takes FP32 on it"


def worth_measuring(case: Case, found: techniques.Machine) -> bool:
    """BF16 on a processor that has to imitate it is nobody's choice; a rehearsal goes through it all the same."""
    return found.native_bf16 or not case[3] or case[0] == TINY


COLUMNS = ("rewarm", TOGETHER, "bare loop", "Trainer", "Trainer compiled", "litgpt", "OLMo-core's model")


def measure(size: str, folder: Path) -> Result:
    lines, bars, notes, costs, profile = [], [], [], [], []
    here = [case for case in cases(size) if worth_measuring(case, machine.find())]
    for case in here:
        found = measure_case(case, size, folder)
        lines.append(found.line)
        bars += found.bars
        costs += found.taken
        profile += found.profile
        notes += [f"{found.line[0]}: {note}" for note in found.notes]
    bars += [
        Bar.missing(
            f"{case[0]['hidden']} wide, T = {case[1]:,}, {'bf16' if case[3] else 'fp32'}: the same bars",
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
        ("", *COLUMNS, "one large product, Gflop/s", "rewarm, of it (6N + 12 L d S operations a token)"),
        tuple(lines),
    )
    unique = tuple(dict.fromkeys(notes))
    spent = Table("Milliseconds of a step, by torch's profiler", ("", "", *SPENT), tuple(profile))
    return Result(
        "step",
        "Training step",
        (table, Table("What a step takes", TAKEN, tuple(costs)), spent),
        tuple(bars),
        unique,
        size,
        versions=versions,
    )


def defaults(size: str, folder: Path) -> Result:
    """Both at their own defaults from an empty compilation cache, start and compilation included.

    Steps of 256 tokens, which cost the optimizer as much as the model; at full size of 2,048 (half an hour).
    """
    model, length, count = (TINY, 32, 1) if size == "smoke" else (SMALL, 256, 8 if size == "full" else 1)
    steps, parts = (4, 2) if size == "smoke" else (1000, 10)
    work = {**model, "length": length, "rows": count}
    here = machine.find()
    own = here.native_bf16
    shape = Work(**work)
    asked = techniques.Work(shape.parameters, steps * shape.tokens, shape.vocabulary, shape.rows, shape.length)
    compiles, why = techniques.compilation("auto", "BF16" if own else "FP32", here, asked)
    with ExitStack() as stack:
        arms, starts = {}, {}
        for name, kind, bf16, compiled in (
            ("rewarm", "Rewarm", own, compiles),
            ("Trainer", "HuggingFace", False, False),
        ):
            cache = stack.enter_context(tempfile.TemporaryDirectory())
            options = {"work": work, "bf16": bf16, "compiled": compiled}
            environment = {"TORCHINDUCTOR_CACHE_DIR": cache}
            began = time.perf_counter()
            arm = Arm("speed.arms.training", kind, options, spinning=name == "Trainer", environment=environment)
            arms[name] = stack.enter_context(arm)
            starts[name] = time.perf_counter() - began
        # In turn, a tenth at a time: what else the machine does meets both.
        times = {name: seconds(each) for name, each in rounds(arms, parts, "run", steps=steps // parts).items()}
    spent = {name: starts[name] + sum(times[name]) for name in arms}
    lines = tuple((name, f"{spent[name]:,.0f}", f"{starts[name]:,.0f}", f"{times[name][0]:,.0f}") for name in arms)
    header = ("", "seconds", "of it the start", f"and the first {steps // parts:,} steps, with what is compiled")
    table = Table(f"{steps:,} steps of {length * count} tokens", header, lines)
    later = ratios(times["rewarm"][1:], times["Trainer"][1:])
    whole = spent["Trainer"] / spent["rewarm"]
    bar = Bar.on(
        f"{steps:,} steps at each one's defaults, compilation included: rewarm / Trainer", 2.5, Spread.of([whole])
    )
    taken = "BF16 compute, which this processor has" if own else "FP32, since this processor has no BF16"
    blocks = f"blocks {'' if compiles else 'not '}compiled, since {why}"
    notes = (
        f"rewarm's defaults: {taken}; {blocks}. The Trainer's: FP32, eager.",
        f"After the first {steps // parts:,} steps, a tenth at a time: rewarm / Trainer {later.words()} x.",
    )
    return Result("defaults", "At their defaults", (table,), (bar,), notes, size)
