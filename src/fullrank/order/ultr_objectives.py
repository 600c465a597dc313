"""What unbiased learning to rank minimises, for any scorer: `objective(scores, clicks).backward()`."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from fullrank.order.ultr_losses import (
    check_clicks,
    checked,
    clicked_pairs,
    ips_pointwise,
    sigmoid_loss,
    softmax_loss,
)

ListLoss = Literal["softmax", "sigmoid"]
ToProbability = Literal["softmax", "sigmoid"]
_LOSSES = {"softmax": softmax_loss, "sigmoid": sigmoid_loss}
_RATIO = (0.01, 100.0)  # of one position's losses over the first one's
_EPS = 1e-8


class Objective(nn.Module):
    """An objective over lists of clicks.

    Args:
        list_size: positions that have a parameter; later ones take the last one's, with one warning. None where there
            are no parameters by position.
    """

    def __init__(self, list_size: int | None = None) -> None:
        super().__init__()
        if list_size is not None and list_size < 1:
            raise ValueError(f"list_size={list_size} is not accepted; at least 1 position is needed")
        self.list_size = list_size
        self._told = False

    def forward(
        self,
        scores: Float[Tensor, "lists ranks"],
        clicks: Tensor,
        mask: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> Float[Tensor, ""]:
        """The loss.

        Args:
            scores: of the documents, in any order.
            clicks: 0 or 1.
            mask: where there is a document; default everywhere.
            positions: at which each was shown, from 1; default its place in the list.

        Raises:
            ValueError: shapes that differ, clicks that are neither 0 nor 1 or lie where there is no document, or a
                position that is no whole number from 1 on.
        """
        check_clicks(clicks)
        return self.loss(scores, clicks, mask, self._places(scores, positions))

    def loss(self, scores: Tensor, clicks: Tensor, mask: Tensor | None, places: Int[Tensor, "lists ranks"]) -> Tensor:
        """The loss; places count from 0."""
        raise NotImplementedError

    def propensities(self) -> Float[Tensor, " positions"]:
        """Examination of every position over the first one's."""
        raise NotImplementedError(f"{type(self).__name__} has no propensities")

    def _places(self, scores: Tensor, positions: Tensor | None) -> Tensor:
        if positions is None:
            places = torch.arange(scores.shape[-1], device=scores.device).expand(scores.shape)
        elif positions.shape != scores.shape:
            raise ValueError(f"positions have shape {tuple(positions.shape)}; {tuple(scores.shape)} is needed")
        elif positions.is_floating_point() and not bool((positions == positions.floor()).all()):
            wrong = positions[positions != positions.floor()][0]
            raise ValueError(f"positions hold {float(wrong)}; they are whole numbers from 1")
        else:
            places = positions.long() - 1
        if places.numel() and int(places.min()) < 0:
            raise ValueError(f"positions hold {int(places.min()) + 1}; they count from 1")
        if self.list_size is None or not places.numel() or int(places.max()) < self.list_size:
            return places
        if not self._told:
            self._told = True
            warnings.warn(
                f"position {int(places.max()) + 1} is beyond list_size={self.list_size}; it takes the last one's "
                "parameters",
                stacklevel=4,
            )
        return places.clamp(max=self.list_size - 1)


class Naive(Objective):
    """Clicks as if they were relevance.

    Args:
        loss: "softmax" or "sigmoid".
    """

    def __init__(self, loss: ListLoss = "softmax") -> None:
        super().__init__()
        self._loss = _list_loss(loss)

    def loss(self, scores: Tensor, clicks: Tensor, mask: Tensor | None, places: Tensor) -> Tensor:
        """The loss without weights."""
        return self._loss(scores, clicks, mask=mask)


