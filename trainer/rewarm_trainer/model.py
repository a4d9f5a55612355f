"""The model: loaded as FP32 master weights, wrapped so that one forward pass gives the loss of every token.

Any causal language model that transformers loads works unchanged. BF16 is a compute type only: a base stored as BF16
and trained as BF16 loses most small updates to rounding (design: trainer.md, "Loop").
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rewarm_api.errors import DataError, ManifestError, Problem
from rewarm_api.snapshot import Optimizer
from rewarm_trainer import techniques
from rewarm_trainer.chunked_loss import ChunkedLoss, plain_head
from rewarm_trainer.machine import has_compiler, host_memory
from rewarm_trainer.micro_batch import CPU_TOKENS, Shape, tokens_that_fit
from rewarm_trainer.techniques import Machine

IGNORED = -100


def load_model(folder: Path) -> nn.Module:
    """A causal language model from a Hugging Face folder: FP32, SDPA attention, safetensors only, no remote code."""
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    # A bar of its own would tear our progress display, and fill log files with carriage returns.
    logging.disable_progress_bar()
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=torch.float32,
            attn_implementation="sdpa",
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (OSError, ValueError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(
            f"{folder}: cannot load the base model: {reason}; expected a Hugging Face folder with config.json "
            "and model.safetensors of an architecture that transformers knows"
        ) from error
    # transformers would start what is missing at random, with a warning: the base would not be the base.
    if missing := sorted(info["missing_keys"]):
        raise DataError(
            f"{folder}: {len(missing)} weights of the architecture in config.json are not in the files, the first is "
            f"{missing[0]}; fetch the model again, or correct config.json"
        )
    return model


EXPORT_TYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


def scratch_model(options: dict[str, Any], vocabulary: int, eos: int, seed: int) -> nn.Module:
    """Random weights for `baseModel.scratch.config`, the same ones for the same seed."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig, AutoModelForCausalLM

    config = dict(options)
    model_type = config.pop("model_type", None)
    token_ids = {"vocab_size": vocabulary, "bos_token_id": eos, "eos_token_id": eos, "pad_token_id": None}
    try:
        parsed = AutoConfig.for_model(model_type, **{**token_ids, **config})
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(
            parsed, dtype=torch.float32, attn_implementation="sdpa", trust_remote_code=False
        )
    except (KeyError, TypeError, ValueError, AttributeError, StrictDataclassError) as error:
        raise ManifestError(
            Problem(
                "spec.baseModel.scratch.config",
                f"{options} ({' '.join(str(error).split())})",
                "the config.json of a causal language model that transformers knows",
                "set model_type and that architecture's own size fields",
            )
        ) from error


def check_vocabulary(model: nn.Module, largest_id: int, where: str) -> None:
    """Refuse shards with token ids outside the embedding (65): they were made by another tokenizer."""
    rows = model.get_input_embeddings().weight.shape[0]  # type: ignore[operator,union-attr]
    if largest_id >= rows:
        raise DataError(
            f"{where}: token id {largest_id} is outside the model's embedding of {rows} rows; the shards and the "
            "model belong to different tokenizers; prepare the corpus with this model's tokenizer"
        )


def check_positions(model: nn.Module, sequence_length: int) -> None:
    """Refuse rows longer than a table of learned positions (64). Rotary positions have no table, and no such end."""
    limit = getattr(model.config, "max_position_embeddings", None)
    tokens = model.get_input_embeddings()  # type: ignore[operator,union-attr]
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding) and module is not tokens]
    if limit and sequence_length > limit and any(limit <= table.num_embeddings <= limit + 2 for table in tables):
        raise ManifestError(
            Problem(
                "spec.training.sequenceLength",
                str(sequence_length),
                f"at most {limit}: this base has learned that many positions",
                f"set {limit} or less, or take a base with rotary positions",
            )
        )


def blocks_of(model: nn.Module) -> nn.ModuleList:
    """The transformer's blocks: the module list with the most parameters."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module)]
    return max(lists, key=lambda blocks: sum(parameter.numel() for parameter in blocks.parameters()))


def _token_nats(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each label in nats, FP32; 0 where the label is ignored. Shapes [B, S, V], [B, S] -> [B, S].

    As logsumexp minus the label's logit: the backward pass needs the logits and no second array of their size.
    """
    wide = logits.float()
    return torch.where(labels == IGNORED, 0.0, torch.logsumexp(wide, -1) - _picked(wide, labels))


