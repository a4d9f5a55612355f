"""Which techniques of speed a run uses on a device, each with its reason. Pure: facts in, choices out, no torch.

Every one that changes how a number is rounded stands in the run's record. benchmarks/speed (row `techniques`) leaves
out each of those that can be left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rewarm_api.errors import ManifestError, Problem
from rewarm_api.pod_rules import SWITCH_VALUES
from rewarm_trainer.micro_batch import STATE_BYTES

COMPILE_WORTH_FLOPS = {"BF16": 3e12, "FP32": 3e13}
"""Operations of a run on a CPU that give back what compiling from an empty cache costs. FP32 as measured on two cores
(benchmarks/speed, row `techniques`: 2.6e13 and 4.2e13 at 12.4M parameters); BF16 gives back more, since only compiled
blocks get around SDPA's slow kernel, and was estimated."""
PLAIN_ATTENTION_LIMIT = 1 << 23
"""rows x length x length up to which plain attention beats the CPU's own BF16 kernel, whose backward pass is slow."""
SCORE_BYTES = 4
"""Of a query and a key of one head: the score and its softmax, in BF16."""
SCORES_SHARE = 1 / 8
"""Of the memory that plain attention may keep until the backward pass."""
CHUNKED_VOCABULARY = 24_000
"""From this vocabulary on the logits cost more than they are worth (benchmarks/speed, row `vocabulary`)."""


@dataclass(frozen=True)
class Machine:
    """What of a machine decides. `native_bf16`: products in BF16 are faster than in FP32.

    memory: bytes of the device, or of the host for a CPU; None where nobody knows.
    """

    device: str
    native_bf16: bool
    has_compiler: bool
    memory: int | None = None


@dataclass(frozen=True)
class Work:
    """What of a run decides. Unknown numbers are None; a decision that needs one says so.

    processes: of the run, and those `sharing` one device's memory. needs_whole: the field that needs whole weights.
    heads: of all layers together, each of which keeps its scores where attention is plain.
    """

    parameters: int | None
    tokens: int
    vocabulary: int | None
    rows: int
    length: int
    processes: int | None = None
    sharing: int = 1
    needs_whole: str = ""
    heads: int | None = None


@dataclass(frozen=True)
class Switches:
    """What a person asked for: fields of `spec.training`, and `on`, `off` or `auto` from the environment."""

    precision: str | None = None
    compilation: str = "auto"
    chunked_loss: str = "auto"
    parallelism: str = "Auto"
    plain_attention: str = "auto"
    read_ahead: str = "auto"
    freed_memory: str = "auto"

    @staticmethod
    def read(precision: str | None, environment: Mapping[str, str], parallelism: str = "Auto") -> Switches:
        """ManifestError (64) for a word that a variable does not know."""

        def choice(name: str) -> str:
            found = environment.get(name, "") or "auto"
            if found not in SWITCH_VALUES:
                raise ManifestError(Problem(name, found, " | ".join(SWITCH_VALUES), "take one of these, or unset it"))
            return found

        return Switches(
            precision, parallelism=parallelism, **{field: choice(name) for field, name in VARIABLES.items()}
        )


VARIABLES = {
    "compilation": "REWARM_COMPILE",
    "chunked_loss": "REWARM_CHUNKED_LOSS",
    "plain_attention": "REWARM_PLAIN_ATTENTION",
    "read_ahead": "REWARM_READ_AHEAD",
    "freed_memory": "REWARM_KEEP_FREED_MEMORY",
}
"""Fields of `Switches` and the variables that set them."""


@dataclass(frozen=True)
class Technique:
    """`switch`: where a person says otherwise; empty where nobody can."""

    name: str
    on: bool
    why: str
    switch: str = ""


def precision(asked: str | None, machine: Machine) -> str:
    """`BF16` or `FP32`: as asked, else BF16 where the device computes in it natively."""
    return asked or ("BF16" if machine.native_bf16 else "FP32")


def compilation(choice: str, precision: str, machine: Machine, work: Work) -> tuple[bool, str]:
    """Whether blocks are compiled, and why."""
    if choice in ("on", "off"):
        return choice == "on", "as asked"
    if not machine.has_compiler:
        return False, "there is no compiler"
    if machine.device != "cpu":
        return True, "it pays at once on a GPU"
    if work.parameters is None:
        return False, "the model's size is not known yet"
    if 6.0 * work.parameters * work.tokens < COMPILE_WORTH_FLOPS[precision]:
        return False, "this run is shorter than compiling"
    return True, "the run is longer than compiling"


