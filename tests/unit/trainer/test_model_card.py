"""The card says what the weights came from, what they learned and forgot, and what nobody measured."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import yaml

from rewarm_api.snapshot import BaseModelSource
from rewarm_trainer.model_card import hub_name, model_card
from rewarm_trainer.report import build_report


def card(example: Any, **changes: Any) -> str:
    return model_card(build_report(replace(example.facts, **changes)), example.snapshot, example.pins)


def front_matter(text: str) -> dict[str, Any]:
    _, header, _ = text.split("---\n", 2)
    return yaml.safe_load(header)


def test_the_card_opens_with_metadata_that_the_hub_reads(example: Any) -> None:
    header = front_matter(card(example))
    assert header["base_model"] == "example/tiny-base"
    assert header["library_name"] == "transformers"
    assert header["pipeline_tag"] == "text-generation"
    assert "continual-pretraining" in header["tags"]
    assert "license" not in header, "nobody but the people who publish it can decide the licence"


def test_the_card_tells_lineage_verdict_and_limits(example: Any) -> None:
    text = card(example)
    for words in (
        "# stdlib-replay",
        "revision 4e20de362430cd3b72f300e6b0f18e50e7166e08",
        "**Learned:** new-domain loss (stdlib-code) fell by 0.841 nats per token [0.837, 0.845].",
        "**Forgot:** old-domain loss (stdlib-docs) rose by 0.012 nats per token [0.008, 0.017].",
        "| stdlib-code | new text | PSF-2.0 | 8,231 | 2.95M | 1.73 |",
        "| stdlib-docs | replay | **not stated** |",
        "25.00% asked, 25.000% realised",
        "Rewarm, peak 1e-3, warm-up 5%, Cosine decay, final 1e-4",
        "| maxForgetting | 0.02 | +0.0124 | Pass |",
        "Proxy replay: the replay text is not known to be the base model's own training data.",
        "fewer than 30 documents",
        'AutoModelForCausalLM.from_pretrained("MODEL")',
        "sha256:" + "3a" * 32,
    ):
        assert words in text


def test_every_table_is_rectangular_whatever_the_names(example: Any) -> None:
    sources = tuple(
        source.model_copy(update={"license": "a | b\nc"}) if source.name == "stdlib-code" else source
        for source in example.snapshot.sources
    )
    example.snapshot = example.snapshot.model_copy(update={"sources": sources})
    text = card(example)
    assert r"a \| b c" in text
    for block in text.split("\n\n"):
        if block.startswith("| "):
            widths = {line.replace(r"\|", "").count("|") for line in block.splitlines()}
            assert len(widths) == 1


@pytest.mark.parametrize(
    "evil",
    [
        '<script>alert("x")</script>', "![](http://evil/x.png)", "[click](javascript:alert(1))", "<http://evil/x>",
        "text\n\n## A heading of theirs\n\n[x]: javascript:1",
    ],
)  # fmt: skip
def test_texts_of_other_people_stay_text(example: Any, evil: str) -> None:
    """Names, licences, remarks and messages come from manifests and from files: on a hub they must not be markup."""
    sources = tuple(source.model_copy(update={"license": evil}) for source in example.snapshot.sources)
    base = BaseModelSource(kind="mlflow", options={"model": evil, "alias": evil})
    example.snapshot = example.snapshot.model_copy(update={"sources": sources, "base_model": base})
    sets = {evil: example.facts.sets["stdlib-docs"]}
    text = card(example, sets=sets, remarks=[evil], message=evil, outcome="Unknown")
    shown = text.split("---\n", 2)[2]
    for mark in ("<script", "](http", "](java", "<http", "\n## A heading", "\n[x]:"):
        assert mark not in shown


def test_a_model_from_scratch_is_not_called_continued(example: Any) -> None:
    scratch = BaseModelSource(kind="scratch", options={"config": {"model_type": "llama"}})
    example.snapshot = example.snapshot.model_copy(update={"base_model": scratch})
    text = card(example)
    assert "A model trained from scratch" in text
    assert "base_model" not in front_matter(text)


def test_a_run_without_sets_says_that_nothing_was_judged(example: Any) -> None:
    text = card(example, sets={}, gates=(), forgetting_max=None, forgetting_mean=None, gain_mean=None)
    assert "No evaluation set was judged." in text


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("hf://datasets/org/corpus@main/data/*.parquet", "org/corpus"),
        ("hf://org/corpus?split=train", "org/corpus"),
        ("s3://bucket/org/corpus", None),
        ("./text/*.txt", None),
    ],
)
def test_datasets_of_the_hub_are_named(uri: str, name: str | None) -> None:
    assert hub_name(uri) == name
