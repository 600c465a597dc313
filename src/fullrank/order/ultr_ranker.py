"""Learning to rank from clicks, as a scikit-learn estimator."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_array, check_is_fitted
from torch import nn

from fullrank._files import write_bytes, write_json
from fullrank.order.list_measures import ndcg
from fullrank.order.ultr_objectives import OBJECTIVES, Objective, make_objective

ScorerKind = Literal["linear", "mlp"]
_Module = TypeVar("_Module", bound=nn.Module)
_HIDDEN = (512, 256, 128)
_SETTINGS = ("lr", "epochs", "batch_size", "clip_norm", "list_size", "random_state")


def make_scorer(kind: ScorerKind, features: int) -> nn.Module:
    """A scorer of feature vectors: "linear", or "mlp": 512-256-128 with ELU, a layer norm before each map.

    Raises:
        ValueError: an unknown kind.
    """
    if kind == "linear":
        return nn.Linear(features, 1)
    if kind != "mlp":
        raise ValueError(f"scorer={kind!r} is not known; accepted: linear, mlp, or a module from features to scores")
    layers: list[nn.Module] = []
    for width in _HIDDEN:
        layers += [nn.LayerNorm(features), nn.Linear(features, width), nn.ELU()]
        features = width
    return nn.Sequential(*layers, nn.LayerNorm(features), nn.Linear(features, 1))


class ClickRanker(BaseEstimator, ABC):
    """What rankers that learn from clicks share: documents as they come are made into lists, and scores measured."""

    list_size: int

    def fit(self, X: Any, clicks: Any, qid: Any, positions: Any = None) -> Any:
        """Learn from documents that were shown.

        Args:
            X: features, (documents, features).
            clicks: 0 or 1, (documents,).
            qid: which list each document was shown in; lists need not be contiguous.
            positions: at which each was shown, from 1; default its place in its list.

        Raises:
            ValueError: arrays of other lengths, clicks that are neither 0 nor 1, or no document within `list_size`.
        """
        X = check_array(X, dtype="float32")
        clicks, qid = np.asarray(clicks), np.asarray(qid)
        if len(clicks) != len(X) or len(qid) != len(X):
            raise ValueError(f"{len(X)} documents, {len(clicks)} clicks and {len(qid)} lists; one each is needed")
        places = places_within(qid) if positions is None else np.asarray(positions) - 1
        if len(places) != len(X) or (places < 0).any():
            raise ValueError(
                f"{len(places)} positions for {len(X)} documents, from {places.min() + 1}; they count from 1"
            )
        return self.fit_lists(*padded(X, clicks, qid, places, self.list_size))

    @abstractmethod
    def fit_lists(self, features: Any, clicks: Any, mask: Any = None) -> Any:
        """Learn from lists, in the order in which they were shown: (lists, ranks, features) and (lists, ranks)."""

    @abstractmethod
    def predict(self, X: Any) -> np.ndarray:
        """Scores of documents; higher ranks first."""

    def score(self, X: Any, grades: Any, qid: Any) -> float:
        """Mean nDCG@10 (gain 2^grade - 1) over the queries with a relevant document.

        Raises:
            ValueError: arrays of other lengths, or no query with a relevant document.
        """
        scores, grades, qid = self.predict(X), np.asarray(grades), np.asarray(qid)
        if not len(scores) == len(grades) == len(qid):
            raise ValueError(f"{len(scores)} documents, {len(grades)} grades and {len(qid)} lists; one each is needed")
        if not (grades > 0).any():
            raise ValueError("grades hold no relevant document, above 0; nDCG needs one to compare with")
        places = places_within(qid)
        width = int(places.max()) + 1
        numbers = np.unique(qid, return_inverse=True)[1]
        s, g = np.zeros((numbers.max() + 1, width)), np.zeros((numbers.max() + 1, width), dtype=np.int64)
        m = np.zeros(s.shape, dtype=bool)
        s[numbers, places], g[numbers, places], m[numbers, places] = scores, grades, True
        return float(np.nanmean(ndcg(s, g, 10, mask=m)))


class ULTRRanker(ClickRanker):
    """Ranks documents by features, learned from clicks on ranked lists.

    Args:
        objective: "naive", "ips", "dla", "rem", "pairdebias", "unbiased-lambdarank", "two-tower", or an `Objective`.
        scorer: "linear", "mlp", or a module from (..., features) to (..., 1).
        propensities: of the positions, for "ips".
        lr: of Adagrad.
        epochs: passes over the lists.
        batch_size: lists at a time.
        clip_norm: of the gradient.
        list_size: positions; documents shown below are left out.
        random_state: seed of initial weights and order.

    Attributes:
        scorer_: trained.
        objective_: with what it learned, such as propensities.
        n_features_in_: of a document.
    """

    def __init__(
        self,
        objective: str | Objective = "dla",
        scorer: ScorerKind | nn.Module = "linear",
        propensities: Sequence[float | int] | np.ndarray | None = None,
        lr: float = 0.05,
        epochs: int = 1,
        batch_size: int = 256,
        clip_norm: float = 5.0,
        list_size: int = 10,
        random_state: int = 0,
    ) -> None:
        self.objective = objective
        self.scorer = scorer
        self.propensities = propensities
        self.lr = lr
        self.epochs = epochs
        self.batch_size = batch_size
        self.clip_norm = clip_norm
        self.list_size = list_size
        self.random_state = random_state

    def fit_lists(self, features: Any, clicks: Any, mask: Any = None) -> ULTRRanker:
        """Learn from lists, in the order in which they were shown.

        Args:
            features: (lists, ranks, features), or (documents, features) with `clicks` of `ListClicks`.
            clicks: (lists, ranks), 0 or 1.
            mask: (lists, ranks), where there is a document.
        """
        x = torch.as_tensor(features, dtype=torch.float32)
        c = torch.as_tensor(clicks, dtype=torch.float32)
        m = torch.ones_like(c, dtype=torch.bool) if mask is None else torch.as_tensor(mask, dtype=torch.bool)
        return self.fit_batches(x.shape[-1], len(x), lambda rows: (x[rows], c[rows], m[rows]))

    def fit_batches(self, features: int, lists: int, batch: Any) -> ULTRRanker:
        """Learn from lists that are made when they are needed.

        Args:
            features: of a document.
            lists: how many there are.
            batch: from numbers of lists to features (n, ranks, features), clicks and mask (n, ranks).

        Raises:
            ValueError: a setting of 0 or less.
        """
        check_positive(lr=self.lr, clip_norm=self.clip_norm)
        check_positive(epochs=self.epochs, batch_size=self.batch_size, list_size=self.list_size)
        with torch.random.fork_rng():  # initial weights, and what objectives draw
            torch.manual_seed(self.random_state)
            return self._fitted(features, lists, batch)

    def _fitted(self, features: int, lists: int, batch: Any) -> ULTRRanker:
        kind: Any = self.scorer
        scorer = kind if isinstance(kind, nn.Module) else make_scorer(kind, features)
        if isinstance(self.objective, Objective):
            objective = self.objective
        else:
            objective = make_objective(self.objective, self.list_size, self.propensities)
        parameters = [*scorer.parameters(), *objective.parameters()]
        optimizer = torch.optim.Adagrad(parameters, lr=self.lr)
        generator = torch.Generator().manual_seed(self.random_state)
        scorer.train()
        objective.train()
        for _ in range(self.epochs):
            for rows in torch.randperm(lists, generator=generator).split(self.batch_size):
                x, c, m = batch(rows)
                loss = objective(scorer(x).squeeze(-1), c, m)
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(parameters, self.clip_norm)
                optimizer.step()
        self.scorer_, self.objective_ = scorer.eval(), objective.eval()
        self.n_features_in_ = features
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Scores of documents; higher ranks first.

        Raises:
            ValueError: another number of features than was trained on.
        """
        check_is_fitted(self, "scorer_")
        X = check_array(X, dtype="float32")
        if X.shape[1] != self.n_features_in_:
            raise ValueError(f"X has {X.shape[1]} features, the ranker was trained on {self.n_features_in_}")
        with torch.inference_mode():
            return self.scorer_(torch.from_numpy(X)).squeeze(-1).numpy()

    def save(self, folder: str | Path) -> Path:
        """Write scorer and objective: weights as safetensors, the rest as JSON.

        A scorer of your own is given again to `load`; of an objective of your own only the propensities are kept.

        Raises:
            NotFittedError: nothing was learned yet.
        """
        check_is_fitted(self, "scorer_")
        folder = Path(folder)
        kind = self.scorer if isinstance(self.scorer, str) else None
        about = {"kind": "ULTRRanker", "scorer": kind, "features": self.n_features_in_}
        name = self.objective if isinstance(self.objective, str) else type(self.objective).__name__
        about |= {"objective": name, "propensities": learned_propensities(self.objective_)}
        about["settings"] = {setting: getattr(self, setting) for setting in _SETTINGS}
        for part, module in (("scorer", self.scorer_), ("objective", self.objective_)):
            write_state(module, folder, part)
        write_json(folder / "ranker.json", about)
        return folder

    @classmethod
    def load(cls, folder: str | Path, scorer: nn.Module | None = None) -> ULTRRanker:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: the folder holds no ranker.
            ValueError: it is damaged, or was trained over a module of its own that is not given.
        """
        folder = Path(folder)
        path = folder / "ranker.json"
        if not path.exists():
            raise FileNotFoundError(f"{folder} holds no ranker (ranker.json is missing); ULTRRanker.save writes one")
        try:
            about = json.loads(path.read_text(encoding="utf-8"))
            if about["kind"] != "ULTRRanker":
                raise ValueError(f"it describes a {about['kind']}")
            kind, name, propensities = about["scorer"], about["objective"], about["propensities"]
            features = int(about["features"])
            settings = {setting: about["settings"][setting] for setting in _SETTINGS}
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is damaged: {error}") from error
        if kind is None and scorer is None:
            raise ValueError(f"{folder} was trained over a module of its own: load(folder, scorer=...)")
        chosen: Any = kind if scorer is None else scorer
        made: Any = cls(name, chosen, propensities if name == "ips" else None, **settings)
        made.scorer_ = restored(make_scorer(chosen, features) if scorer is None else scorer, folder, "scorer")
        if name in OBJECTIVES:
            objective = make_objective(name, made.list_size, propensities)
            made.objective_ = restored(objective, folder, "objective")
        made.n_features_in_ = features
        return made


def write_state(module: nn.Module, folder: Path, part: str) -> None:
    """Write a part of a ranker, for `restored`."""
    state = {k: v.contiguous() for k, v in module.state_dict().items()}
    write_bytes(folder / f"{part}.safetensors", save(state))


def restored(module: _Module, folder: Path, part: str) -> _Module:
    """A part of a ranker with the state that was written.

    Raises:
        ValueError: there is none, or it is damaged or that of another kind of module.
    """
    path = folder / f"{part}.safetensors"
    try:
        module.load_state_dict(load(path.read_bytes()))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ValueError(f"{path} is damaged, or of another {part}: {error}") from error
    return module.eval()


def check_positive(**settings: float | int) -> None:
    """Raise ValueError for a setting of 0 or less."""
    for name, value in settings.items():
        if not value > 0:
            raise ValueError(f"{name}={value} is not accepted; it is above 0")


def places_within(qid: np.ndarray) -> np.ndarray:
    """The place of every document among those of its list, from 0, in the order in which they come."""
    order = np.argsort(qid, kind="stable")
    ordered = qid[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    lengths = np.diff(np.append(starts, len(qid)))
    places = np.empty(len(qid), dtype=np.int64)
    places[order] = np.arange(len(qid)) - np.repeat(starts, lengths)
    return places


def padded(
    X: np.ndarray, clicks: np.ndarray, qid: np.ndarray, places: np.ndarray, list_size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Documents as lists: features, clicks and mask by position; what lies below `list_size` is left out.

    Raises:
        ValueError: no document lies within, or two at one position of a list.
    """
    within = places < list_size
    if not within.any():
        raise ValueError(f"no document was shown within list_size={list_size}")
    numbers = np.unique(qid, return_inverse=True)[1]
    shape = (int(numbers.max()) + 1, min(list_size, int(places[within].max()) + 1))
    features = np.zeros((*shape, X.shape[1]), dtype=np.float32)
    c, m = np.zeros(shape, dtype=np.float32), np.zeros(shape, dtype=bool)
    rows, columns = numbers[within], places[within]
    np.add.at(counts := np.zeros(shape, dtype=np.int64), (rows, columns), 1)
    if (counts > 1).any():
        row, column = np.argwhere(counts > 1)[0].tolist()
        raise ValueError(f"list {np.unique(qid)[row]} has {counts[row, column]} documents at position {column + 1}")
    features[rows, columns], c[rows, columns], m[rows, columns] = X[within], clicks[within], True
    return features, c, m


def learned_propensities(objective: Objective) -> list[float] | None:
    """Of the positions; None where an objective has none."""
    try:
        return objective.propensities().tolist()
    except NotImplementedError:
        return None
