"""SESA for people who just have texts: a scikit-learn estimator that matches, explains and re-ranks."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import partial
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.linear_model import LogisticRegression
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from fullrank._files import write_json
from fullrank.search import sesa_targets
from fullrank.search.dense import nearest
from fullrank.search.protocols import Document, Ranking
from fullrank.search.run import at_least_one
from fullrank.search.sesa import SESA, Contribution, unit
from fullrank.search.sesa_losses import SESALoss
from fullrank.search.sesa_reranker import SESAReranker, in_batches
from fullrank.search.sesa_training import Epochs, Objective, Pairs, Text, joined, reciprocal_rank, train
from fullrank.search.text_encoders import Vocabulary

_ABOUT = "matcher.json"
_YOURS = ("encoder", "tokenizer")  # objects that are not stored


class SESAMatcher(TransformerMixin, BaseEstimator):
    """Learns to match texts of two kinds through named concepts.

    Relatives of the method are settings: `lam=0` is the opaque model of the same size, `rank_weight=0` learns the
    concepts alone, `latent=8` adds free dimensions that explanations call "other", and `activation="relu", l1=1e-4,
    sparsity=10` keeps explanations short.

    Args:
        concepts: names of the axes.
        encoder: in place of the recurrent one, or two of them with `separate`, see `SESA`.
        tokenizer: see `SESA`.
        cell: "lstm", "gru" or "none" for the mean of word vectors, which is fast and enough for small sets.
        embedding: size of word vectors.
        hidden: of the cell.
        pooling: see `SESA`.
        separate: an encoder for each side.
        head: "dense", or "factorized" for very many concepts.
        head_rank: of the factorized head.
        activation: see `SESA`.
        similarity: see `SESA`.
        latent: free dimensions beside the concepts.
        sparsity: see `SESA`.
        weights: of the concepts in the similarity: numbers, "learned", or "idf" for log((1 + n) / (1 + n_k)) + 1, with
            n_k of n texts that have the concept, so that frequent ones do not dominate.
        rank_loss: "softmax", "logistic" or "hinge".
        margin: of the hinge.
        lam: weight of the concept loss; 0 for an opaque model of the same size.
        rank_weight: weight of the ranking loss; 0 to learn the concepts alone.
        standardize: targets as deviations from each concept's mean, trained by squared error; otherwise as they are, in
            [0, 1], by cross entropy, which suits concepts that texts list.
        unlisted: weight of 0 among targets that are not standardised: what a text does not list is unknown, not absent.
        negatives: learn from the listed concepts and so many others for each, drawn anew in each step: for so many
            concepts that a table of them does not fit in memory.
        l1: weight of the explicit values' size.
        lr: of Adam.
        epochs: passes over the pairs.
        batch_size: pairs at a time.
        dropout: of word vectors.
        min_count: rarer words are left out.
        max_length: words read of a text.
        validation_fraction: share of the pairs (of the groups, if there are any) that are held out to keep the epoch
            that ranks them best.
        patience: epochs without a better one before training stops; where pairs are held out.
        fidelity_floor: correlation of values and targets that a kept epoch reaches at least; where pairs are held out
            and concepts are given.
        device: "cpu", "cuda", ...
        random_state: seed, or a generator of NumPy's; None for another result every time.

    Attributes:
        model_: a `SESA`.
        losses_: mean loss of every epoch.
        validation_: "MRR" and "fidelity" after every epoch, where pairs are held out.
    """

    def __init__(
        self,
        concepts: Sequence[str],
        encoder: Any = None,
        tokenizer: Any = None,
        cell: str = "none",
        embedding: int = 128,
        hidden: int = 128,
        pooling: str = "mean",
        separate: bool = False,
        head: str = "dense",
        head_rank: int = 64,
        activation: str = "linear",
        similarity: str = "cosine",
        latent: int = 0,
        sparsity: int | None = None,
        weights: Any = None,
        rank_loss: str = "softmax",
        margin: float = 0.3,
        lam: float = 1.0,
        rank_weight: float = 1.0,
        standardize: bool = True,
        unlisted: float = 0.1,
        negatives: int | None = None,
        l1: float = 0.0,
        lr: float = 3e-3,
        epochs: int = 20,
        batch_size: int = 64,
        dropout: float = 0.1,
        min_count: int = 3,
        max_length: int = 512,
        validation_fraction: float = 0.0,
        patience: int = 5,
        fidelity_floor: float | None = None,
        device: str = "cpu",
        random_state: int | np.random.RandomState | None = 0,
    ) -> None:
        self.concepts = concepts
        self.encoder = encoder
        self.tokenizer = tokenizer
        self.cell = cell
        self.embedding = embedding
        self.hidden = hidden
        self.pooling = pooling
        self.separate = separate
        self.head = head
        self.head_rank = head_rank
        self.activation = activation
        self.similarity = similarity
        self.latent = latent
        self.sparsity = sparsity
        self.weights = weights
        self.rank_loss = rank_loss
        self.margin = margin
        self.lam = lam
        self.rank_weight = rank_weight
        self.standardize = standardize
        self.unlisted = unlisted
        self.negatives = negatives
        self.l1 = l1
        self.lr = lr
        self.epochs = epochs
        self.batch_size = batch_size
        self.dropout = dropout
        self.min_count = min_count
        self.max_length = max_length
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.fidelity_floor = fidelity_floor
        self.device = device
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:
        tags: Any = super().__sklearn_tags__()
        tags.input_tags.string, tags.input_tags.two_d_array = True, False
        return tags

    # --- learning ------------------------------------------------------------------------------------------------

    def fit(
        self,
        texts_a: Iterable[Text],
        texts_b: Iterable[Text],
        y: Any = None,
        concepts_a: Any = None,
        concepts_b: Any = None,
        groups: Any = None,
        known_a: Any = None,
        known_b: Any = None,
        sentences: int | None = None,
    ) -> SESAMatcher:
        """Learn from pairs (a_i, b_i).

        Args:
            texts_a: of one kind, such as jobs; or lists of sentences, of which each step draws some.
            texts_b: of the other, in the same order.
            y: 1 for every pair that matches and 0 for others, such as clicked or not; for `rank_loss="logistic"`.
                Without, all pairs match, and the others of a batch are their negatives.
            concepts_a: what is known of the texts of side a: (pairs, concepts) with NaN where nothing is, perhaps
                sparse; or of each text the names of the concepts that it lists, None if that is not known.
            concepts_b: of side b; default that of side a.
            groups: pairs of one group are no negatives of each other, and are held out together.
            known_a: concepts that enter the vectors of side a, see `SESA.encode`; in the same forms.
            known_b: of side b.
            sentences: drawn of every list in each step.

        Raises:
            ValueError: another number of texts, labels or groups, concepts of another shape or range, too few pairs, a
                setting out of range, or a floor of fidelity with nothing to measure it by.
            TypeError: something that is not text.
        """
        texts_a, texts_b = _all_of(texts_a, "texts_a"), _all_of(texts_b, "texts_b")
        count = self._checked(texts_a, texts_b, y)
        if self.fidelity_floor is not None and (concepts_a is None or not self.validation_fraction):
            missing = "concepts_a" if concepts_a is None else "validation_fraction above 0"
            raise ValueError(
                f"fidelity_floor={self.fidelity_floor} is a correlation with concepts_a over pairs that are held out: "
                f"give {missing} too"
            )
        table = partial(sesa_targets.table, concepts=self.concepts, count=count)
        targets = self._targets(concepts_a, count, "concepts_a"), self._targets(concepts_b, count, "concepts_b")
        known: Any = [
            None if given is None else table(given, name=name).to(self.device)
            for name, given in (("known_a", known_a), ("known_b", known_b))
        ]
        pairs = Pairs(
            (texts_a, texts_b),
            targets,
            (known[0], known[1]),
            None if y is None else torch.as_tensor(np.asarray(y, dtype=np.float32)).to(self.device),
            self._groups(groups, count),
        )
        seed = _seed(self.random_state)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.model_ = self._model([*texts_a, *texts_b], targets[0])
            self._standardize(targets[0])
            learned, held_out = self._split(pairs)
            plan = Epochs(
                self.epochs, self.batch_size, self.lr, sentences, self.patience, self.fidelity_floor
            )  # fmt: skip
            rng = np.random.default_rng(seed)
            self.losses_, self.validation_ = train(self.model_, learned, held_out, self._objective(), plan, rng)
        return self

    def score(self, texts_a: Iterable[Text], texts_b: Iterable[Text]) -> float:
        """Mean reciprocal rank of every text's partner among `texts_b`, for searches over settings."""
        check_is_fitted(self, "model_")
        first, second = self._partners(texts_a, texts_b)
        return reciprocal_rank(first @ second.mT)

    def calibrate(self, texts_a: Iterable[Text], texts_b: Iterable[Text], y: Any) -> SESAMatcher:
        """Learn from further labelled pairs how probable a match is at a score (Platt scaling): `match_probability`.

        Raises:
            ValueError: labels of one kind only.
        """
        check_is_fitted(self, "model_")
        if len(np.unique(np.asarray(y))) < 2:
            raise ValueError("y has labels of one kind only: pairs that match and pairs that do not are needed")
        self.calibration_ = LogisticRegression(C=1e6).fit(self._pair_scores(texts_a, texts_b)[:, None], y)
        return self

    # --- using ---------------------------------------------------------------------------------------------------

    def transform(self, texts: Iterable[Text], side: str = "a") -> np.ndarray:
        """Explicit vectors, (texts, concepts); their columns are `get_feature_names_out()`."""
        check_is_fitted(self, "model_")
        given = list(map(joined, _all_of(texts, "texts")))
        found = in_batches(lambda some, _: self.model_.encode(some, side=side), given, self.batch_size)
        return found.float().cpu().numpy()

    def encode(self, texts: list[str]) -> np.ndarray:
        """The same: an encoder of the retrieval room."""
        return self.transform(texts)

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Names of the concepts."""
        check_is_fitted(self, "model_")
        return np.array(self.model_.concept_names, dtype=object)

    def rank(
        self,
        query_texts: Iterable[Text],
        candidate_texts: Iterable[Text],
        k: int | None = None,
        known_queries: Any = None,
        known_candidates: Any = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Places of the best candidates for every query, and their scores, (queries, k).

        Args:
            query_texts: of side a.
            candidate_texts: of side b; scored block by block.
            k: how many at most; default all.
            known_queries: concepts that are known of the queries, see `fit`.
            known_candidates: of the candidates.

        Raises:
            ValueError: no candidates, or k below 1.
        """
        check_is_fitted(self, "model_")
        query_texts = _all_of(query_texts, "query_texts")
        candidate_texts = _all_of(candidate_texts, "candidate_texts")
        if not candidate_texts:
            raise ValueError("candidate_texts=[] leaves nothing to rank; give at least one")
        if k is not None:
            at_least_one(k)
        if not query_texts:
            return np.zeros((0, 0), np.int64), np.zeros((0, 0), np.float32)
        first = self._vectors(query_texts, "a", known_queries, "known_queries")
        second = self._vectors(candidate_texts, "b", known_candidates, "known_candidates")
        near, places = nearest(first, second, len(second) if k is None else min(k, len(second)))
        with torch.inference_mode():
            scores = self.model_.score(near.to(self.model_.bias.device))
        return places.numpy(), scores.cpu().numpy()

    def match_probability(self, texts_a: Iterable[Text], texts_b: Iterable[Text]) -> np.ndarray:
        """Of every pair (a_i, b_i), once `calibrate` has learned it."""
        check_is_fitted(self, "calibration_", msg="call calibrate(texts_a, texts_b, y) with labelled pairs first")
        return self.calibration_.predict_proba(self._pair_scores(texts_a, texts_b)[:, None])[:, 1]

    def explain(
        self, text_a: Text, text_b: Text, top: int = 10, known_a: Any = None, known_b: Any = None
    ) -> list[Contribution]:
        """The concepts that move the score of a pair most; all of them sum to the score less `model_.bias`."""
        check_is_fitted(self, "model_")
        known = [
            None if given is None else self._known([given], 1, name)
            for name, given in (("known_a", known_a), ("known_b", known_b))
        ]
        return self.model_.explain([joined(text_a)], [joined(text_b)], top, *known)[0]

    def rerank(self, query: str, documents: Sequence[Document]) -> Ranking:
        """See `Reranker.rerank`; what moved each score says `explain`."""
        check_is_fitted(self, "model_")
        return SESAReranker(self.model_, batch_size=self.batch_size).rerank(query, documents)

    # --- files ---------------------------------------------------------------------------------------------------

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write the model (see `SESA.save_pretrained`) and the settings; an encoder of your own stays yours."""
        check_is_fitted(self, "model_")
        folder = self.model_.save_pretrained(folder)
        about: dict[str, Any] = {"settings": {n: v for n, v in self.get_params().items() if n not in _YOURS}}
        about["settings"] |= {"concepts": list(self.concepts), "weights": _plain(self.weights)}
        if not isinstance(self.random_state, Integral):
            about["settings"]["random_state"] = None  # a generator's state is not that of the fitted matcher
        fitted = getattr(self, "calibration_", None)
        if fitted is not None:
            about["calibration"] = {"slope": float(fitted.coef_[0, 0]), "intercept": float(fitted.intercept_[0])}
        write_json(folder / _ABOUT, {**about, "losses": self.losses_, "validation": self.validation_})
        return folder

    @classmethod
    def from_pretrained(cls, folder: str | Path, encoder: Any = None, tokenizer: Any = None) -> SESAMatcher:
        """Read what `save_pretrained` wrote.

        Raises:
            FileNotFoundError: the folder holds no matcher.
            ValueError: it is damaged, or its encoder is missing.
        """
        path = Path(folder) / _ABOUT
        if not path.exists():
            raise FileNotFoundError(f"{folder} holds no matcher ({_ABOUT} is missing); save_pretrained() writes one")
        try:
            about = json.loads(path.read_text(encoding="utf-8"))
            made = cls(encoder=encoder, tokenizer=tokenizer, **about["settings"])
            made.losses_, made.validation_ = about["losses"], about["validation"]
            calibration = about.get("calibration")
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is damaged: {error}") from error
        made.model_ = SESA.from_pretrained(folder, encoder, made.concepts, tokenizer).to(made.device)
        if calibration is not None:
            made.calibration_ = LogisticRegression()
            made.calibration_.classes_ = np.array([0, 1])
            made.calibration_.coef_ = np.array([[calibration["slope"]]])
            made.calibration_.intercept_ = np.array([calibration["intercept"]])
        return made

    # --- within --------------------------------------------------------------------------------------------------

    def _checked(self, texts_a: Sequence[Text], texts_b: Sequence[Text], y: Any) -> int:
        """How many pairs there are."""
        if len(texts_a) != len(texts_b) or not len(texts_a):
            raise ValueError(
                f"{len(texts_a)} and {len(texts_b)} texts; as many of each side, and at least one, are needed"
            )
        if y is None:
            if len(texts_a) < 2:
                raise ValueError('one pair has no negatives; give more pairs, or rank_loss="logistic" with labels y')
            return len(texts_a)
        labels = np.asarray(y)
        if labels.shape != (len(texts_a),) or not np.isin(labels, (0, 1)).all():
            raise ValueError(f"y of shape {labels.shape}: 0 or 1 for each of {len(texts_a)} pairs is needed")
        if self.rank_loss != "logistic" and not (labels == 1).all():
            raise ValueError('y has pairs that do not match; only rank_loss="logistic" learns from them')
        return len(texts_a)

    def _targets(self, given: Any, count: int, name: str) -> Any:
        if given is None:
            return None
        if self.negatives is not None:
            return sesa_targets.listed(given, self.concepts, count, name)
        targets = sesa_targets.table(given, self.concepts, count, name)
        if not self.standardize:
            sesa_targets.check_probabilities(targets, self.concepts, name)
        return targets.to(self.device)

    def _groups(self, groups: Any, count: int) -> torch.Tensor | None:
        if groups is None:
            return None
        if len(groups) != count:
            raise ValueError(f"{len(groups)} groups for {count} pairs; one each is needed")
        return torch.as_tensor(np.unique(np.asarray(groups), return_inverse=True)[1]).to(self.device)

    def _model(self, texts: Iterable[Text], targets: Any) -> SESA:
        options: dict[str, Any] = {
            "activation": self.activation, "latent": self.latent, "pooling": self.pooling, "head": self.head,
            "rank": self.head_rank, "similarity": self.similarity, "sparsity": self.sparsity,
            "max_length": self.max_length, "weights": self._weights(targets),
        }  # fmt: skip
        if self.encoder is not None:
            model = SESA(
                concepts=self.concepts, encoder=self.encoder, tokenizer=self.tokenizer, separate=self.separate,
                **options,
            )  # fmt: skip
        else:
            model = SESA(
                concepts=self.concepts, vocabulary=Vocabulary.of([joined(text) for text in texts], self.min_count),
                embedding=self.embedding, cell=self.cell, hidden=self.hidden, separate=self.separate,
                dropout=self.dropout, **options,
            )  # fmt: skip
        return model.to(self.device)

    def _weights(self, targets: Any) -> Any:
        if not isinstance(self.weights, str) or self.weights != "idf":
            return self.weights
        if targets is None:
            raise ValueError('weights="idf" counts the texts of each concept: give concepts_a')
        K = len(self.concepts)
        if isinstance(targets, list):
            have = np.bincount([concept for row in targets for concept in row], minlength=K)
        else:
            have = (targets > 0).sum(0).cpu().numpy()
        return (np.log((1 + len(targets)) / (1 + have)) + 1).tolist()

    def _standardize(self, targets: Any) -> None:
        if not isinstance(targets, torch.Tensor) or not self.standardize:
            return
        mean = targets.nanmean(0)
        deviation = (targets - mean).square().nanmean(0).sqrt().clamp(min=1e-6)
        model: Any = self.model_
        model.concept_mean.copy_(mean.nan_to_num(0.0))
        model.concept_deviation.copy_(deviation.nan_to_num(1.0))

    def _split(self, pairs: Pairs) -> tuple[Pairs, Pairs | None]:
        """Pairs to learn from, and pairs held out: whole groups."""
        if not self.validation_fraction:
            return pairs, None
        groups = torch.arange(len(pairs)) if pairs.groups is None else pairs.groups.cpu()
        names = groups.unique()
        held = round(len(names) * self.validation_fraction)
        if not 0 < held < len(names):
            raise ValueError(
                f"validation_fraction={self.validation_fraction} holds out {held} of {len(names)} groups of pairs; "
                "some are needed on both sides"
            )
        out = torch.isin(groups, names[torch.randperm(len(names))[:held]])
        return pairs.take((~out).nonzero().flatten()), pairs.take(out.nonzero().flatten())

    def _objective(self) -> Objective:
        kind: Any = self.rank_loss
        return Objective(
            SESALoss(kind, margin=self.margin), self.rank_weight, self.lam,
            "mse" if self.standardize else "bce", self.unlisted, self.negatives, self.l1,
        )  # fmt: skip

    def _known(self, given: Any, count: int, name: str) -> torch.Tensor | None:
        if given is None:
            return None
        return sesa_targets.table(given, self.concepts, count, name).to(self.model_.bias.device)

    def _vectors(self, texts: Iterable[Text], side: str, known: Any = None, name: str = "") -> torch.Tensor:
        """What scores compare, of unit length for cosines."""
        given = list(map(joined, _all_of(texts, "texts")))
        compared = partial(self.model_.compared, side=side)
        found = in_batches(compared, given, self.batch_size, self._known(known, len(given), name))
        return (unit(found) if self.model_.config.similarity == "cosine" else found).float().cpu()

    def _partners(self, texts_a: Iterable[Text], texts_b: Iterable[Text]) -> tuple[torch.Tensor, torch.Tensor]:
        """Vectors of both sides of pairs."""
        first, second = self._vectors(texts_a, "a"), self._vectors(texts_b, "b")
        if len(first) != len(second):
            raise ValueError(f"{len(first)} and {len(second)} texts; as many of each side are needed")
        return first, second

    def _pair_scores(self, texts_a: Iterable[Text], texts_b: Iterable[Text]) -> np.ndarray:
        first, second = self._partners(texts_a, texts_b)
        near = (first * second).sum(1)
        with torch.inference_mode():
            return self.model_.score(near.to(self.model_.bias.device)).cpu().numpy()


def _all_of(texts: Iterable[Any], name: str) -> list[Text]:
    """The texts of a list, an array or a column.

    Raises:
        TypeError: one of them is not text.
    """
    if isinstance(texts, str):
        raise TypeError(f"{name} is one text; a list of texts is needed")
    found = list(texts)
    place = next((place for place, text in enumerate(found) if not _is_text(text)), None)
    if place is not None:
        kind = type(found[place]).__name__
        raise TypeError(f"{name}[{place}]={found[place]!r} is {kind}; text, or a list of sentences, is needed")
    return found


def _seed(random_state: Any) -> int:
    """A seed as it is, or one drawn.

    Raises:
        ValueError: it is neither a whole number of at least 0, nor a generator of NumPy's, nor None.
    """
    if isinstance(random_state, Integral) and int(random_state) >= 0:
        return int(random_state)
    if random_state is None or isinstance(random_state, np.random.RandomState):
        return int(check_random_state(random_state).randint(2**31 - 1))
    raise ValueError(
        f"random_state={random_state!r} is not accepted; a whole number of at least 0, a numpy.random.RandomState, or "
        "None"
    )


def _is_text(text: Any) -> bool:
    return isinstance(text, str) or (isinstance(text, list | tuple) and all(isinstance(part, str) for part in text))


def _plain(weights: Any) -> Any:
    return weights if weights is None or isinstance(weights, str) else [float(weight) for weight in weights]
