"""Retrieval by late interaction over token vectors on disk (ColBERT, Khattab and Zaharia 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from jaxtyping import Float
from torch import Tensor

from fullrank.search.colbert_encoder import ColBERTEncoder, QueryTokens, TokenEncoder
from fullrank.search.dense import Nearest
from fullrank.search.index_folder import open_index
from fullrank.search.late_interaction import Convention, check_convention, ragged_maxsim
from fullrank.search.protocols import Document, Queries, asked_in_blocks, named
from fullrank.search.run import Run, at_least_one
from fullrank.search.segmented_index import DAMAGE, SegmentedIndex, check_made, recorded_encoder
from fullrank.search.token_segments import TokenSegment

Precision = Literal["float16", "float32"]

_QUERIES = 16  # scored at a time
_PRODUCTS = 2**26  # of token vectors held at a time: 256 MB of float32


class ColBERTRetriever(SegmentedIndex[TokenSegment]):
    """Retrieval by s(q, d) = sum_i max_j Q_i . P_j, over all documents, exact.

    Every token of a document is kept: bytes on disk are tokens x dim x 2 in "float16", about 20 kB for a passage of 80
    tokens in 128 dimensions. They are memory-mapped and scored block by block, so that memory does not grow with them;
    on the device of the encoder's vectors.

    Args:
        encoder: `ColBERTEncoder`, or any object with `encode_queries(texts)` and `encode_documents(texts)` that gives
            token vectors.
        convention: see `maxsim`.
        dtype: in which token vectors are kept; products are of float32.

    Raises:
        TypeError: the encoder has not both.
        ValueError: an unknown convention or dtype.
    """

    segment_size = 10_000

    def __init__(self, encoder: TokenEncoder, convention: Convention = "all", dtype: Precision = "float16") -> None:
        if not isinstance(encoder, TokenEncoder):
            raise TypeError(
                f"encoder={encoder!r} is {type(encoder).__name__}; an object with encode_documents(texts) and "
                f"encode_queries(texts) is needed, such as ColBERTEncoder(model)"
            )
        check_convention(convention)
        if dtype not in get_args(Precision):
            raise ValueError(f"dtype={dtype!r} is not accepted; accepted: {', '.join(get_args(Precision))}")
        self.encoder = encoder
        self.convention: Convention = convention
        self.dtype: Precision = dtype
        super().__init__()

    def search(self, queries: Queries, k: int = 10) -> Run:
        """See `Retriever.search`. A blank query finds nothing, and a warning names it.

        Raises:
            ValueError: k below 1, or an encoder that gives vectors of another shape than the indexed ones.
            RuntimeError: nothing is indexed yet.
        """
        self._check_indexed()
        at_least_one(k)
        texts = named(queries)
        run = Run({query_id: {} for query_id in texts})
        for block in asked_in_blocks(texts, _QUERIES):
            if not len(self):
                break
            encoded = self._queries([texts[query_id] for query_id in block])
            for query_id, scores, rows in zip(block, *self._nearest(encoded, min(k, len(self))), strict=True):
                run[query_id] = dict(zip(self._ids(rows.numpy()), scores.tolist(), strict=True))
        return run

    @classmethod
    def load(cls, folder: str | Path, encoder: TokenEncoder | None = None, **options: Any) -> ColBERTRetriever:
        """Open an index, memory-mapped.

        Args:
            folder: of the index.
            encoder: the one that it was built with; by default the one that is named in the index, if it was made of a
                name or a folder.
            **options: of the encoder that is named, such as `device`.

        Raises:
            FileNotFoundError: the folder holds no index.
            ValueError: it is damaged or of another retriever, or options for an encoder that is given.
            LookupError: it names no encoder, and none is given.
            TypeError: see `ColBERTRetriever`.
        """
        if encoder is not None:
            check_made(options)
            cls(encoder)

        def read(about: dict[str, Any], files: Path) -> ColBERTRetriever:
            chosen = recorded_encoder(about, ColBERTEncoder, options) if encoder is None else encoder
            return cls(chosen, about["convention"], about["dtype"])._take(TokenSegment, about, files)

        return open_index(folder, cls.__name__, read, DAMAGE)

    # --- within --------------------------------------------------------------------------------------------------

    def _segment(self, documents: Sequence[Document]) -> TokenSegment:
        texts = [document.searched for document in documents]
        vectors = [_finite(found, text) for found, text in zip(self._encoded(texts), texts, strict=True)]
        segment = TokenSegment.of([document.id for document in documents], vectors, self.dtype)
        if self._segments and segment.vectors.shape[1] != self._dim:
            raise ValueError(
                f"the encoder gives {segment.vectors.shape[1]} numbers a token, the index holds {self._dim}"
            )
        return segment

    def _encoded(self, texts: list[str]) -> list[Float[Tensor, "_ dim"]]:
        found = list(self.encoder.encode_documents(texts))
        if len(found) != len(texts):
            raise ValueError(f"encoder gave token vectors of {len(found)} texts for {len(texts)}; one tensor each")
        return found

    def _about(self) -> dict[str, Any]:
        named = getattr(self.encoder, "description", None)
        return {"encoder": named, "convention": self.convention, "dtype": self.dtype}

    @property
    def _dim(self) -> int:
        return self._segments[0].vectors.shape[1]

    def _queries(self, texts: list[str]) -> QueryTokens:
        encoded = self.encoder.encode_queries(texts)
        vectors = encoded.vectors.float()
        if vectors.ndim != 3 or len(vectors) != len(texts) or vectors.shape[2] != self._dim:
            raise ValueError(
                f"the encoder gave shape {tuple(vectors.shape)} for {len(texts)} queries, the index holds {self._dim} "
                f"numbers a token; search with the encoder that the index was built with"
            )
        for row, text in zip(vectors, texts, strict=True):
            _finite(row, text)
        return QueryTokens(vectors, encoded.words)

    def _nearest(self, encoded: QueryTokens, k: int) -> tuple[Tensor, Tensor]:
        """The k largest scores of every query, descending, and the numbers of their documents."""
        Q, words = encoded
        best = Nearest(len(Q), k)
        for segment, offset in zip(self._segments, self._offsets[:-1].tolist(), strict=True):
            for first, tokens, lengths in segment.blocks(max(1, _PRODUCTS // Q[..., 0].numel())):
                P, counts = tokens.to(Q.device).float(), lengths.to(Q.device)
                best.take(ragged_maxsim(Q, P, counts, words, self.convention).cpu(), offset + first)
        return best.scores, best.rows


def _finite(vectors: Float[Tensor, "tokens dim"], text: str) -> Float[Tensor, "tokens dim"]:
    if not vectors.isfinite().all():
        raise ValueError(f"encoder gave a vector that is not finite for the text {text[:80]!r}")
    return vectors
