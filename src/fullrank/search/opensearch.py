"""Lexical retrieval by OpenSearch, for collections that outgrow one machine."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

from fullrank._optional import require
from fullrank.search.analysis import STEMMERS
from fullrank.search.empty_queries import tell_empty
from fullrank.search.protocols import Document, Queries, named
from fullrank.search.run import Run, at_least_one
from fullrank.search.server import Failure, Server
from fullrank.search.server_retriever import ServerRetriever, plain

_MOST_RESULTS = 10_000  # of a query, unless the server's administrator allows more
_QUERIES = 100  # asked at a time
_BYTES = 8_000_000  # sent at a time, at most, but for a document that is longer
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,199}")
_TERM = re.compile(r"weight\(searched:(.+) in \d+\)")
_LANGUAGES = STEMMERS | {"en": "english"}  # as OpenSearch calls them


class OpenSearchRetriever(ServerRetriever):
    """BM25 as Lucene scores it, over title and text, in an index on a server.

    Scores differ a little from those of `BM25Retriever`: Lucene keeps document lengths in one byte. Documents with
    equal scores at the last place are those that the server chooses.

    Args:
        url: such as "http://localhost:9200".
        index: its name there, of lower-case letters, digits, "_", "-" and ".".
        k1: saturation of term frequency, 0 or more. This and the next three are fixed when the index is built.
        b: normalisation by document length, 0 to 1.
        stopwords: language of the words to leave out, such as "en" or "de"; None for none.
        stemming: language whose endings are cut, such as "en" or "de"; None for none.
        username: by default that of the environment variable OPENSEARCH_USERNAME, if there is one.
        password: by default that of OPENSEARCH_PASSWORD.
        timeout: seconds that one try of a request may take.
        retries: tries after the first, where the server is busy (429), failing (5xx) or out of reach.
        batch_size: documents that are sent at a time.
        options: of `opensearchpy.OpenSearch`, such as ca_certs.

    Raises:
        MissingExtra: opensearch-py is not installed.
        ValueError: an address or a name that is none, an unknown language, or a number out of range.
    """

    _kind, _argument = "index", "index"

    def __init__(
        self,
        url: str,
        index: str,
        *,
        k1: float = 1.2,
        b: float = 0.75,
        stopwords: str | None = "en",
        stemming: str | None = None,
        username: str | None = None,
        password: str | None = None,
        timeout: float = 30.0,
        retries: int = 3,
        batch_size: int = 500,
        **options: Any,
    ) -> None:
        self._library: Any = require("opensearchpy", "servers")
        if not _NAME.fullmatch(index):
            raise ValueError(f"index={index!r} is not accepted; a-z, 0-9, '_', '-' and '.', a letter or digit first")
        if k1 < 0 or not 0 <= b <= 1:
            raise ValueError(f"k1={k1}, b={b} is not accepted; k1 is 0 or more, b is from 0 to 1")
        for name, language in (("stopwords", stopwords), ("stemming", stemming)):
            if language is not None and language not in STEMMERS:
                raise ValueError(f"{name}={language!r} is not known; accepted: {', '.join(STEMMERS)}, or None")
        user = username or os.environ.get("OPENSEARCH_USERNAME", "")
        secret = password or os.environ.get("OPENSEARCH_PASSWORD", "")
        server = Server(
            url,
            timeout,
            retries,
            secret=secret,
            remedy="username=..., password=..., or the environment variables OPENSEARCH_USERNAME, OPENSEARCH_PASSWORD",
            example="http://localhost:9200",
        )
        super().__init__(server, index, batch_size)
        self.k1, self.b, self.stopwords, self.stemming = k1, b, stopwords, stemming
        self._options = {"hosts": [url], "timeout": timeout, "max_retries": 0, **options}
        if user:
            self._options["http_auth"] = (user, secret)

    def search(self, queries: Queries, k: int = 10) -> Run:
        """See `Retriever.search`; documents without any of a query's terms are not results.

        Of blank queries there is a warning; which others have no terms, the server does not say.

        Raises:
            ValueError: k below 1, or above 10,000.
            LookupError: there is no such index.
            ConnectionError, TimeoutError, PermissionError, RuntimeError: see `build`.
        """
        if at_least_one(k) > _MOST_RESULTS:
            raise ValueError(f"k={k} is not accepted; OpenSearch gives at most {_MOST_RESULTS:,} documents a query")
        self._check()
        texts = list(named(queries).items())
        tell_empty(id for id, text in texts if not text.strip())
        run = Run()
        for start in range(0, len(texts), _QUERIES):
            part = texts[start : start + _QUERIES]
            for (id, _), hits in zip(part, self._ask(lambda part=part: self._answers(part, k)), strict=True):
                found = {hit["_id"]: float(hit["_score"]) for hit in hits}
                run[id] = dict(Run({id: found}).ranking(id))
        return run

    def explain(self, query: str, document_id: str) -> dict[str, float]:
        """What every term of a query adds to a document's score, largest first; they sum to it.

        Raises:
            LookupError: the index has no such document, or there is none.
            ConnectionError, TimeoutError, PermissionError, RuntimeError: see `build`.
        """
        self._check()
        body = {"query": _query(query)}
        try:
            answer = self._ask(lambda: self._client.explain(index=self.name, id=document_id, body=body))
        except LookupError:
            raise LookupError(f"the index {self.name!r} has no document {document_id!r}") from None
        parts: dict[str, float] = {}
        for term, value in _weights(answer.get("explanation", {})):
            parts[term] = parts.get(term, 0.0) + value
        return dict(sorted(parts.items(), key=lambda part: -part[1]))

    # --- what the server is asked for ----------------------------------------------------------------------------

    @cached_property
    def _client(self) -> Any:
        return self._library.OpenSearch(**self._options)

    def _failure(self, error: Any) -> Failure | None:
        library = self._library
        if isinstance(error, library.ConnectionTimeout):
            return Failure("time-out")
        if isinstance(error, library.ConnectionError):
            return Failure("connection", str(error.info))
        if isinstance(error, library.TransportError):
            return Failure("status", _reason(error.info) or str(error.error), int(error.status_code))
        if isinstance(error, library.SerializationError | KeyError | TypeError | AttributeError):
            return Failure("unreadable", f"{type(error).__name__} {error}")
        return None

    def _exists(self) -> bool:
        return self._ask(lambda: self._client.indices.exists(index=self.name))

    def _inspect(self) -> None:
        def ours() -> bool:
            mappings = self._client.indices.get_mapping(index=self.name)
            return all("fullrank" in entry["mappings"].get("_meta", {}) for entry in mappings.values())

        if not self._ask(ours):
            raise ValueError(
                f"the index {self.name!r} at {self._server.url} was not made by Fullrank; name another one: index=..."
            )

    def _create(self, version: str, documents: Sequence[Document]) -> None:
        self._ask(lambda: self._client.indices.create(index=version, body=self._settings()))

    def _put(self, version: str, documents: Sequence[Document]) -> None:
        lines: list[dict[str, Any]] = []
        size = 0
        for document in documents:
            length = len(document.title) + len(document.text)
            if lines and size + length > _BYTES:
                self._send(version, lines)
                lines, size = [], 0
            source: dict[str, Any] = {"title": document.title, "text": document.text}
            if document.metadata:
                source["metadata"] = plain(document.metadata)
            lines += [{"index": {"_id": document.id}}, source]
            size += length
        self._send(version, lines)

    def _settle(self, version: str) -> None:
        self._ask(lambda: self._client.indices.refresh(index=version))

    def _publish(self, version: str) -> None:
        """One request: the name moves in the same instant as the version before goes."""
        actions: list[dict[str, Any]] = []
        for index in self._named():
            ours = index == self.name or self._is_version(index)
            actions.append({"remove_index": {"index": index}} if ours else _alias("remove", index, self.name))
        actions.append(_alias("add", version, self.name))
        self._ask(lambda: self._client.indices.update_aliases(body={"actions": actions}))

    def _forget(self, version: str) -> None:
        self._ask(lambda: self._client.indices.delete(index=version, ignore_unavailable=True))

    def _remove(self, ids: Sequence[str]) -> None:
        self._send(self.name, [{"delete": {"_id": id}} for id in ids])

    def _found(self, ids: Sequence[str]) -> dict[str, Document]:
        answer = self._ask(lambda: self._client.mget(index=self.name, body={"ids": list(ids)})["docs"])
        return {entry["_id"]: _document(entry) for entry in answer if entry.get("found")}

    def _all(self) -> Iterator[str]:
        scan = self._library.helpers.scan(self._client, index=self.name, query={"_source": False})
        while (hit := self._ask(lambda: next(scan, None))) is not None:
            yield hit["_id"]

    def _count(self, version: str) -> int:
        return self._ask(lambda: int(self._client.count(index=version)["count"]))

    # --- within --------------------------------------------------------------------------------------------------

    def _settings(self) -> dict[str, Any]:
        filters: dict[str, Any] = {}
        if self.stopwords is not None:
            filters["stopwords"] = {"type": "stop", "stopwords": f"_{_LANGUAGES[self.stopwords]}_"}
        if self.stemming is not None:
            filters["stemming"] = {"type": "stemmer", "language": _LANGUAGES[self.stemming]}
        analyzer = {"tokenizer": "standard", "filter": ["cjk_width", "lowercase", *filters, "cjk_bigram"]}
        searched = {"type": "text", "analyzer": "words", "similarity": "bm25"}
        kept = {"type": "text", "index": False, "copy_to": "searched"}
        return {
            "settings": {
                "analysis": {"filter": filters, "analyzer": {"words": {"type": "custom", **analyzer}}},
                "index": {"similarity": {"bm25": {"type": "BM25", "k1": self.k1, "b": self.b}}},
            },
            "mappings": {
                "_meta": {"fullrank": 1},
                "dynamic": "strict",
                "properties": {
                    "searched": searched,
                    "title": kept,
                    "text": kept,
                    "metadata": {"type": "object", "enabled": False},
                },
            },
        }

    def _named(self) -> list[str]:
        """The indexes that have the name, or are behind it as an alias."""
        if not self._exists():
            return []
        return sorted(self._ask(lambda: self._client.indices.get(index=self.name)))

    def _send(self, version: str, lines: list[dict[str, Any]]) -> None:
        """Operations in bulk; those that the server was too busy for are sent again."""
        waiting = [lines]

        def send() -> None:
            sent = waiting.pop()
            try:
                items = self._client.bulk(index=version, body=sent)["items"]
            except BaseException:
                waiting.append(sent)
                raise
            step = len(sent) // len(items)
            again: list[dict[str, Any]] = []
            for number, item in enumerate(items):
                (result,) = item.values()
                if result["status"] in (429, 503):
                    again += sent[number * step : (number + 1) * step]
                elif result["status"] >= 300 and "error" in result:
                    raise Failure("status", f"document {result['_id']!r}: {_reason(result)}", result["status"])
            if again:
                waiting.append(again)
                raise Failure("status", "it is too busy", 429)

        self._ask(send)

    def _answers(self, part: list[tuple[str, str]], k: int) -> list[list[dict[str, Any]]]:
        """The hits of every query."""
        lines: list[dict[str, Any]] = []
        for _, text in part:
            lines += [{"search_type": "dfs_query_then_fetch"}, {"query": _query(text), "size": k, "_source": False}]
        answers = self._client.msearch(index=self.name, body=lines)["responses"]
        for (id, _), answer in zip(part, answers, strict=True):
            if "error" in answer:
                raise Failure("status", f"query {id!r}: {_reason(answer)}", int(answer.get("status", 500)))
        return [answer["hits"]["hits"] for answer in answers]


def _query(text: str) -> dict[str, Any]:
    return {"match": {"searched": {"query": text}}}


def _alias(action: str, index: str, alias: str) -> dict[str, Any]:
    return {action: {"index": index, "alias": alias}}


def _document(entry: dict[str, Any]) -> Document:
    source = entry["_source"]
    return Document(entry["_id"], source["text"], source["title"], source.get("metadata", {}))


def _weights(explanation: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """Terms and what they add, from Lucene's tree of an explanation."""
    found = _TERM.match(explanation.get("description", ""))
    if found:
        yield found[1], float(explanation["value"])
        return
    for part in explanation.get("details", ()):
        yield from _weights(part)


def _reason(info: Any) -> str:
    """What the server says of an error."""
    error = info.get("error", info) if isinstance(info, dict) else info
    if isinstance(error, dict):
        causes = error.get("root_cause") or [error]
        return str(causes[0].get("reason") or json.dumps(error))
    return str(error or "")
