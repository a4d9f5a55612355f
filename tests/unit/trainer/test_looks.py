"""Looks: paired per document with the untouched base, found again by digest, on the weights as they are exported."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import EOS, LENGTH, VOCABULARY, tiny

from rewarm_api.errors import DataError
from rewarm_api.snapshot import Role
from rewarm_trainer.corpus.sets import EvaluationDocuments
from rewarm_trainer.evaluation import Scores
from rewarm_trainer.looks import EvaluationSet, Looks, Scorer, deltas_of, rounded_to, weights_digest
from rewarm_trainer.model import TokenLosses


def documents(name: str, count: int, seed: int) -> EvaluationDocuments:
    random = np.random.default_rng(seed)
    ids = [random.integers(1, VOCABULARY, random.integers(5, 40)) for _ in range(count)]
    return EvaluationDocuments(name, ids, [4 * len(each) for each in ids], [f"{name}{n}" for n in range(count)])


SETS = {
    "new": EvaluationSet("new", Role.NEW, "sha256:new", documents("new", 40, seed=1)),
    "old": EvaluationSet("old", Role.RETAINED, "sha256:old", documents("old", 35, seed=2)),
}


class Bench:
    """A model and its looks, and what they reported."""

    def __init__(
        self, root: Path, model: torch.nn.Module, sets: dict[str, EvaluationSet] = SETS, **options: Any
    ) -> None:
        self.model, self.root, self.cache = model, root, root / "cache"
        self.scored: list[str] = []
        scorer = Scorer(TokenLosses(model), None, EOS, LENGTH, 512, "FP32", rank=0, world=1)
        self.looks = Looks(
            sets,
            scorer,
            **{
                "look_tokens": 200,
                "export_type": torch.float32,
                "state": root / "state",
                "report": lambda name, done, total: self.scored.append(name),
                **options,
            },
        )

    def baseline(self) -> dict[str, Any]:
        return self.looks.baseline(self.cache, "sha256:tokenizer")

    def spoil(self, amount: float = 0.5) -> None:
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * amount)


def test_the_baseline_is_the_whole_sets_at_step_0_with_nothing_to_pair(tmp_path: Path) -> None:
    line = Bench(tmp_path, tiny()).baseline()
    assert (line["step"], line["tokens"], line["full"]) == (0, 0, True)
    assert {name: (each["role"], each["documents"], each["delta"]) for name, each in line["sets"].items()} == {
        "new": ("New", 40, None),
        "old": ("Retained", 35, None),
    }
    assert line["sets"]["new"]["tokens"] == sum(len(ids) for ids in SETS["new"].documents.ids)
    assert (line["forgetting"], line["gain"]) == ({"max": None, "mean": None}, {"mean": None})
    assert deltas_of(line) == {}
    stored = Scores.from_json(json.loads((tmp_path / "state" / "baseline" / "new.json").read_text()))
    assert stored.loss == line["sets"]["new"]["loss"]


def test_an_unchanged_model_has_changed_by_nothing(tmp_path: Path) -> None:
    bench = Bench(tmp_path, tiny())
    bench.baseline()
    line = bench.looks.final(bench.model, 10, 1000)
    for delta in (each["delta"] for each in line["sets"].values()):
        assert (delta["mean"], delta["low"], delta["high"]) == (0.0, 0.0, 0.0)
    assert (line["forgetting"], line["gain"]) == ({"max": 0.0, "mean": 0.0}, {"mean": 0.0})


def test_a_look_scores_the_first_documents_paired_with_the_same_of_the_baseline(tmp_path: Path) -> None:
    bench = Bench(tmp_path, tiny())
    base = bench.baseline()
    before = {name: json.loads((tmp_path / "state/baseline" / f"{name}.json").read_text()) for name in SETS}
    bench.spoil()
    line = bench.looks.look(4, 400)
    full = bench.looks.final(bench.model, 4, 400)
    assert (line["full"], full["full"]) == (False, True)
    for name, each in line["sets"].items():
        count = each["documents"]
        lengths = [len(ids) for ids in SETS[name].documents.ids]
        assert sum(lengths[:count]) <= 200 < sum(lengths[: count + 1])
        after = json.loads((tmp_path / "state/final" / f"{name}.json").read_text())
        difference = np.array(after["nats"][:count]) - np.array(before[name]["nats"][:count])
        assert each["delta"]["mean"] == pytest.approx(difference.sum() / sum(lengths[:count]), rel=1e-5)
        kept = json.loads((tmp_path / "state/looks/step-00000004" / f"{name}.json").read_text())
        assert (kept["hashes"], kept["nats"]) == (after["hashes"][:count], pytest.approx(after["nats"][:count]))
        assert each["delta"]["documents"] == count
        whole = full["sets"][name]
        assert whole["delta"]["mean"] == pytest.approx(whole["loss"] - base["sets"][name]["loss"], rel=1e-5)
        assert whole["delta"]["low"] < whole["delta"]["mean"] < whole["delta"]["high"]
    assert full["forgetting"]["max"] == full["sets"]["old"]["delta"]["mean"] > 0
    assert full["gain"]["mean"] == -full["sets"]["new"]["delta"]["mean"] < 0


def test_the_final_look_counts_flips_of_the_next_token_and_looks_between_do_not(tmp_path: Path) -> None:
    bench = Bench(tmp_path, tiny())
    base = bench.baseline()
    assert "flips" not in base["sets"]["new"]
    bench.spoil()
    assert "flips" not in bench.looks.look(4, 400)["sets"]["new"]
    final = bench.looks.final(bench.model, 4, 400)
    for name, each in final["sets"].items():
        paths = (tmp_path / "state" / part / f"{name}.json" for part in ("baseline", "final"))
        old, new = (Scores.from_json(json.loads(path.read_text())) for path in paths)
        assert old.top1 is not None
        assert new.top1 is not None
        flips = each["flips"]
        assert flips["labels"] == len(old.top1) == each["tokens"]
        assert flips["top1"] == {"baseline": old.top1.mean(), "final": new.top1.mean()}
        assert flips["negative"]["mean"] == pytest.approx((old.top1 & ~new.top1).mean())
        assert flips["positive"]["mean"] == pytest.approx((~old.top1 & new.top1).mean())
        assert flips["net"]["mean"] == pytest.approx(new.top1.mean() - old.top1.mean())
        assert flips["documents"]["worse"]["share"] == np.mean(new.nats > old.nats)
    assert final["sets"]["old"]["flips"]["negative"]["mean"] > 0


def test_a_run_that_began_without_marks_ends_without_flips(tmp_path: Path) -> None:
    bench = Bench(tmp_path, tiny())
    bench.baseline()
    for name in SETS:
        path = tmp_path / "state" / "baseline" / f"{name}.json"
        path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "top1"}))
    again = Bench(tmp_path, bench.model)
    again.looks.resume()
    assert "flips" not in again.looks.final(bench.model, 4, 400)["sets"]["new"]


def test_the_baseline_is_found_again_by_what_it_depends_on(tmp_path: Path) -> None:
    first = Bench(tmp_path, tiny())
    line = first.baseline()
    assert set(first.scored) == {"new", "old"}
    again = Bench(tmp_path, tiny())
    found = again.baseline()
    assert again.scored == []
    assert found["sets"] == line["sets"]
    other = Bench(tmp_path, tiny(seed=4))
    assert other.baseline()["sets"] != line["sets"]
    assert set(other.scored) == {"new", "old"}, "other weights"
    changed = {**SETS, "old": EvaluationSet("old", Role.RETAINED, "sha256:x", documents("old", 35, seed=3))}
    third = Bench(tmp_path, tiny(), changed)
    assert third.baseline()["sets"]["new"] == line["sets"]["new"]
    assert set(third.scored) == {"old"}, "only the set that changed"


def test_a_broken_cache_entry_is_scored_again(tmp_path: Path) -> None:
    line = Bench(tmp_path, tiny()).baseline()
    for entry in (tmp_path / "cache").rglob("*.json"):
        entry.write_text(entry.read_text()[:40])
    again = Bench(tmp_path, tiny())
    assert again.baseline()["sets"] == line["sets"]
    assert set(again.scored) == {"new", "old"}


def test_a_resumed_run_takes_the_baseline_from_its_own_folder(tmp_path: Path) -> None:
    Bench(tmp_path, tiny()).baseline()
    resumed = Bench(tmp_path, tiny())
    resumed.looks.resume()
    assert resumed.looks.look(4, 400)["sets"]["new"]["delta"]["mean"] == 0.0
    (tmp_path / "state" / "baseline" / "new.json").unlink()
    with pytest.raises(DataError, match=r"baseline/new\.json: the baseline of this run is missing; start over"):
        Bench(tmp_path, tiny()).looks.resume()


def test_other_documents_than_the_baselines_are_refused(tmp_path: Path) -> None:
    Bench(tmp_path, tiny()).baseline()
    changed = {**SETS, "old": EvaluationSet("old", Role.RETAINED, "sha256:old", documents("other", 35, seed=3))}
    resumed = Bench(tmp_path, tiny(), changed)
    resumed.looks.resume()
    with pytest.raises(DataError, match="evaluation set old: the documents are not those of the baseline"):
        resumed.looks.look(4, 400)


def test_the_final_look_is_at_the_weights_as_exported_and_leaves_the_masters_alone(tmp_path: Path) -> None:
    bench = Bench(tmp_path, tiny(), export_type=torch.bfloat16)
    bench.baseline()
    bench.spoil()
    masters = {name: tensor.clone() for name, tensor in bench.model.state_dict().items()}
    on_the_way = Bench(tmp_path, bench.model, look_tokens=10**6)
    on_the_way.looks.resume()
    full = on_the_way.looks.look(4, 400)["sets"]["old"]["loss"]
    final = bench.looks.final(bench.model, 4, 400)["sets"]["old"]["loss"]
    assert all(torch.equal(tensor, masters[name]) for name, tensor in bench.model.state_dict().items())
    exported = tiny(seed=9)
    exported.load_state_dict({name: tensor.to(torch.bfloat16) for name, tensor in masters.items()})
    scored = Bench(tmp_path / "export", exported).baseline()["sets"]["old"]["loss"]
    assert final == pytest.approx(scored, abs=1e-7)
    assert abs(full - final) > 1e-5, "rounding is visible here"


def test_rounding_brings_the_masters_back_after_an_error_too() -> None:
    model = tiny()
    masters = [parameter.clone() for parameter in model.parameters()]

    with contextlib.suppress(KeyboardInterrupt), rounded_to(model, torch.float16):
        assert not torch.equal(next(model.parameters()), masters[0])
        raise KeyboardInterrupt
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), masters, strict=True))


def test_the_digest_of_weights_sees_every_bit() -> None:
    one, other = tiny(), tiny()
    assert weights_digest(one) == weights_digest(other)
    with torch.no_grad():
        last = list(other.parameters())[-1]
        last[-1] = torch.nextafter(last[-1], torch.tensor(torch.inf))
    assert weights_digest(one) != weights_digest(other)
