"""Dense retrieval by Qdrant, for collections that outgrow one machine."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from fullrank._optional import require
from fullrank.search.dense import Encoder, encoded, load_encoder
from fullrank.search.protocols import Document, Queries, asked_in_blocks, named
from fullrank.search.run import Run, at_least_one
from fullrank.search.server import Failure, Server
from fullrank.search.server_retriever import ServerRetriever, plain

_QUERIES = 100  # asked at a time
_PAGE = 1_000  # ids read at a time
_FIELDS = ["id", "text", "title", "metadata"]


class QdrantRetriever(ServerRetriever):
    """Retrieval by cosine of encoded texts, in a collection on a server.

    Args:
        url: such as "http://localhost:6333".
        collection: its name there.
        encoder: an object with `encode(texts)`, or a local model folder; the bundled all-MiniLM-L6-v2 by default. It is
            loaded at first use.
        api_key: by default that of the environment variable QDRANT_API_KEY, if there is one.
        exact: whether every vector is compared; by default Qdrant's graph of neighbours is searched, which may miss
            some of the nearest.
        timeout: seconds that one try of a request may take; whole seconds, rounded up.
        retries: tries after the first, where the server is busy (429), failing (5xx) or out of reach.
        batch_size: documents that are encoded and sent at a time.
        client: a `qdrant_client.QdrantClient` that is made already, such as one that keeps its collections in this
            process or in a folder; `url` is then only shown.
        options: of `qdrant_client.QdrantClient`, such as prefer_grpc.

    Raises:
        MissingExtra: qdrant-client is not installed.
        ValueError: an address or a name that is none, or a number out of range.
    """

    _kind, _argument = "collection", "collection"

    def __init__(
        self,
        url: str,
        collection: str,
        encoder: Encoder | str | Path | None = None,
        *,
        api_key: str | None = None,
        exact: bool = False,
        timeout: float = 30.0,
        retries: int = 3,
        batch_size: int = 256,
        client: Any = None,
        **options: Any,
    ) -> None:
        require("qdrant_client", "servers")
        if not collection or len(collection) > 200 or set(collection) & set('<>:"/\\|?*\0\x1f'):
            raise ValueError(f'collection={collection!r} is not accepted; 1 to 200 characters, none of <>:"/\\|?*')
        key = api_key or os.environ.get("QDRANT_API_KEY", "")
        remedy = "api_key=..., or the environment variable QDRANT_API_KEY"
        server = Server(url, timeout, retries, secret=key, remedy=remedy, example="http://localhost:6333")
        super().__init__(server, collection, batch_size)
        self.exact, self._encoder = exact, encoder
        self._options = {"url": url, "api_key": key or None, "timeout": timeout, "check_compatibility": False}
        self._options |= options
        self._given = client
        self._shapes: dict[str, tuple[int, str]] = {}

    @cached_property
    def encoder(self) -> Encoder:
        """The encoder, loaded."""
        if self._encoder is None or isinstance(self._encoder, str | Path):
            return load_encoder(self._encoder)
        return self._encoder

    def search(self, queries: Queries, k: int = 10) -> Run:
        """See `Retriever.search`; scores are cosines. A blank query finds nothing, and a warning names it.

        Raises:
            ValueError: k below 1, or an encoder whose vectors are not as long as the indexed ones.
            LookupError: there is no such collection.
            ConnectionError, TimeoutError, PermissionError, RuntimeError: see `build`.
        """
        at_least_one(k)
        self._check()
        texts = named(queries)
        run = Run({id: {} for id in texts})
        for part in asked_in_blocks(texts, _QUERIES):
            vectors = self._vectors([texts[id] for id in part], self.name)
            for id, points in zip(part, self._ask(lambda v=vectors: self._answers(v, k)), strict=True):
                found = {point.payload["id"]: float(point.score) for point in points}
                run[id] = dict(Run({id: found}).ranking(id))
        return run

    # --- what the server is asked for ----------------------------------------------------------------------------

    @cached_property
    def _client(self) -> Any:
        return self._given or require("qdrant_client", "servers").QdrantClient(**self._options)

    @cached_property
    def _models(self) -> Any:
        return require("qdrant_client.models", "servers")

    def _failure(self, error: Any) -> Failure | None:
        reported: Any = require("qdrant_client.http.exceptions", "servers")
        exhausted: Any = require("qdrant_client.common.client_exceptions", "servers")
        httpx: Any = require("httpx", "servers")
        if isinstance(error, exhausted.ResourceExhaustedResponse):
            return Failure("status", str(error), 429, float(error.retry_after_s))
        if isinstance(error, reported.UnexpectedResponse):
            return Failure("status", _reason(error), error.status_code or 0)
        if isinstance(error, reported.ResponseHandlingException):
            if isinstance(error.source, httpx.TimeoutException):
                return Failure("time-out")
            if isinstance(error.source, httpx.TransportError):
                return Failure("connection", str(error.source))
            return Failure("unreadable", type(error.source).__name__)
        return Failure("unreadable", str(error)) if isinstance(error, json.JSONDecodeError) else None

    def _exists(self) -> bool:
        return self.name in self._collections() or self.name in self._aliases()

    def _inspect(self) -> None:
        if not self._exists():
            raise LookupError(f"{self._server.url} has no collection {self.name!r}; make it with build(documents)")
        size, distance = self._shape(self.name)
        if not size or distance != "Cosine":
            raise ValueError(
                f"the collection {self.name!r} at {self._server.url} was not made by Fullrank; name another one: "
                f"collection=..."
            )

    def _create(self, version: str, documents: Sequence[Document]) -> None:
        size = encoded(self.encoder, [documents[0].searched]).shape[1]
        shape = self._models.VectorParams(size=size, distance=self._models.Distance.COSINE)
        self._ask(lambda: self._client.create_collection(version, vectors_config=shape))
        self._shapes[version] = (size, "Cosine")

    def _put(self, version: str, documents: Sequence[Document]) -> None:
        vectors = self._vectors([document.searched for document in documents], version)
        points = [
            self._models.PointStruct(id=_point(document.id), vector=vector, payload=_payload(document))
            for document, vector in zip(documents, vectors, strict=True)
        ]
        self._ask(lambda: self._client.upsert(version, points=points, wait=True))

    def _settle(self, version: str) -> None:
        """Nothing: it waits for every change."""

    def _publish(self, version: str) -> None:
        before = self._aliases().get(self.name)
        if self.name in self._collections():  # an alias cannot have the name of a collection
            self._forget(self.name)
        models = self._models
        create = models.CreateAlias(collection_name=version, alias_name=self.name)
        changes: list[Any] = [models.CreateAliasOperation(create_alias=create)]
        if before is not None:
            delete = models.DeleteAlias(alias_name=self.name)
            changes.insert(0, models.DeleteAliasOperation(delete_alias=delete))
        self._ask(lambda: self._client.update_collection_aliases(changes))
        self._shapes[self.name] = self._shapes[version]
        if before is not None and self._is_version(before):
            self._forget(before)

    def _forget(self, version: str) -> None:
        self._ask(lambda: self._client.delete_collection(version))

    def _remove(self, ids: Sequence[str]) -> None:
        points = self._models.PointIdsList(points=[_point(id) for id in ids])
        self._ask(lambda: self._client.delete(self.name, points_selector=points, wait=True))

    def _found(self, ids: Sequence[str]) -> dict[str, Document]:
        points = [_point(id) for id in ids]
        found = self._ask(lambda: self._client.retrieve(self.name, points, with_payload=_FIELDS))
        return {point.payload["id"]: Document(**point.payload) for point in found}

    def _all(self) -> Iterator[str]:
        after = None
        while True:
            points, after = self._ask(
                lambda after=after: self._client.scroll(self.name, limit=_PAGE, offset=after, with_payload=["id"])
            )
            yield from (point.payload["id"] for point in points)
            if after is None:
                return

    def _count(self, version: str) -> int:
        return self._ask(lambda: self._client.count(version, exact=True).count)

    # --- within --------------------------------------------------------------------------------------------------

    def _shape(self, name: str) -> tuple[int, str]:
        """Length of a collection's vectors, and how they are compared; 0 where they have names."""
        if name not in self._shapes:
            vectors: Any = self._ask(lambda: self._client.get_collection(name)).config.params.vectors
            nameless = isinstance(vectors, self._models.VectorParams)
            self._shapes[name] = (vectors.size, vectors.distance.value) if nameless else (0, "")
        return self._shapes[name]

    def _collections(self) -> set[str]:
        return {entry.name for entry in self._ask(lambda: self._client.get_collections()).collections}

    def _aliases(self) -> dict[str, str]:
        """Collections by alias."""
        entries = self._ask(lambda: self._client.get_aliases()).aliases
        return {entry.alias_name: entry.collection_name for entry in entries}

    def _vectors(self, texts: list[str], name: str) -> list[list[float]]:
        vectors, (size, _) = encoded(self.encoder, texts), self._shape(name)
        if vectors.shape[1] != size:
            raise ValueError(
                f"the encoder gives {vectors.shape[1]} numbers a text, the collection holds {size}; use the encoder "
                f"that it was built with"
            )
        return vectors.tolist()

    def _answers(self, vectors: list[list[float]], k: int) -> list[Any]:
        """The points of every query."""
        models = self._models
        requests = [
            models.QueryRequest(
                query=vector, limit=k, with_payload=["id"], params=models.SearchParams(exact=self.exact)
            )
            for vector in vectors
        ]
        return [answer.points for answer in self._client.query_batch_points(self.name, requests=requests)]


def _point(id: str) -> str:
    """The id of a document's point: Qdrant takes only numbers and UUIDs."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, id))


def _payload(document: Document) -> dict[str, Any]:
    payload: dict[str, Any] = {"id": document.id, "text": document.text, "title": document.title}
    return payload | ({"metadata": plain(document.metadata)} if document.metadata else {})


def _reason(error: Any) -> str:
    """What the server says of an error."""
    try:
        return str(error.structured()["status"]["error"])
    except (ValueError, KeyError, TypeError):
        return error.content.decode("utf-8", "replace")
