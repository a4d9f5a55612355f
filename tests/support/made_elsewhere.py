"""Base models as somebody else would make them: transformers and tokenizers only, nothing of ours.

    python made_elsewhere.py TEXT.jsonl OUT

Writes OUT/llama (BF16, untied), OUT/qwen2 (tied, a tokenizer with BOS), OUT/neox and OUT/gpt2, all with random weights.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}
GROUPED = {**SIZES, "num_key_value_heads": 2}
MODELS = {
    "llama": ("llama", {**GROUPED, "tie_word_embeddings": False}, torch.bfloat16),
    "qwen2": ("qwen2", {**GROUPED, "tie_word_embeddings": True}, torch.float32),
    "neox": ("gpt_neox", {**SIZES, "tie_word_embeddings": False}, torch.float32),
    "gpt2": ("gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}, torch.float16),
}


def make_tokenizer(texts: list[str], bos: bool) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["</s>", "<s>"] if bos else ["</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=380,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", bos_token="<s>" if bos else None)


def main(text: Path, out: Path) -> None:
    texts = [json.loads(line)["text"] for line in text.read_text().splitlines()]
    torch.manual_seed(0)
    for name, (kind, options, dtype) in MODELS.items():
        tokenizer = make_tokenizer(texts, bos=name == "qwen2")
        # As real bases do, the embedding has more rows than the tokenizer has tokens.
        ids = {"vocab_size": 384, "eos_token_id": 0, "bos_token_id": 1 if name == "qwen2" else 0, "pad_token_id": None}
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **ids, **options))
        model.to(dtype).save_pretrained(out / name)
        tokenizer.save_pretrained(out / name)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
