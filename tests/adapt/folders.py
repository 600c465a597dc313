"""Tiny models as Hugging Face folders with a tokenizer of whole words, and small files of examples."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

WORDS = ("good", "fine", "kind", "warm", "bad", "sad", "cold", "grim", "film", "day", "food", "word")


def encoder_folder(folder: Path) -> Path:
    """A BERT of two layers."""
    config = BertConfig(
        vocab_size=len(WORDS) + 2, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=32, initializer_range=0.3, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return _written(folder, lambda: BertForSequenceClassification(config))


def decoder_folder(folder: Path) -> Path:
    """A Llama of two layers."""
    config = LlamaConfig(
        vocab_size=len(WORDS) + 2, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        bos_token_id=None, eos_token_id=None, initializer_range=0.5,
    )  # fmt: skip
    return _written(folder, lambda: LlamaForCausalLM(config))


def sentences(count: int) -> list[tuple[str, str]]:
    """("up" or "down", two words), where the first word tells which."""
    return [
        ("up" if row % 2 == 0 else "down", f"{WORDS[4 * (row % 2) + row // 2 % 4]} {WORDS[8 + row % 3]}")
        for row in range(count)
    ]


def table(path: Path, rows: list[dict[str, object]]) -> Path:
    """A .tsv or .csv with a header."""
    separator = "\t" if path.suffix == ".tsv" else ","
    lines = [separator.join(map(str, rows[0])), *(separator.join(map(str, row.values())) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def labelled_file(path: Path, count: int = 64) -> Path:
    return table(path, [{"text": text, "label": label} for label, text in sentences(count)])


def _written(folder: Path, build) -> Path:
    transformers.utils.logging.disable_progress_bar()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        build().save_pretrained(folder)
    words = {word: number for number, word in enumerate(("[PAD]", "[UNK]", *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    return folder
