"""Choices of techniques by device, and their reasons."""

from pathlib import Path

import pytest
import torch

from rewarm_trainer import machine, model, techniques
from rewarm_trainer.techniques import Machine, Switches, Work

DEFAULTS = Switches()
CPU, OLD_CPU, GPU = Machine("cpu", True, True), Machine("cpu", False, True), Machine("cuda", True, True)
LONG, SHORT = Work(10**9, 10**9, 128_000, 8, 256), Work(10**4, 10**4, 4096, 8, 256)


def chosen(machine: Machine, work: Work, switches: Switches = DEFAULTS) -> dict[str, bool]:
    return {each.name: each.on for each in techniques.listed(machine, work, switches)}


def test_compilation_is_for_work_that_repays_it() -> None:
    assert techniques.compilation("on", CPU, SHORT)[0]
    assert not techniques.compilation("off", GPU, LONG)[0]
    assert techniques.compilation("auto", GPU, SHORT)[0]
    assert not techniques.compilation("auto", CPU, SHORT)[0]
    assert techniques.compilation("auto", CPU, LONG)[0]
    assert techniques.compilation("auto", Machine("cpu", True, False), LONG) == (False, "no compiler on this machine")
    unknown = Work(None, 10**9, None, 8, 256)
    assert techniques.compilation("auto", CPU, unknown) == (False, "the model's size is not known yet")


def test_head_and_loss_go_together_for_large_vocabularies() -> None:
    assert techniques.chunked_loss("auto", LONG)[0]
    assert not techniques.chunked_loss("auto", SHORT)[0]
    assert techniques.chunked_loss("on", SHORT) == (True, "as asked")
    assert not techniques.chunked_loss("auto", Work(None, 1, None, 8, 256))[0]


def test_plain_attention_is_for_short_compiled_bf16_rows_of_a_cpu() -> None:
    assert techniques.attention("BF16", True, CPU, SHORT) == "eager"
    assert techniques.attention("BF16", True, GPU, SHORT) == "sdpa"
    assert techniques.attention("FP32", True, CPU, SHORT) == "sdpa"
    assert techniques.attention("BF16", False, CPU, SHORT) == "sdpa"
    assert techniques.attention("BF16", True, CPU, Work(1, 1, 1, 8, 1 << 11)) == "sdpa"


def test_every_technique_is_listed_with_a_reason_on_or_off() -> None:
    on_cpu, on_gpu = chosen(CPU, LONG), chosen(GPU, LONG)
    assert on_cpu.keys() == on_gpu.keys()
    kept, pinned = "freed memory kept, threads that spin little", "pinned copies to the device"
    assert (on_cpu[kept], on_cpu[pinned]) == (True, False)
    assert (on_gpu[kept], on_gpu[pinned]) == (False, True)
    assert not chosen(OLD_CPU, LONG)["BF16 compute, FP32 weights"]
    assert chosen(OLD_CPU, LONG, Switches(precision="BF16"))["BF16 compute, FP32 weights"]
    assert all(each.why for each in techniques.listed(OLD_CPU, SHORT, Switches()))


def test_switches_come_from_manifest_and_environment() -> None:
    read = Switches.read("FP32", {"REWARM_COMPILE": "off", "REWARM_CHUNKED_LOSS": "on"})
    assert read == Switches("FP32", "off", "on")
    assert Switches.read(None, {}) == Switches()


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
