"""Models that score a passage for a query: cross-encoders, and encoder-decoders by a word at the first step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from fullrank.search.language_model_scores import first_step_logits
from fullrank.search.pointwise import ModelScorer
from fullrank.search.pretrained import Pretrained

#: Part of a checkpoint's name -> its words for false and true; the first part that fits counts.
MONO_T5_WORDS = {
    "mt5-3b": ("▁", "▁true"),
    "mt5-13b": ("▁", "▁true"),
    "monoptt5": ("▁Não", "▁Sim"),
    "ptt5": ("▁não", "▁sim"),
    "mt5": ("▁no", "▁yes"),
}
FALSE_TRUE = ("▁false", "▁true")


class CrossEncoderScorer(ModelScorer):
    """The logit of [CLS] query [SEP] passage [SEP]: of one label, or log p of the last of two (monoBERT).

    Args:
        model: a sequence classifier of one or two labels: an object, a name or a folder.
        tokenizer: see `Pretrained`.
        **options: see `Pretrained`.
    """

    def __init__(self, model: Any, tokenizer: Any = None, **options: Any) -> None:
        self.pretrained = Pretrained(model, tokenizer, kind="AutoModelForSequenceClassification", **options)

    def score_pairs(self, queries: Sequence[str], texts: Sequence[str]) -> list[float]:
        """One score for every query with the text at its place; a text that is too long loses its end.

        Raises:
            ValueError: a query that leaves no room, a model with more than two labels, or one in training mode.
        """
        if not texts:
            return []
        loaded = self.pretrained
        encoded = loaded.tokenizer(list(queries), list(texts))
        segments = encoded.get("token_type_ids")
        rows, kinds = encoded["input_ids"], segments or [[0] * len(row) for row in encoded["input_ids"]]
        limit = loaded.limit()
        long = [place for place, row in enumerate(rows) if len(row) > limit]
        if long:
            rows, kinds = list(rows), list(kinds)
            self._cut(queries, texts, long, rows, kinds)

        def values(ids: Tensor, mask: Tensor, numbers: list[int]) -> Tensor:
            inputs = {"input_ids": ids, "attention_mask": mask}
            if segments is not None:
                inputs["token_type_ids"] = loaded.padded([kinds[number] for number in numbers])[0] * mask
            return _relevance(loaded.model(**inputs).logits)

        return loaded.scored(rows, values)

    def _cut(
        self, queries: Sequence[str], texts: Sequence[str], long: list[int], rows: list[Any], kinds: list[Any]
    ) -> None:
        """Encode pairs that are too long anew, with less of the text."""
        loaded = self.pretrained
        for place in long:
            around = len(loaded.tokenizer(queries[place], "").input_ids)
            if around >= loaded.limit():
                raise ValueError(
                    f"max_length={loaded.limit()} leaves no room for a passage beside {around} tokens of the query; "
                    "allow more, or ask in fewer words"
                )
        encoded = loaded.tokenizer(
            [queries[place] for place in long],
            [texts[place] for place in long],
            truncation="only_second",
            max_length=loaded.limit(),
        )
        segments = encoded.get("token_type_ids")
        for number, place in enumerate(long):
            rows[place] = encoded["input_ids"][number]
            kinds[place] = segments[number] if segments else [0] * len(rows[place])


class MonoT5Scorer(ModelScorer):
    """log p(true) against false at the first step for "Query: q Document: d Relevant:" (Nogueira et al. 2020).

    InRanker is asked in the same way.

    Args:
        model: an encoder-decoder: an object, a name or a folder.
        tokenizer: see `Pretrained`.
        words: the checkpoint's tokens for false and true; by default those that its name is known for, else ▁false and
            ▁true.
        **options: see `Pretrained`.
    """

    after = " Relevant:"

    def __init__(
        self, model: Any, tokenizer: Any = None, *, words: tuple[str, str] | None = None, **options: Any
    ) -> None:
        self.pretrained = Pretrained(model, tokenizer, kind="AutoModelForSeq2SeqLM", **options)
        name = self.pretrained.name.lower()
        known = next((pair for part, pair in MONO_T5_WORDS.items() if part in name), FALSE_TRUE)
        self.words = words or known

    def score_pairs(self, queries: Sequence[str], texts: Sequence[str]) -> list[float]:
        """One score for every query with the text at its place; a passage that is too long is cut, never the prompt.

        Raises:
            ValueError: the tokenizer lacks one of the words, or a query alone is too long.
        """
        if not texts:
            return []
        loaded, ids = self.pretrained, word_ids(self.pretrained.tokenizer, self._asked())
        rows = prompts_around(loaded, [f"Query: {query} Document:" for query in queries], texts, self.after)
        return loaded.scored(
            rows, lambda tokens, mask, _: self._value(first_step_logits(loaded.model, tokens, mask, ids))
        )

    def _asked(self) -> tuple[str, ...]:
        return self.words

    def _value(self, logits: Tensor) -> Tensor:
        return logits.log_softmax(-1)[:, 1]


class TwolarScorer(MonoT5Scorer):
    """The logit of true less that of false (TWOLAR, Baldelli et al. 2024). Arguments as of `MonoT5Scorer`."""

    def _value(self, logits: Tensor) -> Tensor:
        return logits[:, 1] - logits[:, 0]


class RankT5Scorer(MonoT5Scorer):
    """The logit of <extra_id_10> at the first step for "Query: q Document: d" (RankT5, Zhuang et al. 2023).

    Args:
        model: an encoder-decoder: an object, a name or a folder.
        tokenizer: see `Pretrained`.
        word: the token whose logit is the score.
        **options: see `Pretrained`.
    """

    after = ""

    def __init__(self, model: Any, tokenizer: Any = None, *, word: str = "<extra_id_10>", **options: Any) -> None:
        super().__init__(model, tokenizer, **options)
        self.word = word

    def _asked(self) -> tuple[str, ...]:
        return (self.word,)

    def _value(self, logits: Tensor) -> Tensor:
        return logits[:, 0]


def prompts_around(
    loaded: Pretrained, before: Sequence[str], texts: Sequence[str], after: str, closed: bool = True, behind: int = 0
) -> list[list[int]]:
    """Token ids of prompts; a text that is too long loses its end, what stands around it stays.

    Args:
        loaded: whose tokenizer and length.
        before: stands before the text at its place.
        texts: of the passages.
        after: stands behind every text.
        closed: whether the end token closes the prompt; if not, the start token opens it, if there is one.
        behind: positions that are needed behind the prompt.

    Raises:
        ValueError: what stands around leaves no room.
    """
    tokenizer = loaded.tokenizer
    opening = [] if closed or tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    closing = [tokenizer.eos_token_id] if closed and tokenizer.eos_token_id is not None else []
    limit = loaded.limit(behind)
    room = limit - len(opening) - len(closing)
    rows = loaded.tokens([f"{head} {text}{after}" for head, text in zip(before, texts, strict=True)])
    long = [place for place, row in enumerate(rows) if len(row) > room]
    if long:
        tail = loaded.tokens([after])[0] if after else []
        heads = loaded.tokens([before[place] for place in long])
        bodies = loaded.tokens([f" {texts[place]}" for place in long])
        for place, head, body in zip(long, heads, bodies, strict=True):
            rows[place] = [*head, *body[: _left(limit, room, head, tail)], *tail]
    return [[*opening, *row, *closing] for row in rows]


def _left(limit: int, room: int, head: list[int], tail: list[int]) -> int:
    left = room - len(head) - len(tail)
    if left < 1:
        raise ValueError(
            f"max_length={limit} leaves no room for a passage beside {len(head) + len(tail)} tokens of the query and "
            "the prompt; allow more, or ask in fewer words"
        )
    return left


def word_ids(tokenizer: Any, words: Sequence[str]) -> list[int]:
    """Ids of words that are tokens.

    Raises:
        ValueError: the tokenizer lacks one.
    """
    ids = tokenizer.convert_tokens_to_ids(list(words))
    missing = [word for word, id in zip(words, ids, strict=True) if id is None or id == tokenizer.unk_token_id]
    if missing:
        raise ValueError(
            f"the tokenizer has no token {' and '.join(map(repr, missing))}; name the checkpoint's own: "
            + ("words=(false, true)" if len(words) == 2 else "word=...")
        )
    return ids


def _relevance(logits: Tensor) -> Tensor:
    if logits.shape[-1] == 1:
        return logits[:, 0]
    if logits.shape[-1] == 2:
        return logits.float().log_softmax(-1)[:, 1]
    raise ValueError(f"the model has {logits.shape[-1]} labels; 1, or 2 with the relevant one last, are needed")


def distinct(texts: Sequence[str]) -> tuple[list[str], list[int]]:
    """Texts without repeats, and the place of every text among them."""
    places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
    return list(places), [places[text] for text in texts]
