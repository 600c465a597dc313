"""What retrievers over an index on a server have in common: nothing that is there is lost or replaced unasked."""

from __future__ import annotations

import json
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from fullrank._batching import batches
from fullrank.search.protocols import Document, Queries
from fullrank.search.run import Run, at_least_one
from fullrank.search.server import Failure, Server

Answered = TypeVar("Answered")


class ServerRetriever(ABC):
    """An index that lives on a server.

    What `build` makes has a name of its own, such as NAME-0123...; NAME is an alias of it and is moved last, so that
    whoever searches meanwhile sees the whole of the one before, and a build that fails leaves it as it was.

    Args:
        server: where it is.
        name: of the index.
        batch_size: documents that are sent at a time.
    """

    _kind: str  # what the server calls an index
    _argument: str  # that names it

    def __init__(self, server: Server, name: str, batch_size: int) -> None:
        self._server, self.name, self.batch_size = server, name, at_least_one(batch_size, "batch_size")
        self._checked = False

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._server.url!r}, {self._argument}={self.name!r})"

    def __len__(self) -> int:
        self._check()
        return self._count(self.name)

    def build(self, documents: Iterable[Document], replace: bool = False) -> ServerRetriever:
        """Index documents.

        Args:
            documents: read one after another; memory holds one batch of them, and their ids.
            replace: whether they take the place of an index that is there.

        Raises:
            FileExistsError: an index is there, and `replace` is not set.
            ValueError: no documents, or an id twice; the index that was there stays.
            ConnectionError, TimeoutError, PermissionError, RuntimeError: the server is out of reach, gives no answer,
                does not accept the key, or refuses; the index that was there stays.
        """
        if not replace and self._exists():
            raise FileExistsError(
                f"{self._server.url} has the {self._kind} {self.name!r} already; add(documents) adds to it, "
                f"build(documents, replace=True) puts others in its place, {self._argument}=... names another one"
            )
        version = f"{self.name}-{uuid.uuid4().hex}"
        created = False
        try:
            for batch in self._batches(documents):
                if not created:
                    created = True
                    self._create(version, batch)
                self._put(version, batch)
            if not created:
                raise ValueError("documents=[] leaves nothing to index; give at least one")
            self._settle(version)
            self._publish(version)
        except BaseException as error:
            if created:
                self._clear(version, error)
            raise
        self._checked = True
        return self

    def add(self, documents: Iterable[Document]) -> ServerRetriever:
        """Index more documents; one with an id that is there takes the other's place.

        Raises:
            LookupError: there is no such index.
            ValueError: an id twice among them; what came before it is indexed.
            ConnectionError, TimeoutError, PermissionError, RuntimeError: see `build`; batches before are indexed.
        """
        self._check()
        for batch in self._batches(documents):
            self._put(self.name, batch)
        self._settle(self.name)
        return self

    def delete(self, ids: Iterable[str]) -> ServerRetriever:
        """Forget documents.

        Raises:
            LookupError: an id that is not there; then none is forgotten.
            ConnectionError, TimeoutError, PermissionError, RuntimeError: see `build`.
        """
        wanted = sorted(set(ids))
        self._check()
        for batch in batches(wanted, self.batch_size):
            unknown = set(batch) - self._found(batch).keys()
            if unknown:
                raise LookupError(f"the {self._kind} {self.name!r} has no document {min(unknown)!r}")
        for batch in batches(wanted, self.batch_size):
            self._remove(batch)
        self._settle(self.name)
        return self

    @abstractmethod
    def search(self, queries: Queries, k: int = 10) -> Run:
        """See `Retriever.search`."""

    @property
    def documents(self) -> Mapping[str, Document]:
        """The indexed documents by id, asked from the server when they are read."""
        return _Documents(self)

    # --- what a server is asked for ------------------------------------------------------------------------------

    @abstractmethod
    def _failure(self, error: Any) -> Failure | None:
        """What an exception of the client means; None for one that is not the server's."""

    @abstractmethod
    def _exists(self) -> bool: ...

    @abstractmethod
    def _inspect(self) -> None:
        """Raise where the index cannot be searched by this retriever; a Failure of status 404 where there is none."""

    @abstractmethod
    def _create(self, version: str, documents: Sequence[Document]) -> None: ...

    @abstractmethod
    def _put(self, version: str, documents: Sequence[Document]) -> None: ...

    @abstractmethod
    def _settle(self, version: str) -> None:
        """Return when searches find what was put or removed."""

    @abstractmethod
    def _publish(self, version: str) -> None:
        """Give a version the name of the index, and forget the one before."""

    @abstractmethod
    def _forget(self, version: str) -> None: ...

    @abstractmethod
    def _remove(self, ids: Sequence[str]) -> None: ...

    @abstractmethod
    def _found(self, ids: Sequence[str]) -> dict[str, Document]:
        """Those documents that are there."""

    @abstractmethod
    def _all(self) -> Iterator[str]:
        """Every id."""

    @abstractmethod
    def _count(self, version: str) -> int: ...

    # --- within --------------------------------------------------------------------------------------------------

    def _ask(self, request: Callable[[], Answered]) -> Answered:
        """What the server answers, or one sentence about why it does not."""
        try:
            return self._server.ask(request, self._failure)
        except Failure as failure:
            if failure.status == 404:
                raise LookupError(
                    f"{self._server.url} has no {self._kind} {self.name!r}; make it with build(documents)"
                ) from None
            raise self._server.error(failure) from None

    def _check(self) -> None:
        """Raise where there is no index, or one that this retriever cannot search; asked once."""
        if not self._checked:
            self._inspect()
            self._checked = True

    def _is_version(self, name: str) -> bool:
        """Whether `build` made an index, by its name."""
        head, _, tail = name.rpartition("-")
        return head == self.name and len(tail) == 32 and not set(tail) - set("0123456789abcdef")

    def _batches(self, documents: Iterable[Document]) -> Iterator[list[Document]]:
        seen: set[str] = set()
        for batch in batches(documents, self.batch_size):
            for document in batch:
                if document.id in seen:
                    raise ValueError(f"two documents have the id {document.id!r}; ids are unique in a collection")
                seen.add(document.id)
            yield batch

    def _clear(self, version: str, error: BaseException) -> None:
        """Forget what a failed build left; where that fails too, the error says so."""
        try:
            self._forget(version)
        except (LookupError, OSError, RuntimeError) as again:
            error.add_note(f"{version} may be left on the server: {again}")


class _Documents(Mapping[str, Document]):
    """The documents of an index by id."""

    def __init__(self, retriever: ServerRetriever) -> None:
        self._retriever = retriever

    def __getitem__(self, id: str) -> Document:
        self._retriever._check()
        return self._retriever._found([id])[id]

    def __iter__(self) -> Iterator[str]:
        self._retriever._check()
        return self._retriever._all()

    def __len__(self) -> int:
        return len(self._retriever)


def plain(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata as JSON holds it; what JSON does not know becomes text."""
    return json.loads(json.dumps(dict(metadata), default=str))