class IPS(Objective):
    """Clicks weighted by the inverse of their position's examination.

    Args:
        propensities: of the positions, each in (0, 1] relative to the first.
        clip: largest weight; None for no limit.
        loss: "softmax", or "sigmoid" for the unbiased pointwise form.
        weight_nonclicked: weigh documents without a click too, with the plain "sigmoid" loss: what some published code
            does; it only stresses ranks and corrects nothing.

    Raises:
        ValueError: a propensity that is 0 or less, above 1 or above the first, or not a number; or a clip of 0 or less.
    """

    def __init__(
        self,
        propensities: Sequence[float | int] | Tensor | np.ndarray,
        clip: float | int | None = 10,
        loss: ListLoss = "softmax",
        weight_nonclicked: bool = False,
    ) -> None:
        e = torch.as_tensor(propensities, dtype=torch.float32).flatten()
        super().__init__(len(e) or None)
        if not len(e):
            raise ValueError("propensities=[] has none; one for every position is needed")
        for values, of_the_first in ((e, ""), (e / e[0], " of the first")):
            wrong = (~((values > 0) & (values <= 1 + 1e-6))).nonzero().flatten()
            if len(wrong):
                place = int(wrong[0])
                raise ValueError(
                    f"propensities[{place}] is {float(values[place])}{of_the_first}; each lies in (0, 1]: those of "
                    "estimate_propensities do"
                )
        self.register_buffer("examination", e / e[0])
        _list_loss(loss)
        _check_clip(clip)
        self.kind, self.clip, self.weight_nonclicked = loss, clip, weight_nonclicked

    def loss(self, scores: Tensor, clicks: Tensor, mask: Tensor | None, places: Tensor) -> Tensor:
        """The weighted loss."""
        w = self.weights(places)
        if self.weight_nonclicked:
            return _LOSSES[self.kind](scores, clicks, w, mask)
        if self.kind == "sigmoid":
            return ips_pointwise(scores, clicks, w, mask)
        return softmax_loss(scores, clicks, w, mask)

    def weights(self, places: Int[Tensor, "lists ranks"]) -> Float[Tensor, "lists ranks"]:
        """1 / e_k, at most `clip`."""
        w = 1 / self.propensities()[places]
        return w if self.clip is None else w.clamp(max=self.clip)

    def effective_sample_size(self, clicks: Tensor, positions: Tensor | None = None) -> float:
        """(sum w)^2 / sum w^2 over the clicks: how many equally weighted ones they are worth."""
        w = self.weights(self._places(clicks, positions))[clicks > 0]
        return float(w.sum().square() / w.square().sum()) if len(w) else 0.0

    def propensities(self) -> Float[Tensor, " positions"]:
        """As they were given, over the first one's."""
        examination: Any = self.examination
        return examination


