"""Everything one training process needs, built from a prepared work folder and nothing else.

The same code runs for one process on a laptop and for many under a launcher; only rank 0 writes.
"""

from __future__ import annotations

import os
import platform
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from rewarm_api.errors import ManifestError, Problem
from rewarm_api.quantity import parse_length
from rewarm_api.snapshot import Group
from rewarm_trainer import harness, lora, sharding, techniques
from rewarm_trainer import model as models
from rewarm_trainer import teacher as teachers
from rewarm_trainer.accelerator import PATIENCE, open_accelerator
from rewarm_trainer.answering import Answerer
from rewarm_trainer.base import Base, locate
from rewarm_trainer.batches import Loader
from rewarm_trainer.benchmarks import Benchmarks
from rewarm_trainer.checkpoint import OPTIMIZER, Checkpoints, manifest_root
from rewarm_trainer.corpus.sets import largest_id, open_set
from rewarm_trainer.corpus.source import SubsetSource, TokenSource, open_source
from rewarm_trainer.corpus.tokenise import folder_of
from rewarm_trainer.corpus.tokenizer import TokenizerHandle
from rewarm_trainer.experiment import needs_whole, processes_problem
from rewarm_trainer.from_run import earlier_sources
from rewarm_trainer.keeper import Keeper, load_optimizer, load_weights, parameters_of, reset_moments, weights_of
from rewarm_trainer.looks import EvaluationSet, Looks, Scorer
from rewarm_trainer.methods.meta_experience import MetaExperience
from rewarm_trainer.micro_batch import micro_batch_rows
from rewarm_trainer.peers import Peers
from rewarm_trainer.prepared_run import Run
from rewarm_trainer.sample_weights import Weighting
from rewarm_trainer.state import TrainState
from rewarm_trainer.tensor_files import StoredTensors, parts_of
from rewarm_trainer.update import Updater

if TYPE_CHECKING:
    from accelerate import Accelerator


EVALUATION_BATCH_TOKENS = 8192


