"""A language model that ranks by text: pre-trained on masked words and clicks, then trained on lists or judgements."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn import functional

from fullrank._batching import batches
from fullrank._files import write_bytes, write_json
from fullrank._optional import require
from fullrank.order.baidu_format import Annotation, Session
from fullrank.order.list_measures import dcg
from fullrank.order.ultr_losses import softmax_loss
from fullrank.order.ultr_objectives import Objective, make_objective

CLS, SEP, PAD, MASK = range(4)
_OFFSET = 10  # of the ids in the files; those below are the special ones
_LAYERS = {"small": 3, "base": 6, "large": 12}
_HEAD = (512, 256, 128)
_IGNORED = -100  # the label of a token that is not to be guessed
Size = Literal["small", "base", "large"]


class TokenBatch(NamedTuple):
    """Inputs of the model, each (documents, tokens).

    Attributes:
        input_ids: `[CLS] query [SEP] title [SEP] abstract [SEP]`, filled up with PAD.
        token_type_ids: 0 for the query, 1 for the rest.
        attention_mask: 0 for PAD.
    """

    input_ids: Int[Tensor, "documents tokens"]
    token_type_ids: Int[Tensor, "documents tokens"]
    attention_mask: Int[Tensor, "documents tokens"]

    def to(self, device: torch.device) -> TokenBatch:
        """The same on another device."""
        return TokenBatch(*(part.to(device) for part in self))


def token_batch(pairs: Iterable[tuple[Sequence[int], Sequence[int], Sequence[int]]], length: int = 128) -> TokenBatch:
    """Query, title and abstract as inputs of the model; what goes beyond `length` is cut off at the end.

    Args:
        pairs: ids of the tokens of query, title and abstract, as the files have them.
        length: tokens of the longest input.
    """
    rows, kinds = [], []
    for query, title, abstract in pairs:
        first = [CLS, *(id + _OFFSET for id in query), SEP]
        second = [*(id + _OFFSET for id in title), SEP, *(id + _OFFSET for id in abstract), SEP]
        rows.append((first + second)[:length])
        kinds.append(([0] * len(first) + [1] * len(second))[:length])
    width = max(map(len, rows), default=0)
    ids = torch.tensor([row + [PAD] * (width - len(row)) for row in rows])
    types = torch.tensor([kind + [0] * (width - len(kind)) for kind in kinds])
    return TokenBatch(ids, types, (ids != PAD).long())


class TextScorer(nn.Module):
    """The transformer encoder of the benchmark, with heads for masked words, for clicks and for relevance.

    Layer norms stand behind the residual sums, feed-forward layers are as wide as the model, activations are GELU and
    positions are sinusoids.

    Args:
        layers: of the encoder.
        hidden: width.
        heads: of the attention.
        vocabulary: ids, with the ten special ones.
        length: tokens of the longest input.
        dropout: everywhere.

    Raises:
        MissingExtra: transformers is not installed.
        ValueError: a width that the heads do not divide, or an odd one.
    """

    def __init__(
        self,
        layers: int = 3,
        hidden: int = 768,
        heads: int = 12,
        vocabulary: int = 22_000,
        length: int = 128,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if hidden % heads or hidden % 2:
            raise ValueError(f"hidden={hidden} is not accepted; an even multiple of heads={heads} is")
        self.settings: dict[str, Any] = {"layers": layers, "hidden": hidden, "heads": heads, "vocabulary": vocabulary}
        self.settings |= {"length": length, "dropout": dropout}
        library = require("transformers", "order")
        config = library.BertConfig(
            vocab_size=vocabulary,
            hidden_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=hidden,
            hidden_act="gelu",
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
            max_position_embeddings=length,
            pad_token_id=PAD,
        )
        self.encoder = library.BertModel(config, add_pooling_layer=False)
        places = self.encoder.embeddings.position_embeddings
        places.weight.requires_grad_(False).copy_(sinusoids(length, hidden))
        self.words = nn.Sequential(nn.Linear(hidden, hidden), nn.GELU(), nn.LayerNorm(hidden))
        self.word_bias = nn.Parameter(torch.zeros(vocabulary))
        self.click = nn.Linear(hidden, 1)
        widths = (hidden, *_HEAD)
        steps = [(nn.Linear(a, b), nn.ELU(), nn.Dropout(dropout)) for a, b in pairwise(widths)]
        self.relevance = nn.Sequential(*(module for step in steps for module in step), nn.Linear(_HEAD[-1], 1))

    def forward(self, tokens: TokenBatch) -> Float[Tensor, " documents"]:
        """Scores of documents; higher ranks first."""
        return self.relevance(self.states(tokens)[:, 0]).squeeze(-1)

    def states(self, tokens: TokenBatch) -> Float[Tensor, "documents tokens hidden"]:
        """What the encoder makes of every token."""
        return self.encoder(**tokens._asdict()).last_hidden_state

    def pretraining_losses(
        self, tokens: TokenBatch, clicks: Float[Tensor, " documents"], share: float = 0.1
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Cross entropy of masked words, and of clicks from the state of CLS.

        Args:
            tokens: as `token_batch` makes them.
            clicks: 0 or 1.
            share: of the words that are masked.
        """
        masked, labels = mask_words(tokens.input_ids, share)
        states = self.states(tokens._replace(input_ids=masked))
        asked = labels != _IGNORED
        embeddings = self.encoder.embeddings.word_embeddings.weight
        logits = functional.linear(self.words(states[asked]), embeddings, self.word_bias)
        guess = functional.cross_entropy(logits, labels[asked], reduction="sum") / asked.sum().clamp(min=1)
        clicked = functional.binary_cross_entropy_with_logits(self.click(states[:, 0]).squeeze(-1), clicks)
        return guess, clicked


