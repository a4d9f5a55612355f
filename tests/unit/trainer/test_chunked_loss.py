"""Head and loss in chunks: the same losses and gradients as logits made whole."""

from collections.abc import Callable
from itertools import accumulate

import pytest
import torch
from tiny_models import CONFIGS, VOCABULARY, batch_of, random_rows, tiny
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from rewarm_trainer import chunked_loss, machine
from rewarm_trainer.chunked_loss import ChunkedLoss, plain_head
from rewarm_trainer.model import TokenLosses


def gradients(losses: TokenLosses, weights: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    batch = batch_of(random_rows(4))
    assert batch.positions is not None
    arrays = (torch.from_numpy(each) for each in (batch.inputs, batch.labels, batch.positions))
    losses.zero_grad()
    objective, nats = losses(*arrays, weights=weights)
    (3 * objective).backward()
    found = {
        name: parameter.grad.clone() for name, parameter in losses.named_parameters() if parameter.grad is not None
    }
    return objective.detach(), nats, found


@pytest.mark.parametrize("kind", sorted(CONFIGS))
@pytest.mark.parametrize("chunk", [1 << 27, 5 * VOCABULARY], ids=["one chunk", "many chunks"])
def test_losses_and_gradients_are_those_of_whole_logits(kind: str, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked_loss, "CHUNK_LOGITS", chunk)
    weights = torch.tensor([0.5, 0.0, 2.0, 1.0])
    losses = TokenLosses(tiny(kind))
    plain = gradients(losses, weights)
    assert losses.chunk_loss(compiled=False)
    together = gradients(losses, weights)
    torch.testing.assert_close(together[:2], plain[:2], rtol=1e-5, atol=1e-6)
    assert not together[1].requires_grad
    assert together[2].keys() == plain[2].keys()
    for name, gradient in plain[2].items():
        assert (together[2][name] - gradient).norm() <= 1e-5 * gradient.norm() + 1e-6, name


def test_bf16_compute_rounds_as_the_plain_way_does() -> None:
    losses, weights = TokenLosses(tiny()), torch.ones(4)
    with torch.autocast("cpu", torch.bfloat16):
        plain = gradients(losses, weights)
        losses.chunk_loss(compiled=False)
        together = gradients(losses, weights)
    torch.testing.assert_close(together[0], plain[0], rtol=1e-3, atol=1e-3)
    for name, gradient in plain[2].items():
        assert (together[2][name] - gradient).norm() <= 0.02 * gradient.norm() + 1e-6, name


def test_many_chunks_in_bf16_weights_round_the_heads_gradient_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sharded training holds the head in BF16: chunk after chunk must not round what is there already."""
    torch.manual_seed(0)
    hidden, head = torch.randn(1, 512, 32).bfloat16(), nn.Linear(32, VOCABULARY, bias=False).bfloat16()
    labels, weights = torch.randint(0, VOCABULARY, (1, 512)), torch.ones(1, 512)

    def gradient(chunk: int) -> torch.Tensor:
        monkeypatch.setattr(chunked_loss, "CHUNK_LOGITS", chunk)
        head.zero_grad()
        chunked_loss.ChunkedLoss(head, compiled=False).weighted(hidden, labels, weights)[0].backward()
        assert head.weight.grad is not None
        return head.weight.grad.float()

    logits = nn.functional.linear(hidden.float(), head.weight.float()).detach().requires_grad_()
    nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum").backward()
    assert logits.grad is not None
    exact = logits.grad.flatten(0, 1).t() @ hidden.float().flatten(0, 1)
    one, many = ((gradient(chunk) - exact).norm() / exact.norm() for chunk in (1 << 27, 2 * VOCABULARY))
    assert many < 1.5 * one


def test_a_frozen_head_gets_no_gradient() -> None:
    model = tiny()
    model.get_output_embeddings().weight.requires_grad_(False)
    losses = TokenLosses(model)
    losses.chunk_loss(compiled=False)
    found = gradients(losses, torch.ones(4))[2]
    assert found
    assert "model.lm_head.weight" not in found


def test_a_model_that_changes_its_logits_keeps_them() -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = AutoConfig.for_model("granite", vocab_size=50, logits_scaling=8.0, **sizes)
    assert plain_head(AutoModelForCausalLM.from_config(config)) is None
    model = tiny()
    model.set_output_embeddings(nn.Linear(32, VOCABULARY, bias=True))
    assert plain_head(model) is None


def test_the_compiled_kernel_and_the_one_by_rows_agree() -> None:
    logits, labels = torch.randn(7, 50), torch.tensor([0, 3, -100, 49, 7, 7, 1])
    weights = torch.rand(7)
    one, other = logits.clone(), logits.clone()
    first = chunked_loss.replace_by_gradient(one, labels, weights)
    torch.testing.assert_close(first, chunked_loss.replace_in_rows(other, labels, weights))
    torch.testing.assert_close(one, other)


def peak_bytes(run: Callable[[], object]) -> int:
    """The most that tensors made by `run` held at one moment."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        run()
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return max(accumulate(event.nbytes() for event in events))


def test_half_the_memory_of_the_plain_way_is_enough() -> None:
    """One chunk of BF16 logits and one gradient of the head: no FP32 copy of the logits, no second gradient."""
    tokens, hidden, vocabulary = 512, 256, 32_768
    head = nn.Linear(hidden, vocabulary, bias=False)
    states = torch.randn(1, tokens, hidden)
    labels = torch.randint(0, vocabulary, (1, tokens))
    weights = torch.full((1, tokens), 1.0 / tokens)
    chunked = ChunkedLoss(head, compiled=False)

    def plain() -> None:
        head.weight.grad = None
        with torch.autocast("cpu", torch.bfloat16):
            loss = nn.functional.cross_entropy(head(states).float().flatten(0, 1), labels.flatten())
        loss.backward()

    def ours() -> None:
        head.weight.grad = None
        with torch.autocast("cpu", torch.bfloat16):
            loss, _ = chunked.weighted(states, labels, weights)
        loss.backward()

    logits = 2 * tokens * vocabulary
    gradient = 4 * hidden * vocabulary
    # Beside them: the head in BF16, and what stays in the caches. A processor that imitates BF16 keeps FP32 copies; the
    # product takes FP32 on it unless a manifest asks.
    beside, share = (1.4, 0.5) if machine.find().native_bf16 else (1.9, 0.75)
    most = peak_bytes(ours)
    assert most < beside * (logits + gradient)
    assert most < share * peak_bytes(plain)
