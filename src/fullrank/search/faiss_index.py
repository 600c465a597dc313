"""Indexes of faiss over vectors of unit length, exact or approximate."""

from __future__ import annotations

import errno
import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int

from fullrank._optional import require

Kind = Literal["flat", "hnsw", "ivf"]

_NEIGHBOURS = 32  # of every vector in the graph of "hnsw"
_TRAINING = 39  # vectors that faiss wants for every list of "ivf"


class FaissIndex:
    """Nearest vectors by inner product.

    Args:
        kind: "flat" compares with every vector; "hnsw" walks a graph of neighbours (Malkov and Yashunin 2020); "ivf"
            looks into the lists of the nearest centroids.
        index: of faiss.
    """

    def __init__(self, kind: Kind, index: Any) -> None:
        self.kind: Kind = kind
        self.index = index

    @property
    def shape(self) -> tuple[int, int]:
        """How many vectors, and of how many numbers."""
        return self.index.ntotal, self.index.d

    @classmethod
    def of(cls, kind: Kind, vectors: Float[torch.Tensor, "documents dim"]) -> FaissIndex:
        """An index of vectors."""
        made = cls(kind, _empty(kind, *vectors.shape))
        if kind == "ivf":
            made.index.train(_array(vectors))
        return made.add(vectors)

    def add(self, vectors: Float[torch.Tensor, "documents dim"]) -> FaissIndex:
        """More vectors, numbered behind those that are there."""
        self.index.add(_array(vectors))
        return self

    def nearest(
        self, queries: Float[torch.Tensor, "queries dim"], k: int, effort: int
    ) -> tuple[Float[torch.Tensor, "queries k"], Int[torch.Tensor, "queries k"]]:
        """Scores, descending, and rows; a row of -1 where an approximate search found fewer.

        Args:
            queries: vectors.
            k: documents for each.
            effort: of an approximate search: how many candidates the walk keeps, or how many lists are looked into.
        """
        parameters = None
        faiss = library()
        if self.kind == "hnsw":
            parameters = faiss.SearchParametersHNSW(efSearch=max(effort, k))
        elif self.kind == "ivf":
            parameters = faiss.SearchParametersIVF(nprobe=min(effort, self.index.nlist))
        scores, rows = self.index.search(_array(queries), k, params=parameters)
        return torch.from_numpy(scores), torch.from_numpy(rows)

    def write(self, file: Path) -> None:
        """Write the index into a file.

        Raises:
            OSError: it cannot be written.
        """
        try:
            library().write_index(self.index, str(file))
        except RuntimeError as error:  # in which faiss wraps whatever the disk said
            raise OSError(errno.EIO, f"faiss cannot write its index: {error}", str(file)) from error

    @classmethod
    def read(cls, kind: Kind, file: Path) -> FaissIndex:
        """The index of a file.

        Raises:
            ValueError: it holds none.
        """
        try:
            return cls(kind, library().read_index(str(file)))
        except RuntimeError as error:
            raise ValueError(f"{file.name} holds no index of faiss") from error


def library() -> Any:
    """faiss.

    Raises:
        MissingExtra: it is not installed.
    """
    return require("faiss", "faiss")


def _empty(kind: Kind, documents: int, dim: int) -> Any:
    faiss = library()
    product = faiss.METRIC_INNER_PRODUCT
    if kind == "flat":
        return faiss.IndexFlatIP(dim)
    if kind == "hnsw":
        return faiss.IndexHNSWFlat(dim, _NEIGHBOURS, product)
    lists = max(1, min(int(4 * math.sqrt(documents)), documents // _TRAINING))
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, lists, product)
    index.cp.min_points_per_centroid = 1  # a small collection has one list
    return index


def _array(vectors: torch.Tensor) -> Float[np.ndarray, "rows dim"]:
    return np.ascontiguousarray(vectors.numpy(), dtype=np.float32)
