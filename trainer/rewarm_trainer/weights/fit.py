"""Whether models belong together: one architecture, one shape of every weight, one vocabulary, one tokenizer.

Weights of unrelated models can be added as well, and give noise: refused in one line that names what differs (65).
"""

from __future__ import annotations

from collections.abc import Sequence

from rewarm_api.errors import DataError
from rewarm_trainer.weights.tensors import Tensors

_MUST_AGREE = ("model_type", "num_attention_heads", "num_key_value_heads", "n_head")


def check_fit(models: Sequence[Tensors]) -> list[str]:
    """DataError (65) unless all models fit the first. Returns the names of the weights that all of them have."""
    first, *others = models
    for other in others:
        _check_config(first, other)
        _check_tokenizer(first, other)
        _check_names(first, other)
        for name in sorted(first.entries.keys() & other.entries.keys()):
            _check_shape(first, other, name)
    return [name for name in first.entries if all(name in other.entries for other in others)]


def _check_config(first: Tensors, other: Tensors) -> None:
    for key in _MUST_AGREE:
        one, two = first.config.get(key), other.config.get(key)
        if one is not None and two is not None and one != two:
            raise DataError(
                f"{other.label}: {key} is {two}, that of {first.label} is {one}; only models of one architecture, "
                "from one ancestor, can be merged"
            )


def _check_names(first: Tensors, other: Tensors) -> None:
    """Names that the architecture does not know (masks that old files carry along) may be on one side only."""
    known = first.architecture.known | other.architecture.known
    for holder, lacking in ((first, other), (other, first)):
        missing = sorted((holder.entries.keys() - lacking.entries.keys()) & known)
        if missing:
            raise DataError(
                f"{lacking.label}: {len(missing)} weights of {holder.label} are not there, the first is {missing[0]}; "
                "only models of one architecture, from one ancestor, can be merged"
            )


def _check_shape(first: Tensors, other: Tensors, name: str) -> None:
    one, two = first.entries[name].shape, other.entries[name].shape
    if one == two:
        return
    vocabulary = first.config.get("vocab_size")
    why = "another vocabulary; " if vocabulary in one and other.config.get("vocab_size") != vocabulary else ""
    raise DataError(
        f"{other.label}: {name} has shape {two}, in {first.label} it has {one}: {why}"
        "only models of one architecture and one tokenizer, from one ancestor, can be merged"
    )


def _check_tokenizer(first: Tensors, other: Tensors) -> None:
    one, two = first.token_rules, other.token_rules
    if one and two and one != two:
        raise DataError(
            f"{other.label}: its tokenizer gives other ids than that of {first.label} ({two[7:19]}, {one[7:19]}): "
            "a row of the embedding means another token; only models of one tokenizer can be merged"
        )
