"""Models of transformers with random weights, and a tokenizer of whole words, all built here."""

from __future__ import annotations

import string
from functools import cache
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    Lfm2Config,
    Lfm2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

SPECIAL = ["<pad>", "</s>", "<unk>", "[CLS]", "[SEP]", "[MASK]", "[unused0]", "[unused1]", "<extra_id_10>"]
WORDS = ["▁false", "▁true", "Query:", "Document:", "Relevant:", "Document0:", "Document1:", "Passage:", "Context:"]
PUNCTUATED = list(string.punctuation)


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    """Words of two letters, single letters and digits, and what prompts are made of; the rest is unknown."""
    pairs = [first + second for first in string.ascii_lowercase for second in string.ascii_lowercase]
    prompts = ["Query", "Document", "Passage", "Yes", "A:", "B:", "Index:", "passages", "relevant", "More", "Search"]
    single = [*string.ascii_uppercase, *string.digits, *string.ascii_lowercase]
    vocabulary = {w: n for n, w in enumerate([*SPECIAL, *WORDS, *PUNCTUATED, *prompts, *single, *pairs])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split("[", "isolated"), pre_tokenizers.Split("]", "isolated")]
    )
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")],
    )
    made.add_special_tokens(SPECIAL)
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", mask_token="[MASK]"
    )


@cache
def t5() -> T5ForConditionalGeneration:
    torch.manual_seed(0)
    config = T5Config(vocab_size=len(tokenizer()), d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2,
                      decoder_start_token_id=0, pad_token_id=0, eos_token_id=1)  # fmt: skip
    return T5ForConditionalGeneration(config).eval()


@cache
def classifier(labels: int) -> BertForSequenceClassification:
    torch.manual_seed(0)
    return BertForSequenceClassification(bert_config(num_labels=labels)).eval()


@cache
def masked() -> BertForMaskedLM:
    torch.manual_seed(0)
    return BertForMaskedLM(bert_config()).eval()


def bert_config(**more: int) -> BertConfig:
    return BertConfig(vocab_size=len(tokenizer()), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                      intermediate_size=16, max_position_embeddings=64, **more)  # fmt: skip


@cache
def gpt2(positions: int = 512) -> GPT2LMHeadModel:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(tokenizer()), n_embd=16, n_layer=2, n_head=2, n_positions=positions,
                        bos_token_id=None, eos_token_id=1)  # fmt: skip
    return GPT2LMHeadModel(config).eval()


_DECODER: dict[str, Any] = {"hidden_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1,
                            "intermediate_size": 24, "max_position_embeddings": 2048, "attn_implementation": "eager",
                            "bos_token_id": 3, "eos_token_id": 1}  # fmt: skip


@cache
def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=len(tokenizer()), num_hidden_layers=3, **_DECODER)
    return LlamaForCausalLM(config).eval()


@cache
def sliding() -> MistralForCausalLM:
    """A decoder that looks back no further than 20 tokens."""
    torch.manual_seed(0)
    window = {"head_dim": 8, "sliding_window": 20}
    config = MistralConfig(vocab_size=len(tokenizer()), num_hidden_layers=2, **window, **_DECODER)
    return MistralForCausalLM(config).eval()


@cache
def hybrid() -> Lfm2ForCausalLM:
    """A decoder of which one layer is a convolution, and keeps a state."""
    torch.manual_seed(0)
    kinds = ["conv", "full_attention"]
    config = Lfm2Config(vocab_size=len(tokenizer()), num_hidden_layers=2, layer_types=kinds, **_DECODER)
    return Lfm2ForCausalLM(config).eval()


@cache
def stateful() -> MambaForCausalLM:
    """A decoder without attention."""
    torch.manual_seed(0)
    config = MambaConfig(vocab_size=len(tokenizer()), hidden_size=16, num_hidden_layers=1, state_size=4,
                         bos_token_id=3, eos_token_id=1)  # fmt: skip
    return MambaForCausalLM(config).eval()
