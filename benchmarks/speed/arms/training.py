"""The trainers of our own environment, each on the same rows, the same model and the same optimizer settings.

Rewarm        the product's own loader and updater, as `rewarm run` builds them
Bare          a plain PyTorch loop with the same techniques, and nothing else
HuggingFace   transformers.Trainer
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable
from typing import Any

import rewarm_trainer  # noqa: F401 - before torch: it sets how long OpenMP spins

import torch  # isort: skip
from torch import nn

from rewarm_api.snapshot import Optimizer
from rewarm_trainer import techniques
from rewarm_trainer.batches import Loader, document_positions
from rewarm_trainer.memory import keep_freed_memory
from rewarm_trainer.micro_batch import micro_batch_rows
from rewarm_trainer.model import TokenLosses, build_optimizer, machine_of, scratch_model
from rewarm_trainer.order import Order, Phase
from rewarm_trainer.update import Updater
from speed.work import BETAS, CLIP, DECAY, EOS, EPSILON, RATE, Text, Work

CPU = torch.device("cpu")


def model_of(work: Work) -> nn.Module:
    return scratch_model(work.config(), work.vocabulary, EOS, seed=1)


def order_of(text: Text, work: Work) -> Order:
    return Order(
        [Phase(0, 0.0)], seed=1, rows_per_step=work.rows, sizes={"text": text.rows}, corpus={"text": 1.0}, replay={}
    )


def loader_of(text: Text, work: Work, *, ahead: bool = True, masking: bool = True) -> Loader:
    return Loader({"text": text}, eos=EOS, masking=masking, rank=0, world=1, rows=work.rows, ahead=ahead)


def attention_of(work: Work, rows: int, bf16: bool, compiled: bool, device: torch.device = CPU) -> str:
    heads = work.heads * work.layers
    chosen = techniques.Work(work.parameters, 0, work.vocabulary, rows, work.length, heads=heads)
    machine, precision = machine_of(device), "BF16" if bf16 else "FP32"
    plain, _ = techniques.plain_attention("auto", precision, compiled, machine, chosen)
    return "eager" if plain else "sdpa"


class Rewarm:
    """The product's updater and loader."""

    def __init__(
        self,
        work: dict[str, int],
        *,
        bf16: bool,
        compiled: bool,
        chunked: bool | None = None,
        device: str = "cpu",
        micro_rows: int | None = None,
        without: str = "",
        masking: bool = True,
    ) -> None:
        """`chunked`: head and loss together, or not; None: as the product chooses. `device`: cpu, or auto.
        `without`: a field of techniques.Switches that is off. `masking`: documents of a row are kept apart."""
        from accelerate import Accelerator

        self._work = work = Work(**work)  # type: ignore[assignment]
        text = Text(work)
        is_cpu = device == "cpu" or not torch.cuda.is_available()
        if is_cpu:
            if without != "freed_memory":
                keep_freed_memory()
            os.environ["ACCELERATE_USE_CPU"] = "true"
        accelerator = Accelerator(cpu=is_cpu, mixed_precision="bf16" if bf16 else "no")
        rows = micro_batch_rows(micro_rows, work.rows, work.length)
        losses = self._losses = TokenLosses(model_of(work))
        attention = attention_of(work, rows, bf16, compiled, accelerator.device)
        losses.model.set_attn_implementation("sdpa" if without == "plain_attention" else attention)  # type: ignore[operator]
        wanted, _ = techniques.chunked_loss(
            "auto" if chunked is None else "on" if chunked else "off",
            techniques.Work(work.parameters, 0, work.vocabulary, rows, work.length),
        )
        if wanted:
            losses.chunk_loss(compiled=compiled)
        if compiled:
            losses.compile_blocks()
        settings = Optimizer(
            kind="AdamW",
            beta1=BETAS[0],
            beta2=BETAS[1],
            epsilon=EPSILON,
            weight_decay=DECAY,
            gradient_clip=CLIP,
        )
        module, optimizer = accelerator.prepare(losses, build_optimizer(losses.model, settings))
        self._updater = Updater(accelerator, module, optimizer.optimizer, micro_rows=rows, clip=CLIP, seed=1, sources=1)
        self._loader = loader_of(text, work, ahead=without != "read_ahead", masking=masking)  # type: ignore[arg-type]
        self._order, self._step = order_of(text, work), 0  # type: ignore[arg-type]

        parameters = sum(parameter.numel() for parameter in losses.model.parameters())
        self.facts = {"parameters": parameters, "attention": attention, "chunked": wanted}

    def run(self, steps: int) -> None:
        outcome = None
        for _ in range(steps):
            batch = self._loader.batch(self._order, self._step)
            before, outcome = (
                outcome,
                self._updater.apply(self._step, batch, RATE, stop=False, commit=False, by_source=self._step % 10 == 0),
            )
            if before is not None:
                before.read()
            self._step += 1
        if outcome is not None:
            self._loss = outcome.read().loss

    def loss(self) -> float:
        """Of the last update."""
        return self._loss


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean nats of the labels, in FP32 whatever the logits are in."""
    return nn.functional.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=-100)


class Bare:
    """Forward, backward, clip, step: the least that trains, with the same techniques as the product."""

    def __init__(self, work: dict[str, int], *, bf16: bool, compiled: bool, techniques: bool = True) -> None:
        """`techniques` False: as a tutorial writes it, but for the compute type."""
        keep_freed_memory()
        self._work, self._bf16 = Work(**work), bf16
        self._text = Text(self._work)
        self._model = model_of(self._work)
        self._loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = cross_entropy
        if techniques:
            self._model.set_attn_implementation(  # type: ignore[operator]
                attention_of(self._work, self._work.rows, bf16, compiled)
            )
        if compiled:
            for block in self._model.model.layers:  # type: ignore[union-attr]
                block.compile(dynamic=False)
            # With the cast inside, as the product has it: what is compiled with it need not be in memory in FP32.
            self._loss = torch.compile(cross_entropy, dynamic=False)
        matrices = [p for p in self._model.parameters() if p.ndim >= 2]
        vectors = [p for p in self._model.parameters() if p.ndim < 2]
        self._optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": DECAY}, {"params": vectors, "weight_decay": 0.0}],
            lr=RATE,
            betas=BETAS,
            eps=EPSILON,
            fused=True,
        )
        self._loader, self._order = loader_of(self._text, self._work), order_of(self._text, self._work)
        self._step = 0

    def run(self, steps: int) -> None:
        for _ in range(steps):
            batch = self._loader.batch(self._order, self._step)
            inputs, labels = torch.from_numpy(batch.inputs), torch.from_numpy(batch.labels)
            assert batch.positions is not None
            with torch.autocast("cpu", torch.bfloat16, enabled=self._bf16):
                logits = self._model(
                    input_ids=inputs, position_ids=torch.from_numpy(batch.positions), use_cache=False
                ).logits
            loss = self._loss(logits, labels)
            loss.backward()
            nn.utils.clip_grad_norm_(self._model.parameters(), CLIP)
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)
            self._step += 1


class HuggingFace:
    """transformers.Trainer on the same rows, going on from one request to the next; logging and saving are off."""

    def __init__(self, work: dict[str, int], *, bf16: bool, compiled: bool) -> None:
        from transformers import Trainer, TrainerCallback, TrainingArguments

        sizes = Work(**work)
        go, done = threading.Semaphore(0), threading.Semaphore(0)
        self._go, self._done = go, done

        class Gate(TrainerCallback):  # type: ignore[misc]
            """Holds the Trainer before each step until somebody asks for it."""

            def on_step_begin(self, *arguments: Any, **keywords: Any) -> None:
                go.acquire()

            def on_step_end(self, *arguments: Any, **keywords: Any) -> None:
                done.release()

        arguments = TrainingArguments(
            output_dir=tempfile.mkdtemp(prefix="rewarm-speed-"),
            per_device_train_batch_size=sizes.rows,
            max_steps=1_000_000,
            learning_rate=RATE,
            weight_decay=DECAY,
            adam_beta1=BETAS[0],
            adam_beta2=BETAS[1],
            max_grad_norm=CLIP,
            bf16=bf16,
            torch_compile=compiled,
            lr_scheduler_type="constant",
            logging_strategy="no",
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
            remove_unused_columns=False,
        )
        trainer = Trainer(model_of(sizes), arguments, train_dataset=_Examples(Text(sizes)), callbacks=[Gate()])
        # A daemon: the arm is killed while it waits for a request that never comes.
        threading.Thread(target=self._train, args=[trainer], daemon=True).start()

    def _train(self, trainer: Any) -> None:
        try:
            trainer.train()
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self._go.release()
            self._done.acquire()


class _Examples(torch.utils.data.Dataset):  # type: ignore[type-arg]
    def __init__(self, text: Text) -> None:
        self._text = text

    def __len__(self) -> int:
        return self._text.rows

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        row = self._text.row(index)
        # The Trainer's model shifts labels itself: the label at j + 1 is the one after input j.
        labels = row[:-1].copy()
        labels[1:][row[:-2] == EOS] = -100
        return {
            "input_ids": torch.from_numpy(row[:-1].copy()),
            "labels": torch.from_numpy(labels),
            "position_ids": torch.from_numpy(document_positions(row[None, :-1], EOS)[0]),
        }