class DLA(Objective):
    """The dual learning algorithm: relevance corrects examination, examination corrects relevance (Ai et al. 2018).

    w_k = P_1 / P_k with P a softmax over positions; L = L_rank(s; c, w of examination) + L_exam(g; c, w of relevance).

    Args:
        list_size: positions.
        loss: "softmax" or "sigmoid".
        clip: largest weight; None for no limit.
        logits_to_prob: "softmax", or "sigmoid" of the logits less their mean.
        elu: pass the positions' logits, with a bias, through an ELU, which bounds them below by -1.
    """

    def __init__(
        self,
        list_size: int,
        loss: ListLoss = "softmax",
        clip: float | int | None = 10,
        logits_to_prob: ToProbability = "softmax",
        elu: bool = False,
    ) -> None:
        super().__init__(list_size)
        if logits_to_prob not in get_args(ToProbability):
            raise ValueError(f"logits_to_prob={logits_to_prob!r} is not known; accepted: softmax, sigmoid")
        self._loss = _list_loss(loss)
        _check_clip(clip)
        self.clip, self.logits_to_prob = clip, logits_to_prob
        self.logits = nn.Parameter(torch.zeros(list_size))
        self.shift = nn.Parameter(torch.zeros(1)) if elu else None

    def loss(self, scores: Tensor, clicks: Tensor, mask: Tensor | None, places: Tensor) -> Tensor:
        """L_rank + L_exam."""
        return sum(self.losses(scores, clicks, mask, places), scores.new_zeros(()))

    def losses(self, scores: Tensor, clicks: Tensor, mask: Tensor | None, places: Tensor) -> tuple[Tensor, Tensor]:
        """L_rank and L_exam."""
        s, _, m = checked(scores, clicks, mask)
        g = self.position_logits()[places]
        w_examination, w_relevance = self.relative(g, m, places), self.relative(s, m, places)
        return self._loss(s, clicks, w_examination, mask), self._loss(g, clicks, w_relevance, mask)

    def relative(self, logits: Tensor, mask: Tensor, places: Tensor) -> Float[Tensor, "lists ranks"]:
        """P_1 / P_k, with the document that was shown first; without gradient."""
        if not logits.numel():
            return logits.detach()
        logs = logits.detach()  # of P, but for a constant; P itself is 0 where another document is far above
        if self.logits_to_prob == "sigmoid":
            mean = torch.where(mask, logs, 0).sum(-1, keepdim=True) / mask.sum(-1, keepdim=True).clamp(min=1)
            logs = functional.logsigmoid(logs - mean)
        first = places.masked_fill(~mask, places.shape[-1] + self.logits.shape[0]).argmin(-1, keepdim=True)
        largest = 1 / torch.finfo(logs.dtype).tiny if self.clip is None else self.clip
        w = (logs.gather(-1, first) - logs).exp().clamp(max=largest)
        return torch.where(mask, w, 0)

    def position_logits(self) -> Float[Tensor, " positions"]:
        """g."""
        return self.logits if self.shift is None else functional.elu(self.logits + self.shift)

    def propensities(self) -> Float[Tensor, " positions"]:
        """softmax(g) over that of the first position."""
        g = self.position_logits().detach()
        return (g - g[0]).exp()


