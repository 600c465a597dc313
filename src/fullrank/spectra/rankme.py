"""RankMe (Garrido, Balestriero, Najman and LeCun, ICML 2023, arXiv 2210.02885): embeddings' effective rank as a
label-free criterion for choosing among runs of one self-supervised method."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from fullrank.linalg import require_finite
from fullrank.spectra import ranks
from fullrank.spectra.spectrum import Spectrum

if TYPE_CHECKING:
    from fullrank.spectra.rankme_metric import RankMe

# Uncentred and centred values further apart than this are worth a warning: a common offset dominates the spectrum.
_OFFSET_RATIO = 2.0


def rankme(
    Z: Shaped[Tensor, "*batch samples dim"] | Shaped[np.ndarray, "*batch samples dim"],
    *,
    eps: float = 1e-7,
    center: bool = False,
    normalize_rows: bool = False,
    squared: bool = False,
) -> Float[Tensor, "*batch"]:
    """RankMe of embeddings: exp of the entropy of their normalised singular values (equations 1 and 2).

    Measure the embeddings (projector output) of source images without augmentation, the model in eval mode, and
    compare only runs of one method. Differentiable with respect to `Z`.

    Args:
        Z: embeddings, one row per sample, (..., N, K); a tensor or a NumPy array. N should be at least 4 K.
        eps: added to every normalised singular value, outside the normalisation. The paper's 1e-7 inflates the value
            by 0.14 % at K = 2048; 1e-5, which some libraries use, by 15 %.
        center: subtract the mean embedding first. The paper does not.
        normalize_rows: scale every row to length 1 first. The paper does not.
        squared: entropy of the squared singular values (covariance eigenvalues) instead.

    Returns:
        Between 1 and min(N, K) (plus what `eps` adds), of shape (...).

    Raises:
        ValueError: fewer than two rows, NaN or infinite rows (counted), or nothing but zeros.

    Warns:
        UserWarning: integers were cast to float32; N < K, so that the value is capped by N; or an uncentred value
            that a common offset of all rows determines.
    """
    embeddings = _embeddings(Z)
    rows, columns = embeddings.shape[-2:]
    if rows < columns:
        warn_of_few(rows, columns)
    if normalize_rows:
        embeddings = torch.nn.functional.normalize(embeddings, dim=-1)
    if not center and not embeddings.requires_grad:
        _warn_of_offset(embeddings)
    spectrum = Spectrum.of(embeddings, center=center)
    require_some_variation(spectrum.values, center)
    return ranks.effective_rank(spectrum.values, eps=eps, squared=squared)


@dataclass(frozen=True)
class RankMeSelection:
    """The run that RankMe chooses.

    Attributes:
        best: name of the chosen run.
        scores: RankMe by run name.
        plateau: the runs within the tolerance of the highest score, among which the tie rule chose.
    """

    best: str
    scores: dict[str, float]
    plateau: tuple[str, ...]

    def to_rows(self) -> list[dict[str, Any]]:
        """A table, highest first: `pandas.DataFrame(selection.to_rows())`."""
        ordered = sorted(self.scores, key=lambda name: self.scores[name], reverse=True)
        return [{"run": name, "rankme": self.scores[name], "chosen": name == self.best} for name in ordered]


def select_by_rankme(
    runs: Mapping[str, Tensor | np.ndarray | Iterable[Tensor]],
    hyperparameter: Mapping[str, float] | None = None,
    *,
    tie: Literal["smallest", "largest"] = "smallest",
    rtol: float = 0.01,
    eps: float = 1e-7,
) -> RankMeSelection:
    """Choose among runs of one method by the highest RankMe (the paper's selection rule, without labels).

    Args:
        runs: embeddings by run name: (N, K) each, or an iterable of (batch, K) batches.
        hyperparameter: the swept value by run name. Where several runs lie on the plateau of the highest score, the
            `tie` end of the hyper-parameter is chosen; without it the highest score alone decides.
        tie: "smallest" or "largest" hyper-parameter on the plateau; fix it before looking.
        rtol: runs whose score is within this share of the highest form the plateau.
        eps: see `rankme`.

    Raises:
        ValueError: no runs, an unknown `tie`, or a run without a hyper-parameter value.

    Warns:
        UserWarning: the runs' embeddings differ in width: RankMe does not rank different architectures or methods.
    """
    if not runs:
        raise ValueError("runs={} leaves nothing to choose from")
    if tie not in ("smallest", "largest"):
        raise ValueError(f'tie={tie!r} is not known; accepted: "smallest", "largest"')
    if hyperparameter is not None and (missing := sorted(set(runs) - set(hyperparameter))):
        raise ValueError(f"hyperparameter has no value for run {missing[0]!r}")
    metrics = {name: _accumulate(source, eps) for name, source in runs.items()}
    widths = {name: metric.gram.shape[-1] for name, metric in metrics.items()}
    if len(set(widths.values())) > 1:
        warnings.warn(f"embeddings of different widths ({widths}): RankMe compares runs of one method", stacklevel=2)
    scores = {name: float(metric.compute()) for name, metric in metrics.items()}
    highest = max(scores.values())
    plateau = tuple(name for name, score in scores.items() if score >= (1 - rtol) * highest)
    if hyperparameter is None:
        return RankMeSelection(max(scores, key=lambda name: scores[name]), scores, plateau)
    choose = min if tie == "smallest" else max
    return RankMeSelection(choose(plateau, key=lambda name: hyperparameter[name]), scores, plateau)


class RankMeScorer:
    """Scikit-learn scorer: RankMe of an estimator's `transform(X)`; labels are ignored.

    Use it as `GridSearchCV(..., scoring=RankMeScorer())` over transformers.

    Args:
        eps: see `rankme`.
        center: see `rankme`.
    """

    def __init__(self, eps: float = 1e-7, center: bool = False) -> None:
        self.eps = eps
        self.center = center

    def __call__(self, estimator: Any, X: Any, y: Any = None) -> float:
        """The score; higher is better.

        Raises:
            TypeError: the estimator has no `transform`.
        """
        if not hasattr(estimator, "transform"):
            raise TypeError(
                f"{type(estimator).__name__} has no transform(X): RankMe scores embeddings, not predictions"
            )
        return float(rankme(np.asarray(estimator.transform(X)), eps=self.eps, center=self.center))


def _accumulate(source: Tensor | np.ndarray | Iterable[Tensor], eps: float) -> RankMe:
    from fullrank.spectra.rankme_metric import RankMe  # brings torchmetrics

    metric = RankMe(eps=eps)
    batches = [source] if isinstance(source, Tensor | np.ndarray) else source
    for batch in batches:
        metric.update(_embeddings(batch))
    return metric


def _embeddings(Z: Tensor | np.ndarray) -> Tensor:
    embeddings = torch.as_tensor(Z)
    if embeddings.ndim < 2:
        raise ValueError(
            f"Z has shape {tuple(embeddings.shape)}: (samples, dim) is accepted, with any batch axes before"
        )
    if embeddings.shape[-2] < 2:
        raise ValueError(
            f"Z has {embeddings.shape[-2]} rows: RankMe needs at least 2 samples, and many more to mean much"
        )
    if not embeddings.is_floating_point():
        warnings.warn(f"Z has dtype {embeddings.dtype}; it is cast to float32", stacklevel=3)
        embeddings = embeddings.float()
    require_finite_rows(embeddings)
    return embeddings


def require_finite_rows(Z: Tensor) -> None:
    """Refuse NaN and infinite entries, and count the rows that have them.

    Raises:
        ValueError: with the position of the first.
    """
    try:
        require_finite(Z, "Z")
    except ValueError as error:
        rows = int((~Z.isfinite()).any(-1).sum())
        raise ValueError(f"{error} ({rows} bad rows)") from None


def require_some_variation(values: Tensor, center: bool) -> None:
    """Refuse a spectrum of zeros.

    Raises:
        ValueError: with what made it so.
    """
    if bool((values[..., 0] > 0).all()):
        return
    what = "all rows are the same, so the centred matrix is zero" if center else "Z is zero everywhere"
    raise ValueError(f"RankMe is undefined (0/0): {what}")


def warn_of_few(samples: int, dim: int) -> None:
    """Say that fewer samples than dimensions cap the value."""
    warnings.warn(
        f"{samples} samples of {dim} dimensions: RankMe cannot exceed {samples}; use at least {4 * dim} samples",
        stacklevel=3,
    )


def _warn_of_offset(Z: Tensor) -> None:
    wide = Z.float()
    shared = wide.mean(-2).norm(dim=-1) * Z.shape[-2] ** 0.5 / torch.linalg.vector_norm(wide, dim=(-2, -1))
    if not bool((shared.square() >= 0.2).any()):  # an offset that small cannot halve the value
        return
    uncentred, centred = (Spectrum.of(Z, center=center).effective_rank for center in (False, True))
    if bool((centred > _OFFSET_RATIO * uncentred).any()):
        warnings.warn(
            f"a common offset of all rows dominates: RankMe is {float(uncentred.min()):.1f} as it is and "
            f"{float(centred.max()):.1f} with center=True; compare like with like",
            stacklevel=3,
        )
