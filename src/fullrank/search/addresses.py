"""Indexes on servers by address: opensearch+http://localhost:9200/papers, qdrant+https://example.org/papers."""

from __future__ import annotations

import re
from typing import Any

from fullrank.search.opensearch import OpenSearchRetriever
from fullrank.search.qdrant import QdrantRetriever
from fullrank.search.server_retriever import ServerRetriever

_ADDRESS = re.compile(r"(opensearch|qdrant)\+(https?://.+)/([^/]+)/?")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def is_address(place: str) -> bool:
    """Whether a place is an address rather than a folder."""
    return _SCHEME.match(place) is not None


def retriever_at(address: str, **options: Any) -> ServerRetriever:
    """The retriever over an index on a server; nothing is asked from the server yet.

    Args:
        address: kind of the server, its address and the name of the index: "opensearch+http://localhost:9200/papers"
            for an `OpenSearchRetriever`, "qdrant+http://localhost:6333/papers" for a `QdrantRetriever`.
        **options: of that retriever.

    Raises:
        MissingExtra: the server's client is not installed.
        ValueError: another kind of address, or no name of an index in it; see also the retrievers.
    """
    parts = _ADDRESS.fullmatch(address)
    if parts is None:
        raise ValueError(
            f"address={address!r} is not accepted; give the kind of the server, its address and the name of the index, "
            "such as opensearch+http://localhost:9200/papers or qdrant+http://localhost:6333/papers"
        )
    kind, url, name = parts.groups()
    return (OpenSearchRetriever if kind == "opensearch" else QdrantRetriever)(url, name, **options)
