"""`model-card.md`: a Hugging Face model card from the report, the snapshot and the pins.

Decides what a stranger must know before loading the weights: what they came from, what they learned and forgot, and
what nobody measured. Claims no licence: that follows from the base model and the texts, and only people can decide it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rewarm_api.pins import Pins
from rewarm_api.quantity import format_tokens
from rewarm_api.snapshot import Group, Snapshot
from rewarm_trainer import benchmark_view
from rewarm_trainer.findings import change, signed, verdict_sentences
from rewarm_trainer.report_html import describe_base, describe_schedule


def model_card(report: Mapping[str, Any], snapshot: Snapshot, pins: Pins | None) -> str:
    """The card as Markdown with YAML front matter."""
    sections = [
        _front_matter(snapshot),
        f"# {plain(snapshot.name)}\n\n{_summary(report, snapshot, pins)}",
        "## What it learned and what it forgot\n\n" + _verdict(report),
        "## Training text\n\n" + _texts(report, snapshot, pins),
        "## How it was trained\n\n" + _recipe(report, snapshot, pins),
        "## Limits\n\n" + _limits(report),
        "## How to load it\n\n" + _loading(report),
    ]
    return "\n\n".join(sections) + "\n"


def _front_matter(snapshot: Snapshot) -> str:
    """Hugging Face metadata; quoted by YAML's own writer, because names are other people's text."""
    import yaml

    values: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "text-generation"}
    repository = snapshot.base_model.options.get("repo")
    if snapshot.base_model.kind == "huggingFace" and repository:
        values["base_model"] = repository
    datasets = sorted({name for source in snapshot.sources if (name := hub_name(source.uri))})
    if datasets:
        values["datasets"] = datasets
    values["tags"] = ["continual-pretraining", "rewarm"]
    return f"---\n{yaml.safe_dump(values, sort_keys=False, allow_unicode=True).strip()}\n---"


def hub_name(uri: str) -> str | None:
    """`owner/name` of an `hf://` address, None for any other."""
    scheme, _, rest = uri.partition("://")
    parts = [part for part in re.split("[?@]", rest.removeprefix("datasets/"))[0].split("/") if part]
    return "/".join(parts[:2]) if scheme == "hf" and len(parts) >= 2 else None


def _summary(report: Mapping[str, Any], snapshot: Snapshot, pins: Pins | None) -> str:
    tokens, replay = report["tokens"], report["replay"]
    corpora = ", ".join(source.name for source in snapshot.group(Group.CORPUS))
    base = describe_base(snapshot, pins)
    origin = (
        f"A model trained from scratch ({base})"
        if snapshot.base_model.kind == "scratch"
        else (f"A continued language model ({base})")
    )
    text = f"{plain(origin)}, trained on {format_tokens(tokens['trained'])} tokens of {corpora}"
    if replay["realized"]:
        text += f" with {replay['realized']:.2%} replay of older text"
    return text + ". Every number below compares it with its own starting point on the same documents."


def _verdict(report: Mapping[str, Any]) -> str:
    lines = [f"- **{plain(finding.word)}:** {plain(finding.text)}" for finding in verdict_sentences(report)]
    rows = [
        (
            name,
            value["role"],
            f"{value['documents']:,}",
            _fixed(value["baseline"]["loss"]),
            _fixed(value["final"]["loss"]),
            change(value["delta"]).replace(" nats per token", "") if value["delta"]["mean"] is not None else "–",
            value["verdict"] or "–",
        )
        for name, value in report["sets"].items()
    ]
    head = ("set", "role", "documents", "loss before", "after", "change [95 %]", "verdict")
    parts = ["\n".join(lines) or "No evaluation set was judged."]
    if rows:
        parts.append(markdown_table(head, rows))
    forgetting, gain = report["forgetting"], report["gain"]
    summary = []
    if forgetting["max"] is not None:
        mean = signed(forgetting["mean"])
        summary.append(f"Forgetting: {signed(forgetting['max'])} on the worst Retained set, {mean} on average.")
    if gain["mean"] is not None:
        summary.append(f"Gain: {signed(gain['mean'])} on average over New sets.")
    if summary:
        parts.append(" ".join(summary) + " Losses are nats per token; a change below zero is better.")
    if report.get("benchmarks"):
        shown = benchmark_view.rows(report["benchmarks"], report.get("serving"))
        parts.append(markdown_table(benchmark_view.COLUMNS, [tuple(row.values()) for row in shown]))
    if report["gates"]:
        gates = [(gate["name"], f"{gate['limit']:g}", _sign(gate["value"]), gate["result"]) for gate in report["gates"]]
        parts.append(markdown_table(("gate", "limit", "measured", "result"), gates))
    return "\n\n".join(parts)


def _texts(report: Mapping[str, Any], snapshot: Snapshot, pins: Pins | None) -> str:
    trained, epochs = report["tokens"]["by_source"], report["tokens"]["epochs"]
    rows = []
    for source in snapshot.sources:
        pin = pins.sources.get(source.name) if pins else None
        rows.append(
            (
                source.name,
                "new text" if source.group is Group.CORPUS else "replay",
                source.license or "**not stated**",
                f"{pin.documents:,}" if pin else "–",
                format_tokens(trained.get(source.name, 0)),
                f"{epochs.get(source.name) or 0:.2f}",
                f"`{pin.digest[:19]}…`" if pin else "–",
            )
        )
    return markdown_table(("source", "used as", "licence", "documents", "tokens trained", "epochs", "digest"), rows)


def _recipe(report: Mapping[str, Any], snapshot: Snapshot, pins: Pins | None) -> str:
    training, replay = snapshot.training, report["replay"]
    rows = [
        ("base model", describe_base(snapshot, pins)),
        ("replay ratio", f"{replay['requested']:.2%} asked, {replay['realized']:.3%} realised"),
        ("schedule", describe_schedule(snapshot)),
        ("tokens", f"{report['tokens']['trained']:,} in steps of {training.global_batch_tokens:,}"),
        ("sequence length", f"{training.sequence_length:,}"),
        ("optimizer state at the start", snapshot.schedule.optimizer_state),
        ("trained weights", f"LoRA of rank {training.lora.rank}, merged" if training.lora else "all"),
        ("seed", str(training.seed)),
        ("experiment", f"`{report['run']['snapshot_digest']}`"),
    ]
    return markdown_table(("what", "value"), rows)


def _limits(report: Mapping[str, Any]) -> str:
    measured = "next-token loss and the tasks above were" if report.get("benchmarks") else "next-token loss was"
    lines = [
        "The intervals are over documents of these evaluation sets; other text may behave otherwise.",
        "They do not see seed noise: they judge this checkpoint, not the recipe.",
        f"Only {measured} measured: not instruction following, not safety, not bias, not facts.",
    ]
    said = [remark[:1].upper() + remark[1:] for remark in report.get("remarks", ()) if "seed noise" not in remark]
    lines += [remark if remark.endswith(".") else f"{remark}." for remark in said]
    gaps = [
        f"On the way, loss on {name} was up to {signed(value['stability_gap']['depth'])} above the base's."
        for name, value in report["sets"].items()
        if value["stability_gap"]["depth"]
    ]
    if any(not value["verdict"] for value in report["sets"].values()):
        lines.append("Sets with fewer than 30 documents are too small for a verdict.")
    return "\n".join(f"- {plain(line)}" for line in [*lines, *gaps])


def _loading(report: Mapping[str, Any]) -> str:
    step = report["checkpoint"]["step"]
    return f"""The checkpoint of step {step:,} as a Hugging Face folder:

```sh
rewarm export WORK_FOLDER MODEL
```

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("MODEL")
tokenizer = AutoTokenizer.from_pretrained("MODEL")
inputs = tokenizer("Once", return_tensors="pt")
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=40)[0]))
```"""


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in which no text can end a cell or a row early."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def plain(text: str) -> str:
    """Other people's text as one line that stays text: no markup, no picture, no link of theirs."""
    line = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return line.replace("](", "]&#40;").replace("][", "]&#91;")


def _cell(text: str) -> str:
    """Text that cannot end its cell or its row early."""
    return plain(text).replace("|", "\\|")


def _fixed(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _sign(value: float | None) -> str:
    return "–" if value is None else signed(value, 4)
