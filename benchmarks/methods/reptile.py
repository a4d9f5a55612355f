"""What a Reptile step costs beside the updates of its interval: `python benchmarks/methods/reptile.py [--write]`.

Updates and Reptile steps take turns in one process on one model, so that whatever else the machine does hits both.
`overhead` is the Reptile step's share of an interval's time (median over rounds); --write puts it into
docs/meta-experience.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import rewarm_trainer  # noqa: F401 - before torch: it sets how long OpenMP spins
from rewarm_api.snapshot import Optimizer
from rewarm_bench.pages import replace_in
from rewarm_trainer.accelerator import open_accelerator
from rewarm_trainer.batches import Loader
from rewarm_trainer.keeper import parameters_of
from rewarm_trainer.methods.meta_experience import MetaExperience
from rewarm_trainer.model import TokenLosses, build_optimizer, scratch_model
from rewarm_trainer.order import Order, Phase
from rewarm_trainer.update import Updater
from speed.work import CLIP, EOS, RATE, Text, Work

PAGE = Path(__file__).resolve().parents[2] / "docs" / "meta-experience.md"
MARKS = "<!-- reptile.py writes from here -->", "<!-- to here -->"


def seconds(action: Callable[[], object]) -> float:
    began = time.process_time()
    action()
    return time.process_time() - began


def measure(work: Work, interval: int, rounds: int) -> dict[str, float]:
    """CPU seconds of an update and of a Reptile step, round by round."""
    accelerator, _ = open_accelerator("FP32")
    model = scratch_model(work.config(), work.vocabulary, EOS, seed=1)
    settings = Optimizer(kind="AdamW", beta1=0.9, beta2=0.95, epsilon=1e-8, weight_decay=0.1, gradient_clip=CLIP)
    module, prepared = accelerator.prepare(TokenLosses(model), build_optimizer(model, settings))
    updater = Updater(accelerator, module, prepared.optimizer, micro_rows=work.rows, clip=CLIP, seed=1, sources=1)
    text = Text(work)
    loader = Loader({"text": text}, eos=EOS, masking=True, rank=0, world=1, rows=work.rows)
    order = Order(
        [Phase(0, 0.0)], seed=1, rows_per_step=work.rows, sizes={"text": text.rows}, corpus={"text": 1.0}, replay={}
    )
    method = MetaExperience(parameters_of(model), interval=1, epsilon=0.1, last=0)
    updates, steps = [], []
    for step in range(rounds + 1):
        batch = loader.batch(order, step)
        one = seconds(
            lambda step=step, batch=batch: updater.apply(
                step, batch, RATE, stop=False, commit=False, by_source=False
            ).read()
        )
        other = seconds(lambda step=step: method.after_update(step + 1))
        if step:  # the first round allocates
            updates.append(one)
            steps.append(other)
    loader.close()
    ratios = [step / (interval * update) for update, step in zip(updates, steps, strict=True)]
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "tokens_per_update": work.tokens,
        "interval": interval,
        "rounds": rounds,
        "update_seconds": round(statistics.median(updates), 4),
        "reptile_seconds": round(statistics.median(steps), 5),
        "overhead": float(np.format_float_positional(statistics.median(ratios), 3, fractional=False)),
    }


def sentence(found: dict[str, float]) -> str:
    """For people."""
    return (
        f"A Reptile step takes {1000 * found['reptile_seconds']:.1f} ms of CPU time beside "
        f"{1000 * found['update_seconds']:.0f} ms of an update ({found['parameters'] / 1e6:.1f}M parameters, "
        f"{found['tokens_per_update']:,} tokens, FP32): {100 * found['overhead']:.2g} % of an interval of "
        f"{found['interval']} updates (bar: 1 %). `python benchmarks/methods/reptile.py --write`"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--interval", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--write", action="store_true", help="write the sentence into docs/meta-experience.md")
    options = parser.parse_args()
    chosen = Work(hidden=options.hidden, layers=options.layers, vocabulary=8192, length=256, rows=8)
    found = measure(chosen, options.interval, options.rounds)
    print(json.dumps(found))
    if options.write:
        replace_in(PAGE, *MARKS, sentence(found))
