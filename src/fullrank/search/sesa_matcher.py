"""SESA for people who just have texts: a scikit-learn estimator that matches, explains and re-ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from fullrank.search.protocols import Document, Ranking
from fullrank.search.sesa import SESA, Contribution
from fullrank.search.sesa_losses import SESALoss, concept_loss
from fullrank.search.text_encoders import Vocabulary


class SESAMatcher(BaseEstimator):
    """Learns to match texts of two kinds through named concepts.

    Args:
        concepts: names of the axes.
        encoder: in place of the recurrent one, see `SESA`.
        cell: "lstm", "gru" or "none" for the mean of word vectors, which is fast and enough for small sets.
        embedding: size of word vectors.
        hidden: of the cell.
        activation: see `SESA`.
        latent: free dimensions beside the concepts.
        rank_loss: "softmax", "logistic" or "hinge".
        lam: weight of the concept loss; 0 for an opaque model of the same size.
        rank_weight: weight of the ranking loss; 0 to learn the concepts alone.
        standardize: targets as deviations from each concept's mean, trained by squared error; otherwise as they are, in
            [0, 1], by cross entropy.
        l1: weight of the explicit values' size.
        lr: of Adam.
        epochs: passes over the pairs.
        batch_size: pairs at a time.
        dropout: of word vectors.
        min_count: rarer words are left out.
        random_state: seed.

    Attributes:
        model_: a `SESA`.
        losses_: mean loss of every epoch.
    """

    def __init__(
        self,
        concepts: Sequence[str],
        encoder: Any = None,
        cell: str = "none",
        embedding: int = 128,
        hidden: int = 128,
        activation: str = "linear",
        latent: int = 0,
        rank_loss: str = "softmax",
        lam: float = 1.0,
        rank_weight: float = 1.0,
        standardize: bool = True,
        l1: float = 0.0,
        lr: float = 3e-3,
        epochs: int = 20,
        batch_size: int = 64,
        dropout: float = 0.1,
        min_count: int = 3,
        random_state: int = 0,
    ) -> None:
        self.concepts = concepts
        self.encoder = encoder
        self.cell = cell
        self.embedding = embedding
        self.hidden = hidden
        self.activation = activation
        self.latent = latent
        self.rank_loss = rank_loss
        self.lam = lam
        self.rank_weight = rank_weight
        self.standardize = standardize
        self.l1 = l1
        self.lr = lr
        self.epochs = epochs
        self.batch_size = batch_size
        self.dropout = dropout
        self.min_count = min_count
        self.random_state = random_state

    def fit(
        self,
        texts_a: Sequence[str | Sequence[str]],
        texts_b: Sequence[str | Sequence[str]],
        y: Any = None,
        concepts_a: Any = None,
        concepts_b: Any = None,
        sentences: int | None = None,
    ) -> SESAMatcher:
        """Learn from pairs (a_i, b_i) that match.

        Args:
            texts_a: of one kind, such as jobs; or lists of sentences, of which each step draws some.
            texts_b: of the other, in the same order.
            y: groups of the pairs; pairs of one group are no negatives of each other.
            concepts_a: (pairs, concepts), what is known of the texts of side a; NaN where nothing is.
            concepts_b: of side b; default that of side a.
            sentences: drawn of every list in each step.

        Raises:
            ValueError: another number of texts, or concepts of another shape.
        """
        if len(texts_a) != len(texts_b) or not len(texts_a):
            raise ValueError(
                f"{len(texts_a)} and {len(texts_b)} texts; as many of each side, and at least one, are needed"
            )
        targets = [self._targets(given, len(texts_a)) for given in (concepts_a, concepts_b)]
        groups = None if y is None else torch.as_tensor(np.unique(np.asarray(y), return_inverse=True)[1])
        with torch.random.fork_rng():
            torch.manual_seed(self.random_state)
            self.model_ = self._model([*texts_a, *texts_b])
            self._standardize(targets[0])
            self._train(texts_a, texts_b, targets, groups, sentences)
        self.model_.eval()
        return self

    def transform(self, texts: Sequence[str], side: str = "a") -> np.ndarray:
        """Explicit vectors, (texts, concepts); their columns are `get_feature_names_out()`."""
        check_is_fitted(self, "model_")
        with torch.inference_mode():
            return self.model_.encode(list(texts), side=side).numpy()

    def encode(self, texts: list[str]) -> np.ndarray:
        """The same: an encoder of the retrieval room."""
        return self.transform(texts)

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Names of the concepts."""
        check_is_fitted(self, "model_")
        return np.array(self.model_.concept_names, dtype=object)

    def rank(
        self, query_texts: Sequence[str], candidate_texts: Sequence[str], k: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Places of the best candidates for every query, and their scores, (queries, k)."""
        check_is_fitted(self, "model_")
        with torch.inference_mode():
            scores = self.model_(list(query_texts), list(candidate_texts))
            best, places = scores.topk(len(candidate_texts) if k is None else min(k, len(candidate_texts)), dim=1)
        return places.numpy(), best.numpy()

    def explain(self, text_a: str, text_b: str, top: int = 10) -> list[Contribution]:
        """The concepts that move the score of a pair most."""
        check_is_fitted(self, "model_")
        return self.model_.explain([text_a], [text_b], top)[0]

    def rerank(self, query: str, documents: Sequence[Document]) -> Ranking:
        """See `Reranker.rerank`; what moved each score says `explain`."""
        if not documents:
            return Ranking(query, (), ())
        places, scores = self.rank([query], [document.searched for document in documents])
        return Ranking(query, tuple(documents[place] for place in places[0]), tuple(map(float, scores[0])))

    def _model(self, texts: Sequence[str | Sequence[str]]) -> SESA:
        options: dict[str, Any] = {"activation": self.activation, "latent": self.latent}
        if self.encoder is not None:
            return SESA(concepts=self.concepts, encoder=self.encoder, **options)
        vocabulary = Vocabulary.of([_joined(text) for text in texts], self.min_count)
        return SESA(
            concepts=self.concepts, vocabulary=vocabulary, embedding=self.embedding, cell=self.cell,
            hidden=self.hidden, dropout=self.dropout, **options,
        )  # fmt: skip

    def _targets(self, given: Any, count: int) -> torch.Tensor | None:
        if given is None:
            return None
        targets = torch.as_tensor(np.asarray(given, dtype=np.float32))
        if targets.shape != (count, len(self.concepts)):
            raise ValueError(f"concepts have shape {tuple(targets.shape)}; ({count}, {len(self.concepts)}) is needed")
        return targets

    def _standardize(self, targets: torch.Tensor | None) -> None:
        if targets is None or not self.standardize:
            return
        mean = targets.nanmean(0)
        deviation = (targets - mean).square().nanmean(0).sqrt().clamp(min=1e-6)
        model: Any = self.model_
        model.concept_mean.copy_(mean)
        model.concept_deviation.copy_(deviation)

    def _train(self, texts_a: Any, texts_b: Any, targets: Any, groups: Any, sentences: int | None) -> None:
        rng = np.random.default_rng(self.random_state)
        model, loss_of = self.model_.train(), self._loss()
        optimizer = torch.optim.Adam(model.parameters(), lr=self.lr)
        self.losses_: list[float] = []
        for _ in range(self.epochs):
            total, seen = 0.0, 0
            for rows in torch.randperm(len(texts_a)).split(self.batch_size):
                if len(rows) < 2:
                    continue  # a pair alone has no negatives
                a, b = ([_drawn(texts[row], sentences, rng) for row in rows.tolist()] for texts in (texts_a, texts_b))
                comparison = model.compare(a, b)
                loss = self.rank_weight * loss_of(comparison, group_ids=None if groups is None else groups[rows])
                loss = loss + self._concepts(comparison, targets, rows)
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
                optimizer.step()
                total, seen = total + float(loss.detach()) * len(rows), seen + len(rows)
            self.losses_.append(total / max(seen, 1))

    def _loss(self) -> SESALoss:
        kind: Any = self.rank_loss
        return SESALoss(kind, l1=self.l1)

    def _concepts(self, comparison: Any, targets: Any, rows: torch.Tensor) -> torch.Tensor | float:
        """lambda times the mean concept loss of the sides that have targets."""
        if not self.lam:
            return 0.0
        first, second = targets[0], targets[1] if targets[1] is not None else targets[0]
        parts = [
            concept_loss(logits, *self._prepared(wanted[rows]), "mse" if self.standardize else "bce", 0.1)
            for logits, wanted in ((comparison.logits_a, first), (comparison.logits_b, second))
            if wanted is not None
        ]
        return self.lam * sum(parts) / len(parts) if parts else 0.0

    def _prepared(self, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Targets, standardised or as they are, and which are known."""
        known = ~targets.isnan()
        if self.standardize:
            model: Any = self.model_
            targets = (targets - model.concept_mean) / model.concept_deviation
        return torch.where(known, targets, 0), known


def _joined(text: str | Sequence[str]) -> str:
    return text if isinstance(text, str) else " ".join(text)


def _drawn(text: Any, count: int | None, rng: np.random.Generator) -> str:
    if isinstance(text, str) or count is None or len(text) <= count:
        return _joined(text)
    return " ".join(text[place] for place in rng.choice(len(text), count, replace=False).tolist())
