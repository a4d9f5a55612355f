"""The bench's own arithmetic: spreads, bars and their marks, the page, utilisation."""

import dataclasses
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from rewarm_bench.product import ROOT
from rewarm_trainer.techniques import Machine
from speed import flops, page, profiling, serve
from speed.arm import Arm, ArmError, rounds
from speed.result import MET, MISSED, UNMEASURED, Bar, Result, Table, number
from speed.rows import gpu, step
from speed.rows import techniques as leaving_out
from speed.spread import Spread, fastest, ratios
from speed.work import Text, Work, step_rows

MET_BAR = Bar.on("rewarm / peer", 1.1, Spread(1.2, 1.1, 1.3))
MISSED_BAR = Bar.on("start", 0.5, Spread(0.6, 0.5, 0.7), unit="s", at_least=False)
ABSENT_BAR = Bar.missing("gpu", 0.46, "no GPU on this machine")


def result(*bars: Bar, size: str = "standard") -> Result:
    table = Table("Tokens", ("", "value"), (("a|b", "1"),))
    return Result("loader", "Loader", (table,), bars, ("a note",), size, 12.4, "2 cores", {"torch": "2"})


def test_a_spread_is_median_and_range() -> None:
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)
    assert Spread.of([1000.0, 3000.0]).words(0) == "2,000 (1,000 to 3,000)"
    with pytest.raises(ValueError, match="no rounds"):
        Spread.of([])


def test_ratios_are_taken_round_by_round() -> None:
    # Both got twice as slow in the second round: the ratio did not change.
    assert ratios([1.0, 2.0], [3.0, 6.0]) == Spread(3.0, 3.0, 3.0)
    with pytest.raises(ValueError, match="2 rounds beside 1"):
        ratios([1.0, 2.0], [1.0])
    assert fastest({"a": [2.0, 9.0, 2.0], "b": [3.0, 3.0, 3.0]}) == "a"


def test_a_bar_says_met_missed_by_how_much_or_why_not() -> None:
    assert (MET_BAR.state, MET_BAR.mark, MET_BAR.bound) == (MET, "met", ">= 1.1 x")
    assert (MISSED_BAR.state, MISSED_BAR.mark) == (MISSED, "missed by 20 %")
    assert (ABSENT_BAR.state, ABSENT_BAR.mark) == (UNMEASURED, "not measured: no GPU on this machine")
    assert MET_BAR.measured == "1.2 x (1.1 to 1.3)"
    assert ABSENT_BAR.measured == ""


@pytest.mark.parametrize(("at_least", "state"), [(True, MET), (False, MET)])
def test_a_number_on_the_bound_meets_it(at_least: bool, state: str) -> None:
    assert Bar.on("x", 1.0, Spread(1.0, 1.0, 1.0), at_least=at_least).state == state


def test_a_bound_of_zero_has_no_share_to_miss_it_by() -> None:
    assert Bar.on("waits", 0.0, Spread(2.0, 2.0, 2.0), at_least=False).mark == "missed"


def test_results_go_through_json_unchanged() -> None:
    whole = result(MET_BAR, ABSENT_BAR)
    assert Result.from_json(json.loads(json.dumps(whole.to_json()))) == whole


def test_the_page_has_every_bar_with_its_mark_and_the_command() -> None:
    text = page.page([result(MET_BAR, MISSED_BAR), result(ABSENT_BAR, size="full")])
    assert text.startswith("## 2 cores\n\n1 met, 1 missed, 1 not measured.")
    assert "| ✓ | loader | rewarm / peer | >= 1.1 x | 1.2 x (1.1 to 1.3) | met |" in text
    assert "missed by 20 %" in text
    assert "`make bench NAME=loader`, 12 s, of code whose commit was not kept" in text
    assert "`make bench NAME=loader SIZE=full`" in text
    assert "a\\|b" in text
    assert page.marked([result(MISSED_BAR)]).splitlines()[-1] == "0 met, 1 missed, 0 not measured"