class RegressionEM(Objective):
    """Examination theta by expectation maximisation, relevance gamma = sigma(s) by regression (Wang et al. 2018).

    For a position without click: P(e=1, r=0) = theta (1 - gamma) / (1 - theta gamma), P(e=0, r=1) likewise.

    Args:
        list_size: positions.
        step_size: a, share of every batch in theta.
        init: theta at the start.
        soft: train on the expected relevance; otherwise on labels drawn from it.
        generator: of the draws.
    """

    def __init__(
        self,
        list_size: int,
        step_size: float = 0.05,
        init: float = 0.9,
        soft: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(list_size)
        if not 0 < init < 1:
            raise ValueError(f"init={init} is not accepted; it lies between 0 and 1")
        _check_step_size(step_size)
        self.step_size, self.soft, self.generator = step_size, soft, generator
        self.register_buffer("theta", torch.full((list_size,), float(init)))

    def loss(self, scores: Tensor, clicks: Tensor, mask: Tensor | None, places: Tensor) -> Tensor:
        """E-step, M-step of theta while training, and the cross entropy of the scores."""
        s, c, m = checked(scores, clicks, mask)
        expected, examined = self.expectations(s, c, places)
        labels = expected if self.soft else torch.ceil(expected - self._uniforms(expected))
        if self.training:
            self._update(examined, m, places)
        losses = functional.binary_cross_entropy_with_logits(s, labels.clamp(0, 1), reduction="none")
        return torch.where(m, losses, 0).sum() / m.sum().clamp(min=1)

    def expectations(self, s: Tensor, c: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """P(r = 1 | c) and P(e = 1 | c), without gradient."""
        theta, gamma = self._theta()[places].to(s.dtype), torch.sigmoid(s.detach())
        neither = (1 - theta * gamma).clamp(min=torch.finfo(s.dtype).tiny)
        only_relevant = (1 - theta) * gamma / neither
        only_examined = theta * (1 - gamma) / neither
        return c + (1 - c) * only_relevant, c + (1 - c) * only_examined

    def propensities(self) -> Float[Tensor, " positions"]:
        """theta over the first position's."""
        theta = self._theta()
        return theta / theta[0]

    def _uniforms(self, like: Tensor) -> Tensor:
        return torch.rand(like.shape, generator=self.generator, dtype=like.dtype).to(like.device)

    @torch.no_grad()
    def _update(self, examined: Tensor, mask: Tensor, places: Tensor) -> None:
        theta = self._theta()
        size = len(theta)
        flat = places[mask]
        total = torch.zeros(size, device=theta.device).index_add_(0, flat, examined[mask].to(theta.dtype))
        count = torch.zeros(size, device=theta.device).index_add_(0, flat, torch.ones_like(flat, dtype=theta.dtype))
        seen = count > 0
        theta[seen] = (1 - self.step_size) * theta[seen] + self.step_size * total[seen] / count[seen]

    def _theta(self) -> Tensor:
        theta: Any = self.theta
        return theta


class PairDebias(Objective):
    """Pairs of a clicked and another document, divided by how likely their positions make such a pair (Hu et al. 2019).

    L = sum_ij S_ij / (t+_i t-_j); t+_i is the (1 / (1 + p))-th power of what position i loses over what the first does.

    Args:
        list_size: positions.
        p: the larger, the nearer the t stay to 1.
        step_size: a, share of every batch in the t.
        running: compare sums over batches in place of one batch's, keep t where a position has no pairs, and bound the
            ratios to [0.01, 100]. False takes every batch's ratio as it is, which explodes where the first has no pair.
        lambdas: weigh every pair by its change of nDCG, as LambdaRank does: unbiased LambdaRank.
    """

    def __init__(
        self,
        list_size: int,
        p: float | int = 1,
        step_size: float = 0.05,
        running: bool = True,
        lambdas: bool = False,
    ) -> None:
        super().__init__(list_size)
        if not p >= 0:
            raise ValueError(f"p={p} is not accepted; it is 0 or more")
        _check_step_size(step_size)
        self.p, self.step_size, self.running, self.lambdas = p, step_size, running, lambdas
        for name in ("t_plus", "t_minus"):
            self.register_buffer(name, torch.ones(list_size))
            self.register_buffer(f"{name}_losses", torch.zeros(list_size))

    def loss(self, scores: Tensor, clicks: Tensor, mask: Tensor | None, places: Tensor) -> Tensor:
        """The weighted pairs over the number of lists; t moves while training."""
        S = self._by_position(scores, clicks, mask, places)
        t_plus, t_minus = self._buffer("t_plus").clone(), self._buffer("t_minus").clone()
        if self.training:
            self._update("t_plus", (S.detach() / t_minus).sum(1))
            self._update("t_minus", (S.detach() / t_plus.unsqueeze(1)).sum(0))
        return (S / (t_plus.unsqueeze(1) * t_minus)).sum() / max(len(scores), 1)

    def propensities(self) -> Float[Tensor, " positions"]:
        """t+ over the first position's."""
        t_plus = self._buffer("t_plus")
        return t_plus / t_plus[0]

    def _by_position(self, scores: Tensor, clicks: Tensor, mask: Tensor | None, places: Tensor) -> Tensor:
        """S_ij by the positions at which documents were shown."""
        lists, i, losses = clicked_pairs(*checked(scores, clicks, mask), self.lambdas)
        size = len(self._buffer("t_plus"))
        shown = places.index_select(0, lists)
        cells = shown.gather(1, i.unsqueeze(1)) * size + shown
        return losses.new_zeros(size * size).index_add(0, cells.flatten(), losses.flatten()).view(size, size)

    @torch.no_grad()
    def _update(self, name: str, losses: Tensor) -> None:
        t, sums = self._buffer(name), self._buffer(f"{name}_losses")
        if not self.running:
            ratio = losses / (losses[0] + _EPS)
            t.mul_(1 - self.step_size).add_(self.step_size * ratio.pow(1 / (1 + self.p)))
            return
        sums.add_(losses)
        if sums[0] <= 0:
            return
        known = sums > 0
        ratio = (sums / sums[0]).clamp(*_RATIO).pow(1 / (1 + self.p))
        t[known] = (1 - self.step_size) * t[known] + self.step_size * ratio[known]

    def _buffer(self, name: str) -> Tensor:
        buffer: Any = getattr(self, name)
        return buffer


class PositionBasedModel(Objective):
    """Two towers: a click is an examined position and a relevant document.

    Known only up to a constant, and confounded where the lists were ranked well.

    Args:
        list_size: positions.
        form: "logit" P(c) = sigma(s + g_k), or "product" P(c) = sigma(g_k) sigma(s).
        dropout: of the position's logit while training, against confounding.
    """

    def __init__(self, list_size: int, form: Literal["logit", "product"] = "logit", dropout: float = 0.0) -> None:
        super().__init__(list_size)
        if form not in ("logit", "product"):
            raise ValueError(f"form={form!r} is not known; accepted: logit, product")
        self.form = form
        self.logits = nn.Parameter(torch.zeros(list_size))
        self.dropout = nn.Dropout(dropout)

    def loss(self, scores: Tensor, clicks: Tensor, mask: Tensor | None, places: Tensor) -> Tensor:
        """Mean of -log P(c) over the documents."""
        s, c, m = checked(scores, clicks, mask)
        losses = -self.log_likelihoods(s, c, self.dropout(self.logits)[places])
        return torch.where(m, losses, 0).sum() / m.sum().clamp(min=1)

    def log_likelihoods(self, s: Tensor, c: Tensor, g: Tensor) -> Float[Tensor, "lists ranks"]:
        """log P(c)."""
        if self.form == "logit":
            return -functional.binary_cross_entropy_with_logits(s + g, c, reduction="none")
        log_click = functional.logsigmoid(s) + functional.logsigmoid(g)
        log_none = torch.log(-torch.expm1(log_click.clamp(max=-1e-6)))
        return c * log_click + (1 - c) * log_none

    def propensities(self) -> Float[Tensor, " positions"]:
        """sigma(g) over the first position's ("product"), or exp(g - g_1) ("logit")."""
        g = self.logits.detach()
        if self.form == "logit":
            return (g - g[0]).exp()
        e = torch.sigmoid(g)
        return e / e[0]


OBJECTIVES: dict[str, Any] = {
    "naive": lambda list_size, propensities, options: Naive(**options),
    "ips": lambda list_size, propensities, options: IPS(propensities, **options),
    "dla": lambda list_size, propensities, options: DLA(list_size, **options),
    "rem": lambda list_size, propensities, options: RegressionEM(list_size, **options),
    "pairdebias": lambda list_size, propensities, options: PairDebias(list_size, **options),
    "unbiased-lambdarank": lambda list_size, propensities, options: PairDebias(list_size, lambdas=True, **options),
    "two-tower": lambda list_size, propensities, options: PositionBasedModel(list_size, **options),
}


def make_objective(
    name: str,
    list_size: int,
    propensities: Sequence[float | int] | Tensor | np.ndarray | None = None,
    **options: Any,
) -> Objective:
    """An objective by its name.

    Args:
        name: "naive", "ips", "dla", "rem", "pairdebias", "unbiased-lambdarank" or "two-tower".
        list_size: positions.
        propensities: of "ips".
        options: of the objective.

    Raises:
        ValueError: an unknown name, or no propensities for "ips".
    """
    if name not in OBJECTIVES:
        raise ValueError(f"objective={name!r} is not known; accepted: {', '.join(OBJECTIVES)}")
    if name == "ips" and propensities is None:
        raise ValueError("objective='ips' needs propensities; estimate_propensities estimates them from a log")
    return OBJECTIVES[name](list_size, propensities, options)


def _check_clip(clip: float | int | None) -> None:
    if clip is not None and not clip > 0:
        raise ValueError(f"clip={clip} is not accepted; a largest weight above 0, or None for no limit")


def _check_step_size(step_size: float | int) -> None:
    if not 0 <= step_size <= 1:
        raise ValueError(f"step_size={step_size} is not accepted; a share from 0 to 1")


def _list_loss(name: str) -> Any:
    if name not in _LOSSES:
        raise ValueError(f"loss={name!r} is not known; accepted: {', '.join(_LOSSES)}")
    return _LOSSES[name]