def _picked(wide: Tensor, labels: Tensor) -> Tensor:
    """The logit of each label, of shape [B, S]."""
    return wide.gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)


_SCORED_TOGETHER = 1 << 21  # logits: what stays in a processor's caches between the passes over them


def nats_and_top1(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The nats of `_token_nats`, and whether no other token has a higher logit than the label (False where ignored).

    A maximum reads the logits once and keeps one number a label; argmax costs seven times as much on a CPU. Where BF16
    rounds two logits to the same number, both count as the highest.
    """
    wide = logits.float()
    picked, valid = _picked(wide, labels), labels != IGNORED
    return eager_nats(logits, labels), valid & (picked >= wide.amax(-1))


def eager_nats(logits: Tensor, labels: Tensor) -> Tensor:
    """The nats of `_token_nats` where nothing is compiled and no gradient is asked for: a few rows at a time through
    the library's own softmax, several times as fast on a CPU as logsumexp over all of them."""
    flat, wanted = logits.flatten(0, 1), labels.flatten()
    rows = max(1, _SCORED_TOGETHER // flat.shape[-1]) if flat.device.type == "cpu" else len(flat)
    parts = [
        nn.functional.cross_entropy(
            flat[at : at + rows].float(), wanted[at : at + rows], ignore_index=IGNORED, reduction="none"
        )
        for at in range(0, len(flat), rows)
    ]
    return torch.cat(parts).view_as(labels)


def document_mask(positions: Tensor) -> Tensor:
    """Which key each query may see: those before it in its own document. [B, S] -> [B, 1, S, S], True for seen."""
    document = (positions == 0).cumsum(-1)
    length = positions.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=positions.device).tril()
    return (document[:, None, :, None] == document[:, None, None, :]) & causal


def _sees_all(config: Any) -> bool:
    """Whether every block attends to all that is before: no windows, no chunks."""
    layers = set(getattr(config, "layer_types", None) or ["full_attention"])
    return layers == {"full_attention"} and not getattr(config, "sliding_window", None)


class TokenLosses(nn.Module):
    """A language model whose forward pass gives the loss of every label, in nats.

    masks_itself: whether documents are kept apart by a mask from here. The library's own asks the device whether a row
    has several documents at all, which a GPU answers only when it has done everything before.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.masks_itself = torch.cuda.is_available() and _sees_all(model.config)
        self._token_nats: Callable[[Tensor, Tensor], Tensor] = _token_nats
        self._chunked: ChunkedLoss | None = None

    def forward(
        self,
        inputs: Tensor,
        labels: Tensor,
        positions: Tensor | None,
        top1: bool = False,
        weights: Tensor | None = None,
    ) -> Any:
        """Nats of each label, [B, S]; with `top1` also whether the model would have chosen it.

        With `weights` [B], the gradient that each row's nats will get: (sum of weights x nats to take the gradient of,
        nats without one). Known beforehand, they let head and loss go together.
        """
        mask = document_mask(positions) if self.masks_itself and positions is not None else None
        # No mask of padding, and no cache: otherwise packed documents attend to each other without a word.
        asked = {"input_ids": inputs, "position_ids": positions, "attention_mask": mask, "use_cache": False}
        if weights is not None and self._chunked is not None:
            hidden = self.model.base_model(**asked).last_hidden_state
            return self._chunked.weighted(hidden, labels, weights.unsqueeze(1).expand(labels.shape))
        logits = self.model(**asked).logits
        if top1:
            return nats_and_top1(logits, labels)
        if not torch.is_grad_enabled():
            return eager_nats(logits, labels)
        nats = self._token_nats(logits, labels)
        return nats if weights is None else ((nats * weights.unsqueeze(1)).sum(), nats.detach())

    def compile_blocks(self) -> None:
        """Compile each block and the loss for one shape: what makes a compiled resume bit-identical."""
        for block in blocks_of(self.model):
            block.compile(dynamic=False)
        self._token_nats = torch.compile(_token_nats, dynamic=False)

    def chunk_loss(self, *, compiled: bool) -> bool:
        """Take head and loss together where this model's logits are its head's product; whether they are."""
        head = plain_head(self.model)
        if head is not None:
            self._chunked = ChunkedLoss(head, compiled=compiled)
        return head is not None


@contextmanager
def scoring(model: Any) -> Iterator[None]:
    """A language model as evaluation runs it, whatever it was set to for training: eagerly, since evaluation has shapes
    of its own and must not touch what training compiled, and with SDPA, which is the fast one where nothing is."""
    before = model.config._attn_implementation
    model.set_attn_implementation("sdpa")
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        model.set_attn_implementation(before)


def machine_of(device: torch.device) -> Machine:
    """What of `device` decides which techniques are used."""
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported()
        memory = torch.cuda.get_device_properties(device).total_memory
    else:
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        memory = host_memory()
    return Machine(device.type, native, has_compiler(device.type), memory)


def shape_of(model: nn.Module, vocabulary: int) -> Shape:
    """What of a model decides how much memory its tokens take."""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Shape.of(model.config.get_text_config().to_dict(), parameters, vocabulary)  # type: ignore[operator, union-attr]


def tokens_at_a_time(shape: Shape, device: torch.device, *, processes: int, recomputed: str) -> int:
    """Tokens of a micro-batch: what the free memory of a GPU holds, or a CPU's caches."""
    if device.type != "cuda":
        return CPU_TOKENS
    free, _ = torch.cuda.mem_get_info(device)
    return tokens_that_fit(free, shape, processes=processes, recomputed=recomputed)