@pytest.mark.parametrize(
    ("value", "text"), [(0.5, "0.5"), (12.0, "12"), (0.034, "0.034"), (0.0000512, "5.1e-05"), (12345.6, "12,346")]
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert number(value) == text


def test_the_work_counts_its_parameters_as_transformers_does() -> None:
    from rewarm_cli.parameters import configured

    work = Work(**step.SMALL, length=256, rows=8)
    assert work.parameters == configured({**work.config(), "vocab_size": work.vocabulary})
    assert 11e6 < work.parameters < 13e6
    assert 38e6 < Work(**step.LARGE, length=256, rows=8).parameters < 42e6


def test_rows_of_a_step_go_round() -> None:
    work = Work(8, 1, 50, 4, 3)
    text = Text(work, count=4)
    assert (step_rows(text, work, 1) == text.tokens[[3, 0, 1]]).all()


def test_every_size_of_the_step_row_has_cases_and_full_has_all() -> None:
    assert len(step.cases("full")) == 8
    assert all(case in step.cases("full") for case in step.cases("standard"))
    assert len(step.cases("smoke")) == 1


def test_operations_and_utilisation() -> None:
    # GPT-3 175B of Chowdhery et al. 2022: 6N dominates.
    assert flops.per_token(10, 2, 3, 4) == 60 + 288
    assert flops.forward(10, 2, 3, 4) == 20 + 96
    assert flops.utilisation(1000.0, 1e9, 2e12) == 0.5
    with pytest.raises(ValueError, match="ceiling"):
        flops.utilisation(1.0, 1.0, 0.0)
    assert flops.stated_peak("NVIDIA H200") == 989e12
    assert flops.stated_peak("cpu") is None


def test_rows_fill_the_memory_but_for_a_margin() -> None:
    # 10 fixed and 5 a row, 100 free: 90 of them take 16 rows.
    assert flops.rows_that_fit(100, 15, 20) == 16
    assert flops.rows_that_fit(1, 15, 20) == 1


def test_without_names_no_row_begins_late_and_what_was_measured_last_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = runner()
    clock = iter([0.0, *(100.0 * number for number in range(20))])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(module, "ROWS", {"one": ("", ""), "two": ("", ""), "three": ("", "")})
    monkeypatch.setattr(module, "UNKNOWN_SECONDS", 50)
    monkeypatch.setattr(module, "ENOUGH_SECONDS", 100)
    began: list[str] = []
    monkeypatch.setattr(module, "measure", lambda name, size, workdir, code: began.append(name) or result(MET_BAR))
    monkeypatch.setattr(module, "RESULTS", tmp_path)
    stored = dataclasses.replace(result(MISSED_BAR), name="three", machine=module.machine())
    module.keep(stored, tmp_path)
    module.keep(dataclasses.replace(result(MET_BAR), name="three", machine="4 cores, no such"), tmp_path)
    found, earlier = module.measure_all([], "standard", tmp_path / "work", True)
    assert earlier == {"two", "three"}
    assert began == ["one"]
    assert (len(list(tmp_path.glob("*/loader.json"))), (tmp_path / "4-cores-no-such").is_dir()) == (1, True), "kept"
    assert "make bench NAME=two" in found[1].bars[0].mark
    assert found[2] == stored


def test_a_row_is_expected_to_take_what_it_took_here_else_the_longest_elsewhere() -> None:
    module, known = runner(), result(MET_BAR)
    elsewhere = [dataclasses.replace(known, machine=each, seconds=took) for each, took in (("a", 3), ("b", 9))]
    here, name = dataclasses.replace(known, machine=module.machine(), seconds=5), known.name
    assert module.expected(name, []) == module.UNKNOWN_SECONDS
    assert module.expected(name, elsewhere) == 9
    assert module.expected(name, [*elsewhere, here]) == 5


def test_a_row_that_a_hardware_lacks_is_counted_as_not_measured() -> None:
    text = page.page([result(MET_BAR)], (result(MET_BAR).name, "scaling"))
    assert "1 met, 0 missed, 1 not measured" in text
    assert "not on this hardware; `make bench NAME=scaling`" in text


def test_without_names_what_this_hardware_lacks_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = runner()
    monkeypatch.setattr(module, "ROWS", {"one": ("", ""), "two": ("", "")})
    monkeypatch.setattr(module, "RESULTS", tmp_path)
    began: list[str] = []
    monkeypatch.setattr(module, "measure", lambda name, size, workdir, code: began.append(name) or result(MET_BAR))
    module.keep(dataclasses.replace(result(MET_BAR), name="one", machine=module.machine()), tmp_path)
    module.measure_all([], "standard", tmp_path / "work", False)
    assert began == ["two", "one"]


def test_a_row_that_breaks_is_a_failure_and_what_was_measured_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = runner()
    folder = tmp_path / "results"
    folder.mkdir()
    monkeypatch.setattr(module, "RESULTS", folder)
    monkeypatch.setattr(module, "replace_in", lambda *arguments: None)
    monkeypatch.setattr(module, "ROWS", {"loader": ("no_such_module", "measure")})
    before = dataclasses.replace(result(MET_BAR), machine=module.machine())
    module.keep(before, folder)
    monkeypatch.setattr(sys, "argv", ["run.py", "loader", "--write", "--workdir", str(tmp_path)])
    assert module.main() == 1
    assert module.kept(folder) == [before]


def test_one_round_has_no_range() -> None:
    assert Spread.of([1.5]).words() == "1.50"
    assert Bar.on("x", 1.0, Spread.of([1.5])).measured == "1.5 x"


def test_an_unknown_row_is_refused_by_name(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["run.py", "lodaer"])
    assert runner().main() == 64
    assert "lodaer is no row of the bench, expected one of step, " in capsys.readouterr().err


def test_smoke_is_never_on_the_page(tmp_path: Path) -> None:
    module = runner()
    module.keep(result(MET_BAR, size="smoke"), tmp_path)
    assert module.kept(tmp_path) == []
    module.keep(result(MET_BAR), tmp_path)
    assert module.kept(tmp_path) == [result(MET_BAR)]


def test_each_hardware_has_a_table_of_its_own(tmp_path: Path) -> None:
    module = runner()
    for machine, bar in (("8 cores, B", MISSED_BAR), ("2 cores, A", MET_BAR)):
        module.keep(dataclasses.replace(result(bar), machine=machine), tmp_path)
    first, second = page.page(module.kept(tmp_path)).split("\n## ")
    assert first.startswith("## 2 cores, A\n\n1 met, 0 missed")
    assert second.startswith("8 cores, B\n\n0 met, 1 missed")


def test_the_page_is_made_of_the_results_beside_the_script() -> None:
    module = runner()
    written = (ROOT / "docs" / "speed.md").read_text()
    begin, end = module.MARKS
    assert written.partition(begin)[2].partition(end)[0].strip() == page.page(
        module.kept(module.RESULTS), tuple(module.ROWS)
    )


@pytest.mark.parametrize(("native", "measured"), [(True, 8), (False, 4)])
def test_bf16_is_measured_where_the_processor_has_it(native: bool, measured: int) -> None:
    here = [case for case in step.cases("full") if step.worth_measuring(case, Machine("cpu", native, True))]
    assert len(here) == measured
    assert step.worth_measuring(step.cases("smoke")[0], Machine("cpu", False, True)), "a rehearsal runs everywhere"


def test_what_only_bf16_has_is_left_out_where_the_processor_computes_in_it() -> None:
    old, new = leaving_out.left_out(False), leaving_out.left_out(True)
    assert new.keys() - old.keys() == {"FP32 compute", "SDPA instead of plain attention"}
    assert next(iter(old)) == leaving_out.ALL, "what the others are compared with"


def test_compiling_has_paid_when_its_time_is_given_back() -> None:
    shape = Work(hidden=64, layers=2, vocabulary=512, length=50, rows=2)
    eager = "blocks not compiled"
    times = {leaving_out.ALL: [2.0, 2.0], eager: [6.0, 6.0]}  # of two steps
    said = leaving_out.paid(shape, {leaving_out.ALL: 21.0, eager: 3.0}, times, 2, "BF16")
    operations = 10 * 100 * flops.per_token(shape.parameters, 2, 64, 50)
    assert "took 20 s and gives back 2.00 s a step of 100 tokens: paid after 10 steps" in said
    assert f"{operations:.1e} operations. `auto` compiles from 3e+12 on." in said
    slower = {leaving_out.ALL: [6.0], eager: [6.0]}
    assert leaving_out.paid(shape, {leaving_out.ALL: 9.0}, slower, 1, "FP32").endswith("gave nothing back here.")
    assert leaving_out.paid(shape, {}, {leaving_out.ALL: [1.0]}, 1, "FP32") == ""


def test_rows_that_do_not_run_after_all_are_made_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    def at_the_limit(work: dict[str, int], small: bool) -> tuple[list[Bar], list[str]]:
        if work["rows"] > most:
            raise ArmError("out of memory")
        return [MET_BAR], ["ran"]

    monkeypatch.setattr(gpu, "at_the_limit", at_the_limit)
    most = 5
    said = ["8 rows do not run: out of memory.", "6 rows do not run: out of memory.", "ran"]
    assert gpu.at_rows_that_run({}, 8, False) == (4, [MET_BAR], said)
    most = 0
    with pytest.raises(ArmError, match="out of memory"):
        gpu.at_rows_that_run({}, 8, False)


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("aten::mm", "matrix products"),
        ("mkldnn::_linear_pointwise", "matrix products"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu", "attention"),
        ("aten::_fused_adamw_", "optimizer"),
        ("## Call CompiledFxGraph f3 ##", "kernels of the compiler"),
        ("aten::embedding", profiling.OTHER),
    ],
)
def test_operations_are_grouped_by_name(name: str, group: str) -> None:
    assert profiling.group_of(name) == group


