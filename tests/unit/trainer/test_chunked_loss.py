"""Head and loss in chunks: the same losses and gradients as logits made whole."""

import pytest
import torch
from tiny_models import CONFIGS, VOCABULARY, batch_of, random_rows, tiny
from torch import Tensor, nn

from rewarm_trainer import chunked_loss
from rewarm_trainer.chunked_loss import plain_head
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
