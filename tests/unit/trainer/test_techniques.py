"""Choices of techniques by device, and their reasons."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rewarm_api.errors import ManifestError
from rewarm_api.pod_rules import SWITCHES
from rewarm_trainer import machine, model, techniques
from rewarm_trainer.techniques import Machine, Switches, Work

DEFAULTS = Switches()
CPU, OLD_CPU, GPU = Machine("cpu", True, True), Machine("cpu", False, True), Machine("cuda", True, True)
LONG, SHORT = Work(10**9, 10**9, 128_000, 8, 256), Work(10**4, 10**4, 4096, 8, 256)


def plain(*facts: Any) -> bool:
    return techniques.plain_attention("auto", *facts)[0]


def chosen(machine: Machine, work: Work, switches: Switches = DEFAULTS) -> dict[str, bool]:
    return {each.name: each.on for each in techniques.listed(machine, work, switches)}


def test_compilation_is_for_work_that_repays_it() -> None:
    assert techniques.compilation("on", "BF16", CPU, SHORT)[0]
    assert not techniques.compilation("off", "BF16", GPU, LONG)[0]
    assert techniques.compilation("auto", "BF16", GPU, SHORT)[0]
    assert not techniques.compilation("auto", "BF16", CPU, SHORT)[0]
    assert techniques.compilation("auto", "BF16", CPU, LONG)[0]
    assert techniques.compilation("auto", "BF16", Machine("cpu", True, False), LONG) == (
        False,
        "there is no compiler",
    )
    unknown = Work(None, 10**9, None, 8, 256)
    assert techniques.compilation("auto", "BF16", CPU, unknown) == (False, "the model's size is not known yet")


def test_head_and_loss_go_together_for_large_vocabularies() -> None:
    assert techniques.chunked_loss("auto", LONG)[0]
    assert not techniques.chunked_loss("auto", SHORT)[0]
    assert techniques.chunked_loss("on", SHORT) == (True, "as asked")
    assert not techniques.chunked_loss("auto", Work(None, 1, None, 8, 256))[0]


def test_plain_attention_is_for_short_compiled_bf16_rows_of_a_cpu() -> None:
    assert plain("BF16", True, CPU, SHORT)
    assert not plain("BF16", True, GPU, SHORT)
    assert not plain("FP32", True, CPU, SHORT)
    assert not plain("BF16", False, CPU, SHORT)
    assert not plain("BF16", True, CPU, Work(1, 1, 1, 8, 1 << 11))
    assert techniques.plain_attention("on", "FP32", False, GPU, SHORT) == (True, "as asked")
    assert techniques.plain_attention("off", "BF16", True, CPU, SHORT) == (False, "as asked")


def test_state_is_sharded_where_it_would_not_fit_whole() -> None:
    small, large = Machine("cuda", True, True, 80 * 2**30), Work(7 * 10**9, 1, 1, 1, 1, processes=8)
    assert techniques.sharding("Auto", small, large) == (
        True,
        "weights, gradients and moments of 104.3 GiB would not fit into 80.0 GiB for each process",
    )
    assert not techniques.sharding("Auto", Machine("cuda", True, True, 141 * 2**30), large)[0]
    # The memory of a host is for all processes on it.
    host = Machine("cpu", True, True, 141 * 2**30)
    assert techniques.sharding("Auto", host, replace(large, sharing=2))[0]
    assert not techniques.sharding("Auto", host, replace(large, sharing=1))[0]


def test_sharding_is_as_asked_and_never_guessed() -> None:
    unknown = Machine("cuda", True, True)
    assert techniques.sharding("Sharded", unknown, SHORT) == (True, "as asked")
    assert techniques.sharding("Replicated", Machine("cpu", True, True, 1), LONG) == (False, "as asked")
    assert not techniques.sharding("Sharded", unknown, replace(SHORT, processes=1))[0], "nobody to share with"
    on, why = techniques.sharding("Auto", unknown, LONG)
    assert not on
    assert "known when training starts" in why
    assert techniques.sharding("Auto", unknown, replace(LONG, parameters=None)) == (
        False,
        "the model's size is not known yet",
    )
    tiny = Machine("cpu", True, True, 1)
    assert techniques.sharding("Auto", tiny, replace(LONG, needs_whole="spec.x")) == (False, "spec.x needs them whole")


def test_a_container_may_use_less_than_its_host(tmp_path: Path) -> None:
    whole = machine.host_memory(tmp_path)
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.host_memory(tmp_path) == whole
    (tmp_path / "memory.max").write_text("4096\n")
    assert machine.host_memory(tmp_path) == 4096


def test_every_technique_is_listed_with_a_reason_on_or_off() -> None:
    on_cpu, on_gpu = chosen(CPU, LONG), chosen(GPU, LONG)
    assert on_cpu.keys() == on_gpu.keys()
    kept, pinned = "freed memory kept", "pinned copies to the device"
    assert (on_cpu[kept], on_cpu[pinned]) == (True, False)
    assert (on_gpu[kept], on_gpu[pinned]) == (False, True)
    assert not chosen(OLD_CPU, LONG)["BF16 compute, FP32 weights"]
    assert chosen(OLD_CPU, LONG, Switches(precision="BF16"))["BF16 compute, FP32 weights"]
    assert all(each.why for each in techniques.listed(OLD_CPU, SHORT, Switches()))


def test_switches_come_from_manifest_and_environment() -> None:
    read = Switches.read("FP32", {"REWARM_COMPILE": "off", "REWARM_CHUNKED_LOSS": "on"})
    assert read == Switches("FP32", "off", "on")
    assert Switches.read(None, {}) == Switches()


@pytest.mark.parametrize(
    ("variable", "name"),
    [
        ("REWARM_COMPILE", "blocks compiled one by one"),
        ("REWARM_CHUNKED_LOSS", "head and loss in chunks"),
        ("REWARM_PLAIN_ATTENTION", "plain attention instead of SDPA"),
        ("REWARM_READ_AHEAD", "batches read one step ahead"),
        ("REWARM_KEEP_FREED_MEMORY", "freed memory kept"),
    ],
)
def test_every_switch_switches_its_technique(variable: str, name: str) -> None:
    for word in ("on", "off"):
        (found,) = [
            each
            for each in techniques.listed(CPU, LONG, Switches.read(None, {variable: word}))
            if each.switch == variable
        ]
        assert (found.name, found.on, found.why) == (name, word == "on", "as asked")


def test_compiling_pays_later_in_fp32() -> None:
    between = Work(10**6, 2 * 10**6, 4096, 8, 256)
    assert techniques.compilation("auto", "BF16", CPU, between) == (True, "the run is longer than compiling")
    assert techniques.compilation("auto", "FP32", CPU, between) == (False, "this run is shorter than compiling")
    assert techniques.compilation("auto", "FP32", CPU, LONG)[0]


def test_pods_may_be_given_every_switch() -> None:
    assert set(techniques.VARIABLES.values()) == set(SWITCHES)


def test_a_device_without_such_memory_has_no_switch_for_it() -> None:
    assert techniques.freed_memory("on", "cuda") == (False, "it is for CPUs")
    found = {each.name: each.switch for each in techniques.listed(GPU, LONG, Switches())}
    assert not found["freed memory kept"]


def test_plain_attention_leaves_most_of_the_memory_alone() -> None:
    short = replace(LONG, rows=8, length=1024, heads=32 * 22)
    assert plain("BF16", True, replace(CPU, memory=256 << 30), short)
    assert not plain("BF16", True, replace(CPU, memory=128 << 30), short), "22 GiB of scores"
    assert plain("BF16", True, CPU, short), "nobody knows the memory"


def test_a_switch_that_nobody_knows_is_refused() -> None:
    with pytest.raises(ManifestError, match=r"REWARM_COMPILE.*found '?0'?.*on \| off \| auto"):
        Switches.read(None, {"REWARM_COMPILE": "0"})
    assert Switches.read(None, {"REWARM_COMPILE": ""}) == Switches(), "empty is unset"


def test_this_machine_is_found_without_torch_as_torch_finds_it() -> None:
    if torch.cuda.is_available():
        pytest.skip("a GPU's BF16 is taken for granted without torch")
    assert machine.find() == model.machine_of(torch.device("cpu"))


def test_a_machine_is_told_by_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    processor = tmp_path / "cpuinfo"
    processor.write_text("processor : 0\nflags\t\t: fpu avx512f avx512_bf16\n")
    assert machine.find(tmp_path, processor).native_bf16
    processor.write_text("flags : fpu avx2\n")
    assert not machine.find(tmp_path, processor).native_bf16
    assert not machine.find(tmp_path, tmp_path / "none").native_bf16
    (tmp_path / "nvidiactl").touch()
    assert machine.find(tmp_path, processor).device == "cuda"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert machine.find(tmp_path, processor).device == "cpu"