def test_a_profile_finds_where_the_time_went() -> None:
    matrix = torch.ones(400, 400)
    spent = profiling.shares(lambda: [matrix @ matrix for _ in range(20)])
    assert max(spent, key=spent.__getitem__) == "matrix products"
    assert set(spent) == set(profiling.SPENT)
    assert len(profiling.spent_line(spent)) == len(profiling.SPENT)


def test_what_there_is_to_gain_is_what_no_other_trainer_shares() -> None:
    spent = {**dict.fromkeys(profiling.SPENT, 0.0), "attention": 20.0, "matrix products": 60.0, profiling.OTHER: 20.0}
    told = profiling.most(spent, {"litgpt": 1.1, "Trainer": 1.2})
    assert told.startswith("80 % are attention and matrix products")
    assert told.endswith("1.25 times as fast: 1.38 x litgpt, 1.50 x Trainer.")


def test_whatever_an_arm_does_can_be_profiled() -> None:
    class Scores:
        def score(self, times: int) -> None:
            matrix = torch.ones(400, 400)
            for _ in range(times):
                matrix @ matrix

    assert serve.profiled(Scores(), doing="score", times=20)["matrix products"] > 0


@pytest.mark.slow
def test_the_gpu_row_goes_through_on_a_processor_at_a_tiny_size(tmp_path: Path) -> None:
    found = gpu.measure("smoke", tmp_path)
    assert [bar.state for bar in found.bars] == ["not measured", "met"]
    assert "no stated peak is listed for cpu" in found.bars[0].mark
    (table,) = found.tables
    assert [row[0] for row in table.rows] == ["all", "not compiled", "logits whole"]