def precision_for(choice: str | None, device: torch.device) -> str:
    """`BF16` or `FP32`: as asked, else BF16 where the device computes in it natively."""
    return techniques.precision(choice, machine_of(device))


def freeze(model: nn.Module, patterns: Iterable[str]) -> None:
    """Stop the gradient of parameters whose names match; a pattern that matches none is a mistake (64)."""
    names = dict(model.named_parameters())
    for number, pattern in enumerate(patterns):
        matched = fnmatch.filter(names, pattern)
        if not matched:
            raise ManifestError(
                Problem(
                    f"spec.training.freeze[{number}]",
                    pattern,
                    f"a pattern that matches parameters such as {next(iter(names))}",
                    "correct the pattern or remove it",
                )
            )
        for name in matched:
            names[name].requires_grad_(False)


def checkpoint_activations(model: nn.Module, how: str) -> None:
    """`Full`: blocks keep nothing and are computed twice. `Selective`: they keep the results of matrix products."""
    if how == "None":
        return
    from functools import partial

    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import CheckpointImpl, checkpoint_wrapper
    from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

    kept = {
        torch.ops.aten.mm.default,
        torch.ops.aten.addmm.default,
        torch.ops.aten.bmm.default,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
        torch.ops.aten._scaled_dot_product_flash_attention.default,
        torch.ops.aten._scaled_dot_product_efficient_attention.default,
    }

    def policy(context: Any, operation: Any, *args: Any, **kwargs: Any) -> Any:
        return CheckpointPolicy.MUST_SAVE if operation in kept else CheckpointPolicy.PREFER_RECOMPUTE

    options: dict[str, Any] = {"checkpoint_impl": CheckpointImpl.NO_REENTRANT, "preserve_rng_state": True}
    if how == "Selective":
        options["context_fn"] = partial(create_selective_checkpoint_contexts, policy)
    blocks = blocks_of(model)
    for number, block in enumerate(blocks):
        blocks[number] = checkpoint_wrapper(block, **options)


def build_optimizer(model: nn.Module, settings: Optimizer) -> torch.optim.AdamW:
    """Fused AdamW; weight decay on matrices only, none on norms and biases."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW([group for group in groups if group["params"]], fused=True)
    apply_settings(optimizer, settings)
    return optimizer


def apply_settings(optimizer: torch.optim.Optimizer, settings: Optimizer) -> None:
    """Set every field of every group from the snapshot: a loaded optimizer brings the old run's values back."""
    for group in optimizer.param_groups:
        is_matrices = group["params"][0].ndim >= 2
        group.update(
            betas=(settings.beta1, settings.beta2),
            eps=settings.epsilon,
            weight_decay=settings.weight_decay if is_matrices else 0.0,
        )


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """The compute type of a forward pass outside accelerate's own wrapper (evaluation)."""
    if precision == "BF16":
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()
