"""What the machine can do, found without torch: `rewarm plan` asks before anything heavy is imported."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from rewarm_trainer.techniques import Machine

BF16_FLAGS = {"avx512_bf16", "amx_tile"}
C_COMPILERS, CPP_COMPILERS = ("cc", "gcc", "clang"), ("c++", "g++", "clang++")


def has_compiler(device: str) -> bool:
    """A CPU's kernels are C++; a GPU's come from Triton, which has a C compiler build their launchers."""
    if device == "cpu":
        return any(map(shutil.which, CPP_COMPILERS))
    return any(map(shutil.which, C_COMPILERS)) or "CC" in os.environ


def processor_flags(path: Path = Path("/proc/cpuinfo")) -> set[str]:
    """The first processor's features; none where the kernel does not tell."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return set()
    return next((set(line.split(":", 1)[1].split()) for line in lines if line.startswith("flags")), set())


def host_memory(groups: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that this container may use: the host's, or its control group's limit where that is lower."""
    found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            found = min(found, int((groups / name).read_text()))
        except (OSError, ValueError):  # not there, or `max`
            continue
    return found


def find(devices: Path = Path("/dev"), processor: Path = Path("/proc/cpuinfo")) -> Machine:
    """This machine, as the trainer will find it. A GPU is taken to compute in BF16, as all since 2020 do."""
    if (devices / "nvidiactl").exists() and os.environ.get("CUDA_VISIBLE_DEVICES", "0") not in ("", "-1"):
        return Machine("cuda", True, has_compiler("cuda"))
    native = bool(BF16_FLAGS & processor_flags(processor))
    return Machine("cpu", native, has_compiler("cpu"), host_memory())


def cpu_pod() -> Machine:
    """A pod without GPUs, in the trainer's image, which has no C++ compiler; its node is taken to be like this one."""
    native = bool(BF16_FLAGS & processor_flags())
    return Machine("cpu", native, has_compiler=False)


def gpu_node() -> Machine:
    """A node of a cluster with GPUs, in the trainer's image."""
    return Machine("cuda", True, True)
