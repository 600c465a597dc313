"""The factorised embedding: a table of short vectors and one map to the full size, as in ALBERT."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn

from fullrank.nn.low_rank import check_rank


class LowRankEmbedding(nn.Module):
    """y = B a_i, with a_i the row of a table (num_embeddings, rank) and B of shape (embedding_dim, rank).

    Args:
        num_embeddings: rows of the table.
        embedding_dim: size of y.
        rank: at least 1.
        padding_idx: a row whose entry in the table is not trained.
        scale_grad_by_freq: as in `nn.Embedding`.
        sparse: whether the table's gradient is sparse, as in `nn.Embedding`.
        device: of the parameters.
        dtype: of the parameters.

    Attributes:
        first: the table, an `nn.Embedding`.
        second: B, an `nn.Linear` without bias.

    Raises:
        ValueError: `rank` below 1.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        rank: int,
        padding_idx: int | None = None,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        rank = check_rank(rank)
        place: dict[str, Any] = {"device": device, "dtype": dtype}
        self.first = nn.Embedding(
            num_embeddings, rank, padding_idx, scale_grad_by_freq=scale_grad_by_freq, sparse=sparse, **place
        )
        self.second = nn.Linear(rank, embedding_dim, bias=False, **place)

    @property
    def num_embeddings(self) -> int:
        """Rows of the table."""
        return self.first.num_embeddings

    @property
    def embedding_dim(self) -> int:
        """Size of a vector."""
        return self.second.out_features

    @property
    def padding_idx(self) -> int | None:
        """The row that is not trained."""
        return self.first.padding_idx

    @property
    def rank(self) -> int:
        """Size of the table's rows."""
        return self.first.embedding_dim

    def forward(self, ids: Integer[Tensor, "*batch"]) -> Float[Tensor, "*batch dim"]:
        """The vectors of these rows."""
        return self.second(self.first(ids))

    def weight(self) -> Float[Tensor, "rows dim"]:
        """The table of full vectors, laid out as an `nn.Embedding` has it."""
        return self.first.weight @ self.second.weight.mT

    def extra_repr(self) -> str:
        """Sizes, as torch prints them."""
        return f"{self.num_embeddings}, {self.embedding_dim}, rank={self.rank}"
