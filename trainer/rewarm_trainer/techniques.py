"""Which techniques of speed a run uses on a device, each with its reason. Pure: facts in, choices out, no torch.

Every one that changes how a number is rounded stands in the run's record. benchmarks/speed measures compilation and
chunks one by one, the rest together with them, against a loop without.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rewarm_api.errors import ManifestError, Problem
from rewarm_api.pod_rules import SWITCH_VALUES
from rewarm_trainer.micro_batch import STATE_BYTES

COMPILE_WORTH_FLOPS = 3e12
"""About a minute of eager BF16 training on two cores; compiling costs a third of that."""
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

    @staticmethod
    def read(precision: str | None, environment: Mapping[str, str], parallelism: str = "Auto") -> Switches:
        """ManifestError (64) for a word that a variable does not know."""

        def choice(name: str) -> str:
            found = environment.get(name, "") or "auto"
            if found not in SWITCH_VALUES:
                raise ManifestError(Problem(name, found, " | ".join(SWITCH_VALUES), "take one of these, or unset it"))
            return found

        return Switches(precision, choice("REWARM_COMPILE"), choice("REWARM_CHUNKED_LOSS"), parallelism)


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


def compilation(choice: str, machine: Machine, work: Work) -> tuple[bool, str]:
    """Whether blocks are compiled, and why."""
    if choice in ("on", "off"):
        return choice == "on", "as asked"
    if not machine.has_compiler:
        return False, "no compiler on this machine"
    if machine.device != "cpu":
        return True, "it pays at once on a GPU"
    if work.parameters is None:
        return False, "the model's size is not known yet"
    if 6.0 * work.parameters * work.tokens < COMPILE_WORTH_FLOPS:
        return False, "this run is shorter than compiling"
    return True, "the run is longer than compiling"


def attention(precision: str, compiled: bool, machine: Machine, work: Work) -> str:
    """`sdpa`, but where its CPU kernel is the slow one: its BF16 backward pass costs more than the plain products,
    which a compiled block fuses. Plain attention keeps rows x S x S numbers of every head, so only short rows take it,
    and only where they leave most of the memory alone."""
    pairs = work.rows * work.length * work.length
    kept = pairs * (work.heads or 1) * SCORE_BYTES * work.sharing
    small = pairs <= PLAIN_ATTENTION_LIMIT and (machine.memory is None or kept <= machine.memory * SCORES_SHARE)
    return "eager" if machine.device == "cpu" and precision == "BF16" and compiled and small else "sdpa"


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


def listed(machine: Machine, work: Work, switches: Switches) -> list[Technique]:
    """All techniques, on or off, as `rewarm plan` shows them."""
    chosen = precision(switches.precision, machine)
    compiles, why_compiled = compilation(switches.compilation, machine, work)
    kernel = attention(chosen, compiles, machine, work)
    chunked, why_chunked = chunked_loss(switches.chunked_loss, work)
    sharded, why_sharded = sharding(switches.parallelism, machine, work)
    is_cpu = machine.device == "cpu"
    native = "the device computes in it natively" if machine.native_bf16 else "the device has no BF16 of its own"
    return [
        Technique(
            "BF16 compute, FP32 weights",
            chosen == "BF16",
            "as asked" if switches.precision else native,
            "spec.training.precision",
        ),
        Technique("blocks compiled one by one", compiles, why_compiled, "REWARM_COMPILE"),
        Technique("head and loss in chunks", chunked, why_chunked, "REWARM_CHUNKED_LOSS"),
        Technique(
            "plain attention instead of SDPA",
            kernel == "eager",
            "its BF16 kernel is the slow one for short compiled rows"
            if kernel == "eager"
            else "SDPA is the faster one",
        ),
        Technique("weights, gradients and moments sharded", sharded, why_sharded, "spec.training.parallelism"),
        Technique("fused AdamW", True, "one pass over weights and moments"),
        Technique("batches read one step ahead", True, "a step never waits for a disk"),
        Technique("a step's numbers read in the next", True, "no step waits for the host"),
        Technique(
            "freed memory kept", is_cpu, "the C library would fault each block in again" if is_cpu else "it is for CPUs"
        ),
        Technique(
            "threads that spin little",
            is_cpu,
            "a thread that waits takes a core from others" if is_cpu else "it is for CPUs",
            "GOMP_SPINCOUNT",
        ),
        Technique(
            "pinned copies to the device",
            not is_cpu,
            "copies go beside the computation" if not is_cpu else "there is no device to copy to",
        ),
    ]
