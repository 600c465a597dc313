"""RankMe as a streaming metric: batch by batch, in memory that does not grow, over any number of processes."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.distributed import gather_all_tensors

from fullrank.spectra import ranks
from fullrank.spectra.rankme import require_finite_rows, require_some_variation, warn_of_few
from fullrank.spectra.spectrum import Spectrum

#: Rows of the paper's estimates; more change the value little.
MAX_SAMPLES = 25_600


class RankMe(Metric):
    """RankMe as a streaming torchmetrics metric: memory O(K^2) whatever the number of samples.

    The state is the Gram matrix of the embeddings (K x K, float64), their sum and their count, so that distributed
    processes merge exactly: the states are added, not the values averaged. A process may have seen nothing.

    Args:
        eps: see `rankme`.
        center: see `rankme`.
        max_samples: rows after which updates are ignored, shared out over the processes; None takes all.
        **kwargs: torchmetrics' own options.

    Raises:
        ValueError: on `update` with another width than before, NaN or infinite rows, or not 2-D input; on `compute`
            before two rows were seen, or where processes saw different widths.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    gram: Tensor
    total: Tensor
    count: Tensor

    def __init__(
        self, eps: float = 1e-7, center: bool = False, max_samples: int | None = MAX_SAMPLES, **kwargs: Any
    ) -> None:
        super().__init__(**{"dist_sync_fn": _gather, **kwargs})
        if max_samples is not None and max_samples < 2:
            raise ValueError(f"max_samples={max_samples}: at least 2 rows are needed, or None for all")
        self.eps = eps
        self.center = center
        self.max_samples = max_samples
        # Shapes are known with the first batch; a scalar zero adds to anything.
        self.add_state("gram", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    @torch.no_grad()
    def update(self, Z: Shaped[Tensor, "samples dim"]) -> None:
        """Add a batch of embeddings, (samples, dim)."""
        if Z.ndim != 2:
            raise ValueError(f"Z has shape {tuple(Z.shape)}: (samples, dim) is accepted")
        if self.gram.ndim == 2 and self.gram.shape[-1] != Z.shape[-1]:
            raise ValueError(f"Z has {Z.shape[-1]} dimensions, but earlier batches had {self.gram.shape[-1]}")
        if self.max_samples is not None:
            Z = Z[: max(0, _share(self.max_samples) - int(self.count))]
        if len(Z) == 0:
            return
        require_finite_rows(Z)
        rows = Z.to(self.gram.device, torch.float64)
        self.gram = self.gram.addmm_(rows.mT, rows) if self.gram.ndim else rows.mT @ rows
        self.total = self.total + rows.sum(0)
        self.count = self.count + len(rows)

    @property
    def full(self) -> bool:
        """Whether `max_samples` are reached, so that further updates change nothing."""
        return self.max_samples is not None and int(self.count) >= _share(self.max_samples)

    def compute(self) -> Tensor:
        """RankMe of all rows seen, by all processes.

        Warns:
            UserWarning: fewer rows than dimensions, so that the value is capped by the rows.
        """
        values = self._values(self.center)
        if len(values) < self.gram.shape[-1]:
            warn_of_few(len(values), self.gram.shape[-1])
        return ranks.effective_rank(values, eps=self.eps)

    def spectrum(self, center: bool = False) -> Spectrum:
        """Singular values of all rows seen, by all processes."""
        with self.sync_context(dist_sync_fn=self.dist_sync_fn):
            return Spectrum(self._values(center), (int(self.count), self.gram.shape[-1]), torch.float64)

    def report(self) -> dict[str, float]:
        """RankMe and its companions, over all processes.

        Centred RankMe, covariance effective rank, stable rank, participation ratio, and with more than three values
        alpha-ReQ.
        """
        with self.sync_context(dist_sync_fn=self.dist_sync_fn):
            values, centred = self._values(False), self._values(True)
            samples, dim = float(self.count), float(self.gram.shape[-1])
        report = {
            "samples": samples,
            "dim": dim,
            "rankme": float(ranks.effective_rank(values, eps=self.eps)),
            "rankme_centered": float(ranks.effective_rank(centred, eps=self.eps)),
            "covariance_effective_rank": float(ranks.effective_rank(centred, squared=True)),
            "stable_rank": float(ranks.stable_rank(values)),
            "participation_ratio": float(ranks.participation_ratio(values)),
        }
        if len(values) > 3:
            report["alpha_req"] = float(ranks.power_law_exponent(centred))
        return report

    def _values(self, center: bool) -> Tensor:
        if int(self.count) < 2:
            raise ValueError(f"{int(self.count)} rows seen: RankMe needs at least 2; call update(embeddings) first")
        gram = self.gram
        if center:  # sum of (z - mean)(z - mean)^T
            gram = gram - torch.outer(self.total, self.total) / self.count
        eigenvalues = torch.linalg.eigvalsh(gram).flip(-1)[: int(self.count)]
        # Below the rounding of the Gram matrix an eigenvalue is noise, and its root would be a spurious tail.
        noise = gram.shape[-1] * torch.finfo(torch.float64).eps * self.gram.diagonal().sum()
        values = torch.where(eigenvalues > noise, eigenvalues, 0.0).sqrt()
        require_some_variation(values, center)
        return values


def _share(samples: int) -> int:
    """What falls on each process."""
    distributed = torch.distributed
    together = distributed.is_available() and distributed.is_initialized()
    return math.ceil(samples / distributed.get_world_size()) if together else samples


def _gather(state: Tensor, group: Any = None) -> list[Tensor]:
    """A state of every process; scalar zeros of one that has seen nothing take the shape of the others'."""
    about = torch.tensor([state.ndim, state.shape[-1] if state.ndim else 0], device=state.device)
    known = torch.stack(gather_all_tensors(about, group)).cpu()
    axes, width = (int(largest) for largest in known.amax(0))
    if bool(((known[:, 0] > 0) & (known[:, 1] != width)).any()):
        raise ValueError(f"processes saw embeddings of different widths: {sorted(set(known[:, 1].tolist()) - {0})}")
    return gather_all_tensors(state if state.ndim == axes else state.new_zeros((width,) * axes), group)
