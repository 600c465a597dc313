"""Prompts of a decoder as token ids, with the start of its answer."""

from __future__ import annotations

from collections.abc import Callable

from fullrank.search.local_model import as_message, plain
from fullrank.search.pretrained import Pretrained


def opened(loaded: Pretrained, prompt: str, answer: str) -> list[int]:
    """Token ids of a prompt, by the tokenizer's chat template if there is one, and of the first words of the answer.

    Special tokens in the prompt are text.

    Args:
        loaded: whose tokenizer.
        prompt: what the model is asked.
        answer: how its answer begins.
    """
    tokenizer = loaded.tokenizer
    text = plain(prompt, tokenizer)
    if tokenizer.chat_template:
        return loaded.tokens([as_message(text, tokenizer) + answer])[0]
    start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    return [*start, *loaded.tokens([f"{text}\n{answer}"])[0]]


def shortened(ids_of: Callable[[int], list[int]], words: int, limit: int) -> list[int]:
    """The ids of a prompt whose passages are cut to fewer and fewer words until it fits.

    Args:
        ids_of: from words of every passage to the prompt's ids.
        words: of every passage at first.
        limit: tokens that the prompt may have.

    Raises:
        ValueError: it is too long with one word of every passage.
    """
    ids = ids_of(words)
    while len(ids) > limit:
        if words == 1:
            raise ValueError(
                f"max_length={limit}: the prompt has {len(ids)} tokens with one word of every passage; allow more, or "
                "give fewer passages (a smaller window)"
            )
        words = max(1, min(words - 1, words * limit // len(ids)))
        ids = ids_of(words)
    return ids


def answer_id(loaded: Pretrained, answer: str, letter: str) -> int:
    """The id of a letter behind the first words of an answer.

    Raises:
        ValueError: the tokenizer joins or splits them otherwise.
    """
    before, whole = loaded.tokens([answer, answer + letter])
    if len(whole) != len(before) + 1 or whole[:-1] != before or whole[-1] == loaded.tokenizer.unk_token_id:
        raise ValueError(f"the tokenizer has no token {letter!r} behind {answer!r}; this model cannot be asked so")
    return whole[-1]