def plain_attention(choice: str, precision: str, compiled: bool, machine: Machine, work: Work) -> tuple[bool, str]:
    """Whether attention is plain products instead of SDPA, and why.

    SDPA's BF16 backward pass on a CPU costs more than the plain products, which a compiled block fuses. Plain attention
    keeps rows x S x S numbers of every head, so only short rows take it, and only where they leave most of the memory
    alone."""
    if choice in ("on", "off"):
        return choice == "on", "as asked"
    pairs = work.rows * work.length * work.length
    kept = pairs * (work.heads or 1) * SCORE_BYTES * work.sharing
    small = pairs <= PLAIN_ATTENTION_LIMIT and (machine.memory is None or kept <= machine.memory * SCORES_SHARE)
    if machine.device == "cpu" and precision == "BF16" and compiled and small:
        return True, "SDPA's BF16 kernel is the slow one for short compiled rows"
    return False, "SDPA is the faster one"


def chunked_loss(choice: str, work: Work) -> tuple[bool, str]:
    """Whether head and loss go together chunk by chunk, and why."""
    if choice in ("on", "off"):
        return choice == "on", "as asked"
    if work.vocabulary is None:
        return False, "the vocabulary is not known yet"
    if work.vocabulary < CHUNKED_VOCABULARY:
        return False, f"a vocabulary of {work.vocabulary:,} is small: its logits fit"
    return True, f"the logits of {work.vocabulary:,} tokens are never whole in memory"


def sharding(choice: str, machine: Machine, work: Work) -> tuple[bool, str]:
    """Whether each weight, gradient and moment lies on one process only, and why."""
    if work.processes == 1:
        return False, "one process has nobody to share with"
    if choice != "Auto":
        return choice == "Sharded", "as asked"
    if work.needs_whole:
        return False, f"{work.needs_whole} needs them whole"
    if work.parameters is None:
        return False, "the model's size is not known yet"
    whole = work.parameters * STATE_BYTES
    need = f"weights, gradients and moments of {_gibibytes(whole)}"
    if machine.memory is None:
        return False, f"{need} for each process; whether they fit is known when training starts"
    share = machine.memory // work.sharing
    if whole <= share:
        return False, f"{need} fit into {_gibibytes(share)} for each process"
    return True, f"{need} would not fit into {_gibibytes(share)} for each process"


def _gibibytes(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"


def read_ahead(choice: str) -> tuple[bool, str]:
    """Whether the next batches are read while a step is made, and why."""
    return (choice == "on", "as asked") if choice in ("on", "off") else (True, "a step never waits for a disk")


def freed_memory(choice: str, device: str) -> tuple[bool, str]:
    """Whether a process keeps the blocks that it frees, and why."""
    if device != "cpu":
        return False, "it is for CPUs"
    if choice in ("on", "off"):
        return choice == "on", "as asked"
    return True, "the C library would fault each block in again"


def listed(machine: Machine, work: Work, switches: Switches) -> list[Technique]:
    """All techniques, on or off, as `rewarm plan` shows them."""
    chosen = precision(switches.precision, machine)
    compiled = compilation(switches.compilation, chosen, machine, work)
    plain = plain_attention(switches.plain_attention, chosen, compiled[0], machine, work)
    kept = freed_memory(switches.freed_memory, machine.device)
    is_cpu = machine.device == "cpu"
    native = "the device computes in it natively" if machine.native_bf16 else "the device has no BF16 of its own"
    asked = "as asked" if switches.precision else native
    sharded = sharding(switches.parallelism, machine, work)
    spins = "a thread that waits takes a core from others" if is_cpu else "it is for CPUs"
    pinned = "there is no device to copy to" if is_cpu else "copies go beside the computation"
    return [
        Technique("BF16 compute, FP32 weights", chosen == "BF16", asked, "spec.training.precision"),
        Technique("blocks compiled one by one", *compiled, VARIABLES["compilation"]),
        Technique("head and loss in chunks", *chunked_loss(switches.chunked_loss, work), VARIABLES["chunked_loss"]),
        Technique("plain attention instead of SDPA", *plain, VARIABLES["plain_attention"]),
        Technique("weights, gradients and moments sharded", *sharded, "spec.training.parallelism"),
        Technique(
            "fused AdamW", True, "one pass over weights and moments, left out on the device where nothing is finite"
        ),
        Technique("batches read one step ahead", *read_ahead(switches.read_ahead), VARIABLES["read_ahead"]),
        Technique("a step's numbers read in the next", True, "no step waits for the host"),
        Technique("freed memory kept", *kept, VARIABLES["freed_memory"] if is_cpu else ""),
        Technique("threads that spin little", is_cpu, spins, "GOMP_SPINCOUNT"),
        Technique("pinned copies to the device", not is_cpu, pinned),
    ]
