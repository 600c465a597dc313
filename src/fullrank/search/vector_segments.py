"""Immutable parts of an index of vectors, one a document, in files that are memory-mapped."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from safetensors.torch import load_file, save_file

from fullrank.search.segmented_index import Part

_IDS, _VECTORS = "ids.json", "vectors.safetensors"


class VectorSegment(Part):
    """Vectors of some documents.

    Args:
        ids: of the documents.
        vectors: one for each.
        folder: see `Part`.

    Raises:
        ValueError: the two do not fit each other.
    """

    def __init__(
        self, ids: list[str], vectors: Float[torch.Tensor, "documents dim"], folder: Path | None = None
    ) -> None:
        if vectors.ndim != 2 or len(vectors) != len(ids):
            raise ValueError(f"vectors of shape {tuple(vectors.shape)}, {len(ids)} ids")
        self.ids, self.vectors, self.folder = ids, vectors, folder

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def dim(self) -> int:
        """Numbers of a vector."""
        return self.vectors.shape[1]

    def without(self, gone: Bool[np.ndarray, " documents"]) -> VectorSegment:
        """See `Part.without`."""
        kept = np.flatnonzero(~gone).tolist()
        return VectorSegment([self.ids[number] for number in kept], self.vectors[kept])

    @classmethod
    def joined(cls, segments: Sequence[VectorSegment]) -> VectorSegment:
        """See `Part.joined`."""
        ids = [id for segment in segments for id in segment.ids]
        return VectorSegment(ids, torch.cat([segment.vectors for segment in segments]))

    @classmethod
    def read(cls, folder: Path) -> VectorSegment:
        """See `Part.read`."""
        ids = json.loads((folder / _IDS).read_text(encoding="utf-8"))
        return cls(ids, load_file(folder / _VECTORS)["vectors"], folder)

    def _put(self, folder: Path) -> None:
        (folder / _IDS).write_text(json.dumps(self.ids), encoding="utf-8")
        save_file({"vectors": self.vectors.contiguous()}, folder / _VECTORS)