def runner() -> ModuleType:
    """The script, whose folder must not stay on the path."""
    script = Path(__file__).parents[3] / "benchmarks" / "speed" / "run.py"
    spec = importlib.util.spec_from_file_location("speed_run", script)
    assert spec is not None
    assert spec.loader is not None
    module, before = importlib.util.module_from_spec(spec), list(sys.path)
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path[:] = before
    return module


def test_an_arm_answers_measures_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "arm_under_test.py").write_text(
        "import tempfile\n"
        "class Adds:\n"
        "    def __init__(self, start):\n"
        "        self.facts, self.value = {'start': start}, start\n"
        "    def add(self, more):\n"
        "        self.value += more\n"
        "        return [self.value, tempfile.mkdtemp()]\n"
        "    def fail(self):\n"
        "        raise ValueError('no such thing')\n"
    )
    monkeypatch.setattr("speed.arm.PRODUCT", (str(tmp_path),))
    with Arm("arm_under_test", "Adds", {"start": 2}) as arm:
        assert arm.facts == {"start": 2}
        found = rounds({"a": arm}, 2, "add", more=3)["a"]
        assert [answer.value[0] for answer in found] == [5, 8]
        assert all(answer.seconds > 0 for answer in found)
        assert all(answer.peak_megabytes > 0 for answer in found)
        folder = Path(found[0].value[1])
        assert folder.exists()
        with pytest.raises(ArmError, match="Adds ended with 1: ValueError: no such thing"):
            arm.ask("fail")
    assert not folder.exists()
