"""What a Reptile step costs beside the updates of its interval: `python benchmarks/methods/reptile.py`.

Updates and Reptile steps take turns in one process on one model, so that whatever else the machine does hits both.
Prints one JSON object; `overhead` is the Reptile step's share of an interval's time (median over rounds).
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

sys.path.insert(0, str(Path(__file__).parents[1] / "speed"))

from arms import CLIP, EOS, RATE, Text, Work

from rewarm_api.snapshot import Optimizer
from rewarm_trainer.batches import Loader
from rewarm_trainer.keeper import parameters_of
from rewarm_trainer.methods.meta_experience import MetaExperience
from rewarm_trainer.model import TokenLosses, build_optimizer
from rewarm_trainer.order import Order, Phase
from rewarm_trainer.session import open_accelerator
from rewarm_trainer.update import Updater


def seconds(action: Callable[[], object]) -> float:
    began = time.process_time()
    action()
    return time.process_time() - began


def measure(work: Work, interval: int, rounds: int) -> dict[str, float]:
    """CPU seconds of an update and of a Reptile step, round by round."""
    accelerator, _ = open_accelerator("FP32")
    model = work.model()
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


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--interval", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    options = parser.parse_args()
    chosen = Work(hidden=options.hidden, layers=options.layers, vocabulary=8192, length=256, rows=8)
    print(json.dumps(measure(chosen, options.interval, options.rounds)))
