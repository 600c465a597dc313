"""LAMA: attention pooling with many heads of low rank (Mehta, Rangwala and Ramakrishnan 2019, arXiv 1912.00835).

Head k compares every word u_t with one global context c through a matrix of rank one, p_k q_kᵀ, so the scores of all m
heads at a word are the Hadamard product of Pᵀc and Qᵀu_t. The cost is linear in the number of words.

    u_t = tanh(W h_t + b)                                              token network
    g_t = tanh((Pᵀc) ∘ (Qᵀu_t)),   f_t = g_t / ‖g_t‖₂ over the heads   (Eq. 3.13 and Figure 1)
    A   = softmax over t of f,     S = A H                             one row of S per head
"""

from __future__ import annotations

import math
import warnings
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from fullrank.nn.word_masks import as_keep_mask, masked_mean, masked_softmax, refuse_empty

Context = Literal["learned", "mean", "given"]
OnEmpty = Literal["error", "zeros"]

_CHOICES: dict[str, tuple[Any, ...]] = {
    "context": ("learned", "mean", "given"),
    "activation": ("tanh", None),
    "normalize": ("l2", None),
    "on_empty": ("error", "zeros"),
    "init": ("xavier", "port"),
}


class LowRankMultiHeadAttentionPooling(nn.Module):
    """Pools a sequence of states into one vector per head, by low-rank bilinear attention; also `LAMA`, `LAMAPooling`.

    The layer also covers neighbours: `temperature=0` is mean pooling; `project=False, context="mean"` is the known
    PyTorch port; one head with `rank=input_dim`, identity factors and neither activation nor normalisation is the
    attention of hierarchical attention networks (HAN).

    After the normalisation over heads every score lies in [-1, 1], so among T words none can get more than
    e² / (e² + T - 1) of the attention: 51 % of 8 words, 3.6 % of 200. On long texts the layer is close to mean pooling;
    a `temperature` above 1 sharpens it. With one head the normalised score is the sign of g and has no gradient.

    Args:
        input_dim: D, width of the states.
        num_heads: m. Default 8.
        rank: r of every head's affinity matrix; groups of r products are summed before the activation. Default 1.
        project: score u = tanh(W h + b) instead of the states themselves. Default True.
        project_dim: width of u. Default `input_dim`.
        context: c is "learned", the "mean" of the scored vectors over the words of the text (LAMA + ctx), or "given" to
            `forward`. Default "learned"; P and c then fold into Q and cost nothing.
        activation: of the scores, "tanh" or None. Default "tanh".
        normalize: "l2" makes the scores of a word a unit vector over the heads; None leaves them. Default "l2".
        temperature: factor of the scores before the softmax; 0 is mean pooling. Default 1.
        eps: least norm that is divided by. Default 1e-12.
        on_empty: what a text without words gives: an "error", or "zeros" (before the output map, never NaN). Default
            "error", which reads the mask back from the device; "zeros" does not.
        output_dim: width of a linear map of the flattened (m D) embedding; None returns (batch, m, D). Default None.
        init: "xavier" (uniform), or "port": uniform in ±1/√(m r), whose products saturate tanh on wide states. c is
            standard normal. Default "xavier".
        batch_first: states are (batch, tokens, D), not (tokens, batch, D). The two cannot be told apart by their shape
            alone; only a mask that does not fit gives the mistake away. Masks and results have the batch first in both
            cases. Default True.
        device, dtype: of the parameters.

    Raises:
        ValueError: a size below 1, an unknown choice, `project_dim` without `project`, or a temperature or eps out of
            range.

    Warns:
        UserWarning: one head with "l2".

    Source: arXiv 1912.00835, Figure 1. Width and number of layers of the token network and the vectors that "mean"
    averages are not confirmed by the paper.
    """

    c: nn.Parameter | None

    def __init__(
        self,
        input_dim: int,
        num_heads: int = 8,
        *,
        rank: int = 1,
        project: bool = True,
        project_dim: int | None = None,
        context: Context = "learned",
        activation: Literal["tanh"] | None = "tanh",
        normalize: Literal["l2"] | None = "l2",
        temperature: float = 1.0,
        eps: float = 1e-12,
        on_empty: OnEmpty = "error",
        output_dim: int | None = None,
        init: Literal["xavier", "port"] = "xavier",
        batch_first: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        _check_sizes(
            input_dim=input_dim, num_heads=num_heads, rank=rank, project_dim=project_dim, output_dim=output_dim
        )
        _check_choices(context=context, activation=activation, normalize=normalize, on_empty=on_empty, init=init)
        if project_dim is not None and not project:
            raise ValueError(f"project_dim={project_dim} with project=False: leave it out, or set project=True")
        if not (math.isfinite(temperature) and temperature >= 0):
            raise ValueError(f"temperature={temperature}: use a finite number of at least 0")
        if not eps > 0:
            raise ValueError(f"eps={eps}: use a positive number")
        if num_heads == 1 and normalize == "l2":
            warnings.warn(
                "num_heads=1 with normalize='l2': the only score of a word becomes +1 or -1 and has no gradient; use "
                "more heads or normalize=None",
                stacklevel=2,
            )
        self.input_dim, self.num_heads, self.rank = input_dim, num_heads, rank
        self.context, self.activation, self.normalize = context, activation, normalize
        self.temperature, self.eps, self.on_empty, self.init = temperature, eps, on_empty, init
        self.batch_first = batch_first
        self.scored_dim = input_dim if project_dim is None else project_dim
        to: dict[str, Any] = {"device": device, "dtype": dtype}
        self.projection = nn.Linear(input_dim, self.scored_dim, **to) if project else None
        self.P = nn.Parameter(torch.empty(self.scored_dim, num_heads * rank, **to))
        self.Q = nn.Parameter(torch.empty(self.scored_dim, num_heads * rank, **to))
        self.register_parameter("c", nn.Parameter(torch.empty(self.scored_dim, **to)) if context == "learned" else None)
        self.output = nn.Linear(num_heads * input_dim, output_dim, **to) if output_dim is not None else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new parameters. c must not start at zero: the factors would get no gradient."""
        for factor in (self.P, self.Q):
            if self.init == "port":
                nn.init.kaiming_uniform_(factor, a=math.sqrt(5))  # takes the m r columns for the fan-in
            else:
                nn.init.xavier_uniform_(factor)
        if self.c is not None:
            nn.init.normal_(self.c)
        for layer in (self.projection, self.output):
            if layer is not None:
                layer.reset_parameters()

    def forward(
        self,
        hidden: Float[Tensor, "_ _ dim"] | PackedSequence,
        mask: Shaped[Tensor, "batch tokens"] | None = None,
        context: Float[Tensor, "#batch scored"] | Float[Tensor, " scored"] | None = None,
        need_weights: bool = False,
        *,
        key_padding_mask: Shaped[Tensor, "batch tokens"] | None = None,
    ) -> Float[Tensor, "batch ..."] | tuple[Float[Tensor, "batch ..."], Float[Tensor, "batch heads tokens"]]:
        """Pool states.

        Args:
            hidden: states of the words, (batch, tokens, D), finite at padding too; or packed, with their lengths.
            mask: True or 1 where there is a word, (batch, tokens) whatever `batch_first`; None: everywhere.
            context: with `context="given"`, the vector to compare with, (batch, width of the scored vectors), or one
                for all.
            need_weights: return the attention too.
            key_padding_mask: the opposite of `mask`, as PyTorch's attention takes it: True where there is padding.

        Returns:
            (batch, m, D), or (batch, output_dim) with an output map; with `need_weights` also the attention A of shape
            (batch, m, tokens), whose rows sum to 1 and are 0 on padding.

        Raises:
            TypeError: `hidden` is text.
            ValueError: a shape that does not fit, states that are no floating-point numbers, both masks, a mask with
                other values than 0 and 1, a text without words (unless `on_empty` is "zeros"), or a context that is
                missing, of a wrong size or not asked for.
        """
        hidden, keep = self._padded(hidden, mask, key_padding_mask)
        U = hidden if self.projection is None else torch.tanh(self.projection(hidden))
        F = self._scores(U, self._context(U, keep, context))
        A = masked_softmax(self.temperature * F.transpose(1, 2), keep).to(hidden.dtype)
        S = A @ hidden
        pooled = S if self.output is None else self.output(S.flatten(1))
        return (pooled, A) if need_weights else pooled

    @property
    def rows(self) -> int:
        """How many vectors stand for a text: one per head."""
        return self.num_heads

    def folded_factor(self) -> Float[Tensor, "scored heads"]:
        """Q' = Q diag(Pᵀc), summed over the r columns of every head: all that P and a learned c amount to.

        Raises:
            ValueError: the context is not learned.
        """
        if self.c is None:
            raise ValueError(f"context={self.context!r} changes with the text: only a learned one folds into Q")
        return (self.Q * (self.c @ self.P)).unflatten(1, (self.num_heads, self.rank)).sum(-1)

    def _scores(self, U: Tensor, C: Tensor | None) -> Tensor:
        """F of shape (batch, tokens, m); in float32 at least, where eps and the norm do not vanish."""
        if C is None:
            G = U @ self.folded_factor()
        else:
            G = (C @ self.P).unsqueeze(1) * (U @ self.Q)
            if self.rank > 1:
                G = G.unflatten(2, (self.num_heads, self.rank)).sum(-1)
        G = G.to(torch.promote_types(G.dtype, torch.float32))
        if self.activation == "tanh":
            G = torch.tanh(G)
        return functional.normalize(G, dim=-1, eps=self.eps) if self.normalize == "l2" else G

    def _context(self, U: Tensor, keep: Tensor | None, given: Tensor | None) -> Tensor | None:
        """C of shape (batch, scored), or None for the learned context, which folds into Q."""
        if given is not None and self.context != "given":
            raise ValueError(f"a context was passed, but context={self.context!r} makes its own: use context='given'")
        if self.context == "learned":
            return None
        if self.context == "mean":
            return masked_mean(U, keep)
        if given is None:
            raise ValueError("context='given', but none was passed: call forward(hidden, mask, context)")
        batch, width = U.shape[0], self.scored_dim
        if given.shape not in ((width,), (1, width), (batch, width)):
            raise ValueError(f"context has shape {tuple(given.shape)}: ({batch}, {width}) or ({width},) is accepted")
        return given.expand(batch, width)

    def _padded(
        self, hidden: Any, mask: Tensor | None, key_padding_mask: Tensor | None
    ) -> tuple[Tensor, Bool[Tensor, "batch tokens"] | None]:
        """States with the batch first, and where there are words (None: everywhere)."""
        if isinstance(hidden, PackedSequence):
            if mask is not None or key_padding_mask is not None:
                raise ValueError("hidden is packed and knows its lengths: leave mask and key_padding_mask out")
            hidden, lengths = pad_packed_sequence(hidden, batch_first=True)
            mask = (torch.arange(hidden.shape[1]) < lengths[:, None]).to(hidden.device)
        else:
            hidden = hidden.transpose(0, 1) if not self.batch_first and _is_states(hidden) else hidden
        self._check_states(hidden)
        keep = as_keep_mask(hidden, mask, key_padding_mask)
        if self.on_empty == "error":
            refuse_empty(hidden, keep, "leave them out, or set on_empty='zeros'")
        return hidden, keep

    def _check_states(self, hidden: Any) -> None:
        if not isinstance(hidden, Tensor):
            raise TypeError(
                f"hidden is {type(hidden).__name__}: states of words are accepted, a tensor (batch, tokens, "
                f"{self.input_dim}); for raw text use fullrank.nn.LAMATextClassifier"
            )
        if not _is_states(hidden) or hidden.shape[2] != self.input_dim:
            order = "batch, tokens" if self.batch_first else "tokens, batch"
            raise ValueError(f"hidden has shape {tuple(hidden.shape)}: ({order}, {self.input_dim}) is accepted")
        if not hidden.is_floating_point():
            raise ValueError(f"hidden is {hidden.dtype}: states are floating-point numbers, such as torch.float32")

    def extra_repr(self) -> str:
        """The options that are not seen from the submodules."""
        return (
            f"{self.input_dim}, num_heads={self.num_heads}, rank={self.rank}, context={self.context!r}, "
            f"activation={self.activation!r}, normalize={self.normalize!r}, temperature={self.temperature}"
        )


LAMA = LAMAPooling = LowRankMultiHeadAttentionPooling


def head_redundancy(weights: Float[Tensor | np.ndarray, "*batch heads tokens"]) -> Float[Tensor, ""]:
    """How alike the heads attend: mean cosine between the maps of two heads, over all pairs and texts; 1 is the same.

    Args:
        weights: attention of `LowRankMultiHeadAttentionPooling`, 0 on padding; or that of an `Explanation`.

    Raises:
        ValueError: there are fewer than two heads.
    """
    weights = torch.as_tensor(weights)
    m = weights.shape[-2] if weights.ndim > 1 else 1
    if m < 2:
        raise ValueError(f"weights has shape {tuple(weights.shape)}: at least two heads are needed to compare")
    A = functional.normalize(weights, dim=-1)
    cosines = A @ A.mT
    return ((cosines.sum((-2, -1)) - cosines.diagonal(dim1=-2, dim2=-1).sum(-1)) / (m * (m - 1))).mean()


def orthogonality_penalty(weights: Float[Tensor, "*batch heads tokens"]) -> Float[Tensor, ""]:
    """‖A Aᵀ - I‖²_F, mean over the texts: small where every head looks at few words, and no two at the same.

    Args:
        weights: attention of `LowRankMultiHeadAttentionPooling`, 0 on padding.

    Source: Lin et al. 2017, Section 2.2. The paper of LAMA adds no penalty.
    """
    gram = weights @ weights.mT
    identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    return (gram - identity).square().sum((-2, -1)).mean()


def _is_states(hidden: Any) -> bool:
    return isinstance(hidden, Tensor) and hidden.ndim == 3


def _check_sizes(**sizes: int | None) -> None:
    for name, size in sizes.items():
        if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 1):
            raise ValueError(f"{name}={size!r}: use an integer of at least 1")


def _check_choices(**choices: Any) -> None:
    for name, choice in choices.items():
        if choice not in _CHOICES[name]:
            raise ValueError(f"{name}={choice!r}: use one of {', '.join(map(repr, _CHOICES[name]))}")
