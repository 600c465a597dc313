"""Language models of transformers, decoders and encoder-decoders, as prompts in and completions out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool

from fullrank._optional import require
from fullrank.search.language_model import before
from fullrank.search.pretrained import Checkpoint, check_evaluating, padded

_UNLIMITED = 10**6  # a tokenizer without a limit names an astronomic one


class TransformersModel(Checkpoint):
    """A language model of transformers: any decoder (GPT, Llama, Qwen) or encoder-decoder (T5).

    Args:
        model: an object, used where it is; or a name or folder, loaded at first use.
        tokenizer: an object; needed with a model object.
        batch_size: prompts at a time, of like length.
        chat: whether a prompt is one message of a conversation, by the tokenizer's template, or a text to be continued;
            by default the former if there is a template.
        max_input_tokens: of a prompt; by default what the model's positions leave.
        device: where a named model goes.
        **options: for `from_pretrained`, such as `dtype` or `local_files_only`.

    Raises:
        ValueError: a model object without a tokenizer, options for a model object, or a batch size below 1.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        *,
        batch_size: int = 8,
        chat: bool | None = None,
        max_input_tokens: int | None = None,
        device: str | torch.device = "cpu",
        **options: Any,
    ) -> None:
        super().__init__(model, tokenizer, kind=self._architecture, batch_size=batch_size, device=device, **options)
        self.max_input_tokens, self._chat = max_input_tokens, chat

    @property
    def chat(self) -> bool:
        """Whether a prompt is one message of a conversation."""
        return bool(self.tokenizer.chat_template) if self._chat is None else self._chat

    def complete(
        self,
        prompts: Sequence[str],
        *,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        stop: Sequence[str] = (),
        seed: int = 0,
    ) -> list[str]:
        """See `LanguageModel.complete`.

        Raises:
            ValueError: a prompt without tokens or longer than `input_limit`, or a model in training mode.
            OSError: the model cannot be loaded.
        """
        check_evaluating(self.model, "answers")
        encoded = [self._encoded(prompt) for prompt in prompts]
        self._check_lengths(encoded, max_new_tokens)
        completions = [""] * len(prompts)
        devices = [self.model.device] if self.model.device.type == "cuda" else []
        with torch.random.fork_rng(devices), torch.inference_mode():
            torch.manual_seed(seed)
            for batch in self.batches(encoded):
                texts = self._generated([encoded[number] for number in batch], max_new_tokens, temperature, stop)
                for number, text in zip(batch, texts, strict=True):
                    completions[number] = before(text, stop)
        return completions

    def count_tokens(self, text: str) -> int:
        """Tokens of a prompt, with those that the model's format adds."""
        return len(self._encoded(text))

    def input_limit(self, max_new_tokens: int) -> int | None:
        """`max_input_tokens`; by default what positions (of a decoder) or the tokenizer (of an encoder) leave."""
        if self.max_input_tokens is not None:
            return self.max_input_tokens
        if self.model.config.is_encoder_decoder:
            length = self.tokenizer.model_max_length
            return length if length < _UNLIMITED else None
        positions = getattr(self.model.config, "max_position_embeddings", None)
        return None if positions is None else positions - max_new_tokens

    def _architecture(self) -> Any:
        library = require("transformers", "search")
        config = self._loaded("AutoConfig", self._shared_options)
        return library.AutoModelForSeq2SeqLM if config.is_encoder_decoder else library.AutoModelForCausalLM

    def _encoded(self, prompt: str) -> list[int]:
        text = plain(prompt, self.tokenizer)
        if not self.chat:
            return self.tokenizer(text).input_ids
        return self.tokenizer(as_message(text, self.tokenizer), add_special_tokens=False).input_ids

    def _check_lengths(self, encoded: list[list[int]], max_new_tokens: int) -> None:
        limit = self.input_limit(max_new_tokens)
        for number, ids in enumerate(encoded):
            if not ids:
                raise ValueError(f"prompt {number} has no tokens; give some words")
            if limit is not None and len(ids) > limit:
                raise ValueError(f"prompt {number} has {len(ids)} tokens; the model takes {limit}: shorten it")

    def _generated(
        self, encoded: list[list[int]], max_new_tokens: int, temperature: float, stop: Sequence[str]
    ) -> list[str]:
        seq2seq = self.model.config.is_encoder_decoder
        ids, mask = padded(encoded, self._padding, left=not seq2seq)
        skipped = 1 if seq2seq else ids.shape[1]
        sampling = {"do_sample": True, "temperature": temperature} if temperature > 0 else {"do_sample": False}
        ended = _Ended(self.tokenizer, stop, skipped)
        out = self.model.generate(
            input_ids=ids.to(self.model.device),
            attention_mask=mask.to(self.model.device),
            max_new_tokens=max_new_tokens,
            num_beams=1,
            pad_token_id=self._padding,
            stopping_criteria=[ended] if stop else None,
            **sampling,
        )
        return self.tokenizer.batch_decode(out[:, skipped:], skip_special_tokens=True)

    @property
    def _padding(self) -> int:
        """The id that fills short rows, masked; models such as GPT-2 have none of their own."""
        for id in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id):
            if id is not None:
                return id
        return 0


class _Ended:
    """Which rows hold a stop already: their last tokens are decoded after every step."""

    def __init__(self, tokenizer: Any, stop: Sequence[str], skipped: int) -> None:
        self.tokenizer, self.stop, self.skipped = tokenizer, stop, skipped

    def __call__(self, ids: torch.Tensor, scores: torch.Tensor | None, **more: Any) -> Bool[torch.Tensor, " batch"]:
        texts = self.tokenizer.batch_decode(ids[:, self.skipped :], skip_special_tokens=True)
        ended = [any(end in text for end in self.stop) for text in texts]
        return torch.tensor(ended, device=ids.device)


def plain(text: str, tokenizer: Any) -> str:
    """A text with every special token broken: what a passage quotes never ends the passage, or the turn."""
    added = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}  # such as ends of turns
    for token in sorted(added.union(tokenizer.all_special_tokens)):
        if len(token) > 1:
            text = text.replace(token, f"{token[0]} {token[1:]}")
    return text


def as_message(text: str, tokenizer: Any) -> str:
    """A text as the first message of a conversation, by the tokenizer's chat template."""
    message = [{"role": "user", "content": text}]
    return tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