@dataclass
class Session:
    """The model and all that trains, scores and saves it."""

    run: Run
    accelerator: Accelerator
    precision: str
    base: Base
    model: nn.Module = field(init=False)
    losses: models.TokenLosses = field(init=False)
    module: nn.Module = field(init=False)
    optimizer: torch.optim.Optimizer = field(init=False)
    compiled: bool = field(init=False)
    attention: str = field(init=False)
    chunked_loss: bool = field(init=False)
    read_ahead: bool = field(init=False)
    sharded: bool = field(init=False)
    micro_rows: int = field(init=False)
    method: MetaExperience | None = field(init=False)
    adapter: dict[str, Any] | None = field(init=False)
    _untouched: bool = field(init=False, default=True)

    @staticmethod
    def open(run: Run) -> Session:
        accelerator, precision = open_accelerator(run.snapshot.training.precision)
        base = locate(run.snapshot, manifest_root(run.work), run.cache, run.pins.base_model)
        session = Session(run, accelerator, precision, base)
        session._build()
        return session

    @property
    def rank(self) -> int:
        return int(self.accelerator.process_index)

    @property
    def world(self) -> int:
        return int(self.accelerator.num_processes)

    def barrier(self) -> None:
        """Until every rank is here."""
        if self.world > 1:
            torch.distributed.barrier()

    def _fresh_model(self) -> nn.Module:
        if self.base.folder is None:
            options = self.run.snapshot.base_model.options
            pins = self.run.pins
            return models.scratch_model(options["config"], pins.vocabulary, pins.eos, self.run.snapshot.training.seed)
        return models.load_model(self.base.folder)

    def _build(self) -> None:
        run, training = self.run, self.run.snapshot.training
        rows = run.plan.rows_per_step
        if problem := processes_problem(run.snapshot, self.world):
            raise problem
        began = time.perf_counter()
        self.model = self._fresh_model()
        self.model_seconds = time.perf_counter() - began
        models.check_vocabulary(self.model, self._largest_id(), str(run.work.corpora))
        models.check_positions(self.model, training.sequence_length)
        models.freeze(self.model, training.freeze)
        self.adapter = lora.add_adapters(self.model, training.lora, training.seed) if training.lora else None
        self.losses = models.TokenLosses(self.model)
        parameters = self.parameters = sum(parameter.numel() for parameter in self.model.parameters())
        device, recomputed = self.accelerator.device, training.activation_checkpointing
        shape = models.shape_of(self.model, run.pins.vocabulary)
        tokens = models.tokens_at_a_time(shape, device, processes=self.world, recomputed=recomputed)
        own_rows = rows // self.world
        self.micro_rows = micro_batch_rows(training.micro_batch_rows, own_rows, training.sequence_length, tokens)
        models.checkpoint_activations(self.model, recomputed)
        self._choose_techniques(parameters, shape.heads)
        if self.sharded:
            # By torch itself: accelerate's FSDP2 becomes DDP on a CPU without a word.
            sharding.shard(self.losses, device, self.precision)
            self.module, self.optimizer = self.losses, models.build_optimizer(self.model, training.optimizer)
        else:
            optimizer = models.build_optimizer(self.model, training.optimizer)
            self.module, prepared = self.accelerator.prepare(self.losses, optimizer)
            self.optimizer = prepared.optimizer
        self.module.train()
        self.method = self._method()

    def _choose_techniques(self, parameters: int, heads: int) -> None:
        """What makes a step fast on this device; `rewarm plan` shows the same choices."""
        training, machine = self.run.snapshot.training, models.machine_of(self.accelerator.device)
        switches = techniques.Switches.read(training.precision, os.environ, training.parallelism)
        work = techniques.Work(
            parameters,
            self.run.plan.tokens,
            self.run.pins.vocabulary,
            self.micro_rows,
            training.sequence_length,
            processes=self.world,
            # A device is one process's; the memory of a host is for all that run on it.
            sharing=int(os.environ.get("LOCAL_WORLD_SIZE", self.world)) if machine.device == "cpu" else 1,
            needs_whole=needs_whole(self.run.snapshot),
            heads=heads,
        )
        self.sharded, _ = techniques.sharding(switches.parallelism, machine, work)
        self.compiled, _ = techniques.compilation(switches.compilation, self.precision, machine, work)
        plain, _ = techniques.plain_attention(switches.plain_attention, self.precision, self.compiled, machine, work)
        self.attention = "eager" if plain else "sdpa"
        self.read_ahead, _ = techniques.read_ahead(switches.read_ahead)
        self.model.set_attn_implementation(self.attention)  # type: ignore[operator]
        wanted, _ = techniques.chunked_loss(switches.chunked_loss, work)
        self.chunked_loss = wanted and self.losses.chunk_loss(compiled=self.compiled)
        if self.compiled:
            self.losses.compile_blocks()

    def _method(self) -> MetaExperience | None:
        asked = self.run.snapshot.replay.meta_experience
        if asked is None:
            return None
        trained = {name: value for name, value in parameters_of(self.model).items() if value.requires_grad}
        return MetaExperience(trained, interval=asked.interval, epsilon=asked.epsilon, last=self.run.plan.steps)

    def after_update(self, step: int) -> None:
        """What the run's method does to the weights after update `step`."""
        self._untouched = False
        if self.method is not None:
            self.method.after_update(step)

    def _largest_id(self) -> int:
        sets = [largest_id(folder) for folder in self.set_folders().values()]
        return max([source.index.largest_id for source in self.sources().values()] + sets)

    def sources(self) -> dict[str, TokenSource | SubsetSource]:
        """Every source by name; those that replay an earlier run's rows come from that run's state."""
        run = self.run
        length = run.snapshot.training.sequence_length
        earlier = earlier_sources(run.snapshot, manifest_root(run.work), run.cache)
        return {
            name: earlier[name]
            if name in earlier
            else open_source(folder_of(pin.prepared, "sources", run.cache), name, length)
            for name, pin in run.pins.sources.items()
        }

    def set_folders(self) -> dict[str, Path]:
        return {name: folder_of(pin.prepared, "sets", self.run.cache) for name, pin in self.run.pins.sets.items()}

    def load_base(self) -> TrainState:
        """Weights and optimizer as they were before the first update; the optimizer by its policy."""
        if self.adapter:
            # The base is frozen: only the adapters ever moved.
            lora.start(self.model, self.run.snapshot.training.seed)
        elif not self._untouched:
            # At the start the weights are the base's as they were read: reading them again would take its time twice.
            load_weights(self.model, weights_of(self._fresh_model()), "the base model")
        self.start_optimizer()
        return self.run.first_state()

    def optimizer_policy(self) -> str:
        """Keep when a run goes on in an Infinite run's constant segment (no re-warming), else Reset."""
        asked = self.run.snapshot.schedule.optimizer_state
        if asked != "Auto":
            return asked
        own = self.adapter is None and not self.base.pin.get("adapted")
        return "Keep" if own and self.base.pin.get("in_constant_segment") else "Reset"

    def start_optimizer(self) -> None:
        """Keep, ResetMoments or Reset what the base's own run left behind (64 when there is nothing to keep)."""
        policy = self.optimizer_policy()
        self.optimizer.state.clear()
        if policy == "Reset":
            return
        is_whole = self.base.is_run and not self.base.pin.get("adapted")
        paths = parts_of(self.base.folder, OPTIMIZER) if self.base.folder and is_whole else []
        if not paths:
            raise ManifestError(
                Problem(
                    "spec.schedule.optimizerState",
                    policy,
                    "Reset: this base has no optimizer state",
                    "leave it out, or continue a run by baseModel.run",
                )
            )
        load_optimizer(self.model, self.optimizer, StoredTensors(paths))
        if policy == "ResetMoments":
            reset_moments(self.optimizer)
        models.apply_settings(self.optimizer, self.run.snapshot.training.optimizer)

    def loader(self) -> Loader:
        training = self.run.snapshot.training
        return Loader(
            self.sources(),
            eos=self.run.pins.eos,
            masking=training.document_masking,
            rank=self.rank,
            world=self.world,
            rows=self.run.plan.rows_per_step,
            ahead=self.read_ahead,
        )

    def updater(self, sources: int) -> Updater:
        training = self.run.snapshot.training
        return Updater(
            self.accelerator,
            self.module,
            self.optimizer,
            micro_rows=self.micro_rows,
            clip=training.optimizer.gradient_clip,
            seed=training.seed,
            sources=sources,
            weighting=weighting_of(self.run),
        )

    def looks(self, report: Any) -> Looks:
        run = self.run
        folders = self.set_folders()
        sets = {
            chosen.name: EvaluationSet(
                chosen.name, chosen.role, run.pins.sets[chosen.name].digest, open_set(folders[chosen.name], chosen.name)
            )
            for chosen in run.pins.evaluation_sets(run.snapshot)
        }
        return Looks(
            sets,
            self._scorer(),
            look_tokens=run.snapshot.evaluation.look_tokens,
            export_type=self._export_type(),
            state=run.work.state,
            report=report,
            last="raw" if run.snapshot.finish else "final",
        )

    def benchmarks(self, report: Any) -> Benchmarks | None:
        """The benchmarks that the manifest names; a run without any needs no harness."""
        asked = self.run.snapshot.evaluation.benchmarks
        if not asked:
            return None
        tokenizer = TokenizerHandle.load(self.run.work.tokenizer, self.run.snapshot.training.document_start)
        return Benchmarks(
            asked,
            harness.load(asked, manifest_root(self.run.work)),
            Answerer(self._scorer(), tokenizer),
            harness=harness.version(),
            export_type=self._export_type(),
            state=self.run.work.state,
            report=report,
        )

    def _export_type(self) -> torch.dtype:
        return models.EXPORT_TYPES[self.base.pin.get("exportType", "F32")]

    def _scorer(self) -> Scorer:
        return Scorer(
            self.losses,
            self.run.pins.bos,
            self.run.pins.eos,
            self.run.snapshot.training.sequence_length,
            EVALUATION_BATCH_TOKENS,
            self.precision,
            self.rank,
            self.world,
            self.sharded,
        )

    def teacher_losses(self, looks: Looks) -> dict[str, dict[str, float]]:
        """What the teacher of `mixture.domainDiscrepancy` scores on the corpus; empty without one."""
        found = teachers.locate_teacher(self.run.snapshot, manifest_root(self.run.work), self.run.cache, self.run.pins)
        if found is None or found.folder is None:
            return {}
        names = [source.name for source in self.run.snapshot.group(Group.CORPUS)]
        model = models.load_model(found.folder).to(self.accelerator.device)
        models.check_vocabulary(model, self._largest_id(), str(found.folder))
        return looks.scored_by(models.TokenLosses(model), names)

    def keeper(self, checkpoints: Checkpoints, listen: Any, before_commit: Any, before_publish: Any) -> Keeper:
        # finishing.py scores by the session it is given.
        from rewarm_trainer.weights.retention import spared

        tokenizer = self.run.work.tokenizer

        def config(folder: Path) -> None:
            self.model.config.save_pretrained(folder)  # type: ignore[union-attr,operator]

        return Keeper(
            checkpoints=checkpoints,
            model=self.model,
            optimizer=self.optimizer,
            load_base=self.load_base,
            companions=lambda: sorted(path for path in tokenizer.iterdir() if path.is_file()),
            config=config,
            keep=self.run.snapshot.checkpoints.keep,
            rank=self.rank,
            world=self.world,
            listen=listen,
            before_commit=before_commit,
            before_publish=before_publish,
            extras=[] if self.method is None else [self.method],
            saved=lora.LoraWeights(self.model, self.adapter) if self.adapter else None,
            spared=lambda step: spared(self.run.plan, self.run.snapshot.finish, step),
            peers=Peers(PATIENCE) if self.sharded else None,
        )

    def plain_weights(self) -> dict[str, torch.Tensor]:
        """The weights of the whole model by the names that a checkpoint has, in place. After training: the adapters
        are in the last checkpoint by now, and are taken out of the model here."""
        if self.adapter is None:
            return weights_of(self.model)
        lora.silence(self.model)
        return lora.plain_weights(self.model)

    def environment(self) -> dict[str, Any]:
        """What a bit-exact resume depends on."""
        return {
            "processes": self.world,
            "parallelism": "Sharded" if self.sharded else "Replicated",
            "device": self.accelerator.device.type,
            "precision": self.precision,
            "compiled": self.compiled,
            "attention": self.attention,
            "chunked_loss": self.chunked_loss,
            "micro_batch_rows": self.micro_rows,
            "threads": torch.get_num_threads(),
            "instruction_set": torch.backends.cpu.get_cpu_capability(),
            "torch": torch.__version__,
            "machine": platform.machine(),
        }


def weighting_of(run: Run) -> Weighting | None:
    """`training.sampleWeights` in tokens of the plan."""
    asked = run.snapshot.training.sample_weights
    if asked is None:
        return None
    return Weighting(asked.strategy, asked.temperature, parse_length(asked.uniform, run.plan.tokens))
