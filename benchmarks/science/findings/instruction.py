"""Row 8: what instruction tuning changed, added to a model that learned a domain.

base(general) ──┬─> exchanges: the instruct model ──> german: the instruct model goes on
                └─> german: the domain model ──> finish: instructResidual

The form is questions and answers; german comes with a quarter of replayed general text, the form is never replayed.
The answers are sentences of pages that every arm's base has read as prose: losses on the form are form and content.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from rewarm_bench.pages import percent, words
from science import figures
from science.arms import Arm
from science.claims import Above, Below, Claim
from science.corpora import EXCHANGES, GENERAL, GERMAN
from science.finding import Finding, Measured, Results, Table
from science.recipes import Setting, base, continued, cosine
from science.results import change, contrast, share_removed

JINDAL = "Jindal et al. 2024, 2410.10739"
PEAK, RATIO = 0.25, 0.25
TEXTS = (EXCHANGES, GERMAN, GENERAL)
ARMS = {"domain": "domain model", "residual": "domain model + residual", "onward": "instruct model goes on"}

CLAIMS = (
    Claim(
        "adds",
        "The residual lowers the domain model's loss on the form: it is the residual, not the replayed English.",
        JINDAL,
        Below(),
    ),
    Claim(
        "keeps",
        "With the residual the domain model gives up less than half of what instruction tuning gained on the form.",
        f"{JINDAL}: instruction ability without instruction tuning",
        Below(0.5),
    ),
    Claim(
        "learned",
        "And it gives up less than a quarter of what it had gained on the domain.",
        f"{JINDAL}: the domain's knowledge stays",
        Below(0.25),
    ),
    Claim(
        "onward",
        "Continuing the instruct model instead loses the form: its loss there ends above that of the residual model.",
        f"{JINDAL}: continual pretraining of the instruct model loses instruction ability",
        Above(),
    ),
)


def arms(setting: Setting, seed: int) -> Mapping[str, Arm]:
    on, gentle = base(setting, seed), cosine(setting, PEAK)
    instruct = continued("instruct", setting, seed, on, EXCHANGES, schedule=gentle)
    weights = {GENERAL: 1, EXCHANGES: 0}
    phases = {"phases": [{"name": "all", "share": "100%", "weights": weights}]}
    go = partial(
        continued, setting=setting, seed=seed, new=GERMAN, schedule=gentle, ratio=RATIO, retained=(GENERAL, EXCHANGES)
    )
    residual = {"finish": [{"instructResidual": {"instruct": {"run": {"path": instruct}}}}]}
    return {
        "instruct": instruct,
        "domain": go("instruct-domain", on=on, lines=phases),
        "residual": go("instruct-residual", on=on, lines={**phases, **residual}),
        "onward": go("instruct-onward", on=instruct, lines=phases),
    }


def measure(results: Results, setting: Setting) -> Measured:
    instruct, domain, residual, onward = (results[name] for name in ("instruct", *ARMS))
    kept_back = share_removed(instruct, residual, EXCHANGES)
    comparisons = {
        "adds": {"": contrast(residual, domain, EXCHANGES)},
        "keeps": {"": kept_back},
        "learned": {"": share_removed(domain, residual, GERMAN)},
        "onward": {"": contrast(onward, residual, EXCHANGES)},
    }
    from_base: list[tuple[str, ...]] = [
        ("instruct model", words(change(instruct, EXCHANGES)), "–", words(change(instruct, GENERAL)))
    ]
    from_base += [
        (ARMS[name], *(words(change(results[name], text)) for text in TEXTS)) for name in ("domain", "residual")
    ]
    against = [(ARMS["onward"], *(words(contrast(onward, residual, text)) for text in TEXTS))]
    header = ("form (exchanges)", "domain (german)", "old text (general)")
    tables = [
        Table(
            "Change of the loss from the base; the residual gives up "
            f"{percent(kept_back)} of the form and {percent(share_removed(domain, residual, GERMAN))} of the domain:",
            ("model", *header),
            from_base,
        ),
        Table("Loss above that of the domain model with the residual:", ("model", *header), against),
    ]
    points = {
        ARMS[name]: (change(results[name], EXCHANGES), change(results[name], GERMAN)) for name in ("domain", "residual")
    }
    return Measured(comparisons, tables, [partial(figures.plane, points=points, old=EXCHANGES, new=GERMAN)])


FINDING = Finding("instruction", "Instruction residual", CLAIMS, arms, measure)
