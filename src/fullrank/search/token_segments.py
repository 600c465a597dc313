"""Immutable parts of an index of token vectors, in files that are memory-mapped."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fullrank.search.segmented_index import Part


class TokenSegment(Part):
    """Token vectors of some documents, one document behind the other.

    Args:
        ids: of the documents.
        starts: where every document's tokens begin, and where the last one's end.
        vectors: of all tokens.
        folder: see `Part`.
    """

    def __init__(
        self,
        ids: list[str],
        starts: Int[np.ndarray, " bounds"],
        vectors: Float[np.ndarray, "tokens dim"],
        folder: Path | None = None,
    ) -> None:
        self.ids, self.starts, self.vectors, self.folder = ids, starts, vectors, folder

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def of(cls, ids: list[str], vectors: Sequence[Float[Tensor, "_ dim"]], dtype: str) -> TokenSegment:
        """Documents as one segment in memory."""
        starts = np.cumsum([0, *map(len, vectors)], dtype=np.int64)
        return cls(ids, starts, torch.cat(list(vectors)).float().cpu().numpy().astype(dtype))

    def blocks(self, tokens: int) -> Iterator[tuple[int, Float[Tensor, "tokens dim"], Int[Tensor, " documents"]]]:
        """The first document, token vectors and lengths of documents that have about so many tokens together."""
        begin = 0
        while begin < len(self):
            reached = int(np.searchsorted(self.starts, self.starts[begin] + tokens, side="right")) - 1
            end = min(max(reached, begin + 1), len(self))
            part = np.array(self.vectors[self.starts[begin] : self.starts[end]])
            yield begin, torch.from_numpy(part), torch.from_numpy(np.diff(self.starts[begin : end + 1]))
            begin = end

    def without(self, gone: Bool[np.ndarray, " documents"]) -> TokenSegment:
        """See `Part.without`."""
        lengths = np.diff(self.starts)
        kept = [id for id, left in zip(self.ids, gone.tolist(), strict=True) if not left]
        starts = np.cumsum([0, *lengths[~gone].tolist()], dtype=np.int64)
        return TokenSegment(kept, starts, self.vectors[np.repeat(~gone, lengths)])

    @classmethod
    def joined(cls, segments: Sequence[TokenSegment]) -> TokenSegment:
        """See `Part.joined`."""
        lengths = np.concatenate([np.diff(segment.starts) for segment in segments])
        vectors = np.concatenate([segment.vectors for segment in segments])
        ids = [id for segment in segments for id in segment.ids]
        return TokenSegment(ids, np.cumsum([0, *lengths.tolist()], dtype=np.int64), vectors)

    @classmethod
    def read(cls, folder: Path) -> TokenSegment:
        """See `Part.read`."""
        ids = json.loads((folder / "ids.json").read_text(encoding="utf-8"))
        starts = np.load(folder / "starts.npy", allow_pickle=False)
        vectors = np.load(folder / "vectors.npy", mmap_mode="r", allow_pickle=False)
        if len(starts) != len(ids) + 1 or vectors.ndim != 2 or int(starts[-1]) != len(vectors):
            raise ValueError(f"{len(ids)} ids, {len(starts) - 1} documents, vectors of shape {vectors.shape}")
        return cls(ids, starts, vectors, folder)

    def _put(self, folder: Path) -> None:
        (folder / "ids.json").write_text(json.dumps(self.ids, ensure_ascii=False), encoding="utf-8")
        np.save(folder / "starts.npy", self.starts)
        np.save(folder / "vectors.npy", self.vectors)