class TextRanker:
    """Ranks documents by their text, learned from sessions and from judgements.

    Args:
        scorer: the model, or its size: "small", "base" or "large" for 3, 6 or 12 layers of width 768.
        objective: of `fit`; see `make_objective`.
        propensities: of the positions, for "ips".
        list_size: positions; documents shown below are left out.
        batch_size: sessions, or judged queries, at a time.
        buffer_size: sessions that wait to be shuffled; documents of a session stay together and in order.
        warm_up: steps until the learning rate is reached, after which it falls to 0 linearly.
        weight_decay: of AdamW.
        clip_norm: of the gradient.
        device: where it computes.
        random_state: seed of initial weights, masks and order.

    Attributes:
        losses: of every step of the last training.
        objective_: of the last `fit`, with what it learned, such as propensities.
    """

    def __init__(
        self,
        scorer: Size | TextScorer = "small",
        objective: str | Objective = "naive",
        propensities: Sequence[float | int] | np.ndarray | None = None,
        list_size: int = 10,
        batch_size: int = 22,
        buffer_size: int = 10_000,
        warm_up: int = 4_000,
        weight_decay: float = 0.01,
        clip_norm: float = 5.0,
        device: str | torch.device = "cpu",
        random_state: int = 0,
    ) -> None:
        if isinstance(scorer, str) and scorer not in _LAYERS:
            raise ValueError(f"scorer={scorer!r} is not known; accepted: {', '.join(_LAYERS)}, or a TextScorer")
        for name, value in (("list_size", list_size), ("batch_size", batch_size), ("buffer_size", buffer_size)):
            if value < 1:
                raise ValueError(f"{name}={value} is not accepted; a whole number from 1 on")
        self.random_state, self.device = random_state, torch.device(device)
        if isinstance(scorer, str):
            with torch.random.fork_rng():
                torch.manual_seed(random_state)
                scorer = TextScorer(_LAYERS[scorer])
        self.scorer = scorer.to(self.device).eval()
        self.objective, self.propensities = objective, propensities
        self.list_size, self.batch_size, self.buffer_size = list_size, batch_size, buffer_size
        self.warm_up, self.weight_decay, self.clip_norm = warm_up, weight_decay, clip_norm
        self.losses: list[float] = []

    def pretrain(self, sessions: Iterable[Session], steps: int, lr: float = 2e-6, share: float = 0.1) -> TextRanker:
        """Learn words and clicks together, from documents of sessions.

        Args:
            sessions: such as `read_baidu_sessions` gives; a list is gone through again until the steps are done.
            steps: batches.
            lr: the highest learning rate.
            share: of the words that are masked, 0 to 1; at 0 clicks alone are learned.

        Raises:
            ValueError: no step, no session with a document, or a share outside [0, 1].
        """

        if not 0 <= share <= 1:
            raise ValueError(f"share={share} is not accepted; it lies in [0, 1]")

        def loss(batch: list[Session]) -> Tensor:
            tokens, clicks, mask = self._lists(batch)
            guess, clicked = self.scorer.pretraining_losses(tokens, clicks[mask], share)
            return guess + clicked

        return self._train(self._batches(sessions), loss, list(self.scorer.parameters()), steps, lr)

    def fit(self, sessions: Iterable[Session], steps: int, lr: float = 2e-5) -> TextRanker:
        """Learn to rank from the clicks of sessions, by the objective.

        Args:
            sessions: see `pretrain`.
            steps: batches.
            lr: the highest learning rate.
        """
        named = self.objective
        made = named if isinstance(named, Objective) else make_objective(named, self.list_size, self.propensities)
        self.objective_ = made.to(self.device).train()

        def loss(batch: list[Session]) -> Tensor:
            tokens, clicks, mask = self._lists(batch)
            scores = torch.zeros_like(clicks).masked_scatter(mask, self.scorer(tokens))
            return self.objective_(scores, clicks, mask)

        parameters = [*self.scorer.parameters(), *self.objective_.parameters()]
        self._train(self._batches(sessions), loss, parameters, steps, lr)
        self.objective_.eval()
        return self

    def fine_tune(self, annotations: Iterable[Annotation], steps: int, lr: float = 2e-5) -> TextRanker:
        """Learn from judged documents, grouped by query text: softmax loss with gains 2^grade - 1.

        Args:
            annotations: such as `read_baidu_annotations` gives.
            steps: batches of queries.
            lr: the highest learning rate.

        Raises:
            ValueError: no query has a document of a grade above 0.
        """
        groups = [group for group in by_query(annotations) if any(each.grade for each in group)]
        if not groups:
            raise ValueError("no query has a document of a grade above 0; there is nothing to learn from")
        generator = np.random.default_rng(self.random_state)

        def batches() -> Iterator[list[list[Annotation]]]:
            while True:
                order = generator.permutation(len(groups))
                for start in range(0, len(order), self.batch_size):
                    yield [groups[number] for number in order[start : start + self.batch_size]]

        def loss(batch: list[list[Annotation]]) -> Tensor:
            mask = _mask([len(group) for group in batch]).to(self.device)
            gains = torch.tensor([2.0**each.grade - 1 for group in batch for each in group], device=self.device)
            scores = self.scorer(self._tokens([each for group in batch for each in group]))
            empty = torch.zeros(mask.shape, device=self.device)
            return softmax_loss(empty.masked_scatter(mask, scores), empty.masked_scatter(mask, gains), mask=mask)

        return self._train(batches(), loss, list(self.scorer.parameters()), steps, lr)

    def predict(self, annotations: Sequence[Annotation]) -> np.ndarray:
        """Scores of judged documents; the judgements are not looked at."""
        self.scorer.eval()
        scores = [np.zeros(0, dtype=np.float32)]
        with torch.inference_mode():
            for start in range(0, len(annotations), 256):
                scores.append(self.scorer(self._tokens(annotations[start : start + 256])).cpu().numpy())
        return np.concatenate(scores)

    def score(self, annotations: Iterable[Annotation], k: int = 10) -> float:
        """Mean DCG@k over query texts, the measure of the benchmark (gain 2^grade - 1)."""
        groups = by_query(annotations)
        mask = _mask([len(group) for group in groups]).numpy()
        scores, grades = np.zeros(mask.shape), np.zeros(mask.shape, dtype=np.int64)
        scores[mask] = self.predict([each for group in groups for each in group])
        grades[mask] = [each.grade for group in groups for each in group]
        return float(dcg(scores, grades, k, mask=mask).mean())

    def save(self, folder: str | Path) -> Path:
        """Write the model: weights as safetensors, its settings as JSON."""
        folder = Path(folder)
        state = {name: part.detach().cpu().contiguous() for name, part in self.scorer.state_dict().items()}
        write_bytes(folder / "scorer.safetensors", save(state))
        write_json(folder / "ranker.json", {"kind": "TextRanker", "scorer": self.scorer.settings})
        return folder

    @classmethod
    def load(cls, folder: str | Path, **settings: Any) -> TextRanker:
        """Read what `save` wrote; settings are those of a ranker other than its scorer.

        Raises:
            FileNotFoundError: the folder holds no ranker.
            ValueError: it is damaged or holds another kind of ranker.
        """
        folder = Path(folder)
        path = folder / "ranker.json"
        if not path.exists():
            raise FileNotFoundError(f"{folder} holds no ranker (ranker.json is missing); TextRanker.save writes one")
        try:
            about = json.loads(path.read_text(encoding="utf-8"))
            if about["kind"] != "TextRanker":
                raise ValueError(f"it describes a {about['kind']}")
            scorer = TextScorer(**about["scorer"])
            scorer.load_state_dict(load((folder / "scorer.safetensors").read_bytes()))
        except (ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            raise ValueError(f"{folder} is damaged: {error}") from error
        return cls(scorer, **settings)

    def _train(self, batches: Iterator[Any], loss_of: Any, parameters: list[Any], steps: int, lr: float) -> TextRanker:
        """AdamW with warm-up and linear decay."""
        if steps < 1:
            raise ValueError(f"steps={steps} is not accepted; a whole number from 1 on")
        parameters = [each for each in parameters if each.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=self.weight_decay)
        warm_up = min(self.warm_up, steps // 2)
        schedule = require("transformers", "order").get_linear_schedule_with_warmup(optimizer, warm_up, steps)
        self.losses = []
        self.scorer.train()
        with torch.random.fork_rng():
            torch.manual_seed(self.random_state)
            for _, batch in zip(range(steps), batches, strict=False):
                loss = loss_of(batch)
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(parameters, self.clip_norm)
                optimizer.step()
                schedule.step()
                self.losses.append(float(loss.detach()))
        self.scorer.eval()
        if not self.losses:
            raise ValueError("no session has a document; there is nothing to learn from")
        if len(self.losses) < steps:
            warnings.warn(f"the sessions ended after {len(self.losses)} of {steps} steps", stacklevel=3)
        return self

    def _batches(self, sessions: Iterable[Session]) -> Iterator[list[Session]]:
        """Shuffled sessions with documents; a buffer holds those that wait, whatever the size of the file."""
        generator = np.random.default_rng(self.random_state)
        again = not isinstance(sessions, Iterator)
        while True:
            found = False
            for waiting in batches((each for each in sessions if each.documents), self.buffer_size):
                found = True
                order = generator.permutation(len(waiting))
                for start in range(0, len(order), self.batch_size):
                    yield [waiting[number] for number in order[start : start + self.batch_size]]
            if not (again and found):
                return

    def _lists(self, sessions: list[Session]) -> tuple[TokenBatch, Tensor, Tensor]:
        """Tokens of the documents that were shown, clicks and mask by position.

        Raises:
            ValueError: two documents at one position of a session, whose scores could not be told apart.
        """
        shown = [(s, d) for s in range(len(sessions)) for d in sessions[s].documents if d.position <= self.list_size]
        clicks = torch.zeros(len(sessions), self.list_size)
        mask = torch.zeros(clicks.shape, dtype=torch.bool)
        shown.sort(key=lambda each: (each[0], each[1].position))
        for number, document in shown:
            if mask[number, document.position - 1]:
                raise ValueError(
                    f"a session of qid {sessions[number].qid} has two documents at position {document.position}; "
                    "leave one out"
                )
            mask[number, document.position - 1] = True
            clicks[number, document.position - 1] = document.click
        texts = ((sessions[s].query.ids, d.title.ids, d.abstract.ids) for s, d in shown)
        tokens = token_batch(texts, self.scorer.settings["length"])
        return tokens.to(self.device), clicks.to(self.device), mask.to(self.device)

    def _tokens(self, annotations: Sequence[Annotation]) -> TokenBatch:
        texts = ((each.query.ids, each.title.ids, each.abstract.ids) for each in annotations)
        return token_batch(texts, self.scorer.settings["length"]).to(self.device)


def by_query(annotations: Iterable[Annotation]) -> list[list[Annotation]]:
    """Judged documents by the text of their query, wherever they stand in the file."""
    groups: dict[bytes, list[Annotation]] = {}
    for annotation in annotations:
        groups.setdefault(annotation.query, []).append(annotation)
    return list(groups.values())


def mask_words(ids: Int[Tensor, "documents tokens"], share: float) -> tuple[Tensor, Tensor]:
    """Tokens of which some words are MASK, and what those were (-100 for all others)."""
    chosen = (ids >= _OFFSET) & (torch.rand(ids.shape, device=ids.device) < share)
    return ids.masked_fill(chosen, MASK), ids.masked_fill(~chosen, _IGNORED)


def sinusoids(length: int, width: int) -> Float[Tensor, "length width"]:
    """sin and cos of the position over 10000^(2i / width), in turns (Vaswani et al. 2017, section 3.5)."""
    angles = torch.arange(length)[:, None] / 10_000 ** (torch.arange(0, width, 2) / width)
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)


def _mask(lengths: Sequence[int]) -> Tensor:
    return torch.arange(max(lengths, default=0)) < torch.tensor(lengths, dtype=torch.long)[:, None]
