"""Trees that learn to rank from clicks: LightGBM on the gradients of the unbiased objectives."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from sklearn.utils.validation import check_array, check_is_fitted

from fullrank._files import write_json, write_text
from fullrank._optional import require
from fullrank.order.ultr_objectives import OBJECTIVES, Objective, make_objective
from fullrank.order.ultr_ranker import ClickRanker, check_positive, learned_propensities, restored, write_state

_SETTINGS = (
    "trees", "lr", "leaves", "min_leaf", "objective_steps", "objective_lr", "list_size", "random_state",
)  # fmt: skip
_SMALLEST_CURVATURE = 1e-6  # a Newton step divides by it


class LightGBMRanker(ClickRanker):
    """Ranks documents by boosted trees, learned from clicks on ranked lists.

    Every tree takes a Newton step on the objective. Before it, an objective with parameters of its own (the positions
    of "dla" and "two-tower") takes `objective_steps` of Adagrad on the scores so far: the two learn in turns.

    Args:
        objective: "naive", "ips", "dla", "rem", "pairdebias", "unbiased-lambdarank", "two-tower", or an `Objective`;
            "lambdarank" is LightGBM's own, which takes clicks as relevance.
        propensities: of the positions, for "ips".
        trees: how many.
        lr: share of every tree.
        leaves: of a tree.
        min_leaf: documents in a leaf.
        objective_steps: of the objective's own parameters before every tree.
        objective_lr: of those steps.
        list_size: positions; documents shown below are left out.
        random_state: seed.

    Attributes:
        booster_: trained.
        objective_: with what it learned, such as propensities; None for "lambdarank", and for one of your own once it
            was loaded.
        n_features_in_: of a document.
    """

    def __init__(
        self,
        objective: str | Objective = "dla",
        propensities: Sequence[float | int] | np.ndarray | None = None,
        trees: int = 100,
        lr: float = 0.1,
        leaves: int = 31,
        min_leaf: int = 20,
        objective_steps: int = 10,
        objective_lr: float = 0.05,
        list_size: int = 10,
        random_state: int = 0,
    ) -> None:
        self.objective = objective
        self.propensities = propensities
        self.trees = trees
        self.lr = lr
        self.leaves = leaves
        self.min_leaf = min_leaf
        self.objective_steps = objective_steps
        self.objective_lr = objective_lr
        self.list_size = list_size
        self.random_state = random_state

    def fit_lists(self, features: Any, clicks: Any, mask: Any = None) -> LightGBMRanker:
        """Learn from lists, in the order in which they were shown.

        Args:
            features: (lists, ranks, features).
            clicks: (lists, ranks), 0 or 1.
            mask: (lists, ranks), where there is a document.

        Raises:
            MissingExtra: LightGBM is not installed.
            ValueError: clicks that are neither 0 nor 1 or lie where there is no document, or a setting of 0 or less.
        """
        check_positive(trees=self.trees, lr=self.lr, leaves=self.leaves, objective_lr=self.objective_lr)
        lightgbm = require("lightgbm", "order")
        x, c = np.asarray(features, dtype=np.float32), torch.as_tensor(clicks, dtype=torch.float32)
        m = torch.ones_like(c, dtype=torch.bool) if mask is None else torch.as_tensor(mask, dtype=torch.bool)
        at = m.numpy()
        documents = lightgbm.Dataset(x[at], label=c.numpy()[at], group=at.sum(1), params={"verbose": -1})
        settings = {
            "learning_rate": self.lr,
            "num_leaves": self.leaves,
            "min_data_in_leaf": self.min_leaf,
            "seed": self.random_state,
            "deterministic": True,
            "verbose": -1,
        }
        if self.objective == "lambdarank":
            self.objective_ = None
            settings |= {"objective": "lambdarank", "label_gain": [0, 1]}
            self.booster_ = lightgbm.train(settings, documents, self.trees)
        else:
            self.objective_ = self._made_objective()
            with torch.random.fork_rng():
                torch.manual_seed(self.random_state)
                turns = _Turns(self.objective_, c, m, self.objective_steps, self.objective_lr)
                settings["objective"] = lambda *state: turns(*state)  # LightGBM copies objects, not functions
                self.booster_ = lightgbm.train(settings, documents, self.trees)
            self.objective_.eval()
        self.n_features_in_ = x.shape[-1]
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Scores of documents; higher ranks first.

        Raises:
            ValueError: another number of features than was trained on.
        """
        check_is_fitted(self, "booster_")
        X = check_array(X, dtype="float32")
        if X.shape[1] != self.n_features_in_:
            raise ValueError(f"X has {X.shape[1]} features, the ranker was trained on {self.n_features_in_}")
        return np.asarray(self.booster_.predict(X, raw_score=True))

    def save(self, folder: str | Path) -> Path:
        """Write the trees as LightGBM's text, what the objective learned as safetensors, the rest as JSON.

        Of an objective of your own only the propensities are kept.

        Raises:
            NotFittedError: nothing was learned yet.
        """
        check_is_fitted(self, "booster_")
        folder = Path(folder)
        name = self.objective if isinstance(self.objective, str) else type(self.objective).__name__
        about = {"kind": "LightGBMRanker", "features": self.n_features_in_, "objective": name}
        about |= {"propensities": None if self.objective_ is None else learned_propensities(self.objective_)}
        about["settings"] = {setting: getattr(self, setting) for setting in _SETTINGS}
        write_text(folder / "trees.txt", self.booster_.model_to_string())
        if self.objective_ is not None:
            write_state(self.objective_, folder, "objective")
        write_json(folder / "ranker.json", about)
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> LightGBMRanker:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: the folder holds no ranker.
            ValueError: it is damaged or holds another kind of ranker.
            MissingExtra: LightGBM is not installed.
        """
        folder = Path(folder)
        path = folder / "ranker.json"
        if not path.exists():
            raise FileNotFoundError(f"{folder} holds no ranker (ranker.json is missing); train one and save it")
        try:
            about = json.loads(path.read_text(encoding="utf-8"))
            kind = about["kind"]
            if kind != "LightGBMRanker":
                raise ValueError(f"it holds a {kind}; load it with that")
            features, objective, propensities = int(about["features"]), about["objective"], about["propensities"]
            settings = {setting: about["settings"][setting] for setting in _SETTINGS}
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is damaged: {error}") from error
        lightgbm = require("lightgbm", "order")
        made = cls(objective, propensities if objective == "ips" else None, **settings)
        try:
            made.booster_ = lightgbm.Booster(model_str=(folder / "trees.txt").read_text(encoding="utf-8"))
        except (OSError, lightgbm.basic.LightGBMError) as error:
            raise ValueError(f"{folder / 'trees.txt'} is damaged: {error}") from error
        made.objective_ = None
        if objective in OBJECTIVES:
            made.objective_ = restored(make_objective(objective, made.list_size, propensities), folder, "objective")
        made.n_features_in_ = features
        return made

    def _made_objective(self) -> Objective:
        if isinstance(self.objective, Objective):
            return self.objective
        return make_objective(self.objective, self.list_size, self.propensities)


def gradient_and_curvature(
    objective: Objective, scores: Float[torch.Tensor, "lists ranks"], clicks: torch.Tensor, mask: torch.Tensor
) -> tuple[Float[torch.Tensor, "lists ranks"], Float[torch.Tensor, "lists ranks"]]:
    """First and second derivative of an objective by every score, times the number of lists.

    Lists do not depend on each other, so one backward pass for every rank gives the second derivatives exactly.

    Args:
        objective: any; one whose state moves in training moves once.
        scores: of the documents.
        clicks: 0 or 1.
        mask: where there is a document.
    """
    s = scores.detach().requires_grad_()
    loss = objective(s, clicks, mask) * len(s)
    (gradient,) = torch.autograd.grad(loss, s, create_graph=True)
    if not gradient.requires_grad:  # no click: a loss without curvature
        return gradient, torch.zeros_like(gradient)
    columns = []
    for rank in range(s.shape[1]):
        (second,) = torch.autograd.grad(gradient[:, rank].sum(), s, retain_graph=True)
        columns.append(second[:, rank])
    return gradient.detach(), torch.stack(columns, 1)


class _Turns:
    """What LightGBM asks before every tree: the objective learns from the scores, then they from the objective."""

    def __init__(self, objective: Objective, clicks: torch.Tensor, mask: torch.Tensor, steps: int, lr: float) -> None:
        self.objective, self.clicks, self.mask, self.steps = objective.train(), clicks, mask, steps
        parameters = list(objective.parameters())
        self.optimizer = torch.optim.Adagrad(parameters, lr=lr) if parameters else None

    def __call__(self, predictions: np.ndarray, documents: Any) -> tuple[np.ndarray, np.ndarray]:
        scores = torch.zeros_like(self.clicks)
        scores[self.mask] = torch.as_tensor(predictions, dtype=torch.float32)
        if self.optimizer is not None:
            self._learn(scores, self.optimizer)
        gradient, curvature = gradient_and_curvature(self.objective, scores, self.clicks, self.mask)
        curvature = curvature.clamp(min=_SMALLEST_CURVATURE)  # where the objective is not convex, too
        return gradient[self.mask].double().numpy(), curvature[self.mask].double().numpy()

    def _learn(self, scores: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
        for _ in range(self.steps):
            optimizer.zero_grad()
            self.objective(scores, self.clicks, self.mask).backward()
            optimizer.step()
