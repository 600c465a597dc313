"""OpenSearch as far as the protocol goes: indexes, aliases, bulk, searches, explanations; BM25 by our own retriever."""

from __future__ import annotations

import json
import re
from urllib.parse import parse_qs, unquote, urlsplit

from fullrank.search import BM25Retriever, Document
from fullrank.search.empty_queries import gathered_empty


class FakeOpenSearch:
    """Answers requests as OpenSearch does; `trouble(request)` may answer in its place.

    Attributes:
        indexes: index -> its settings and mappings ("body"), and its documents ("documents").
        aliases: alias -> indexes.
    """

    def __init__(self) -> None:
        self.indexes: dict[str, dict] = {}
        self.aliases: dict[str, list[str]] = {}
        self.trouble = lambda request: None

    def __call__(self, request):
        answer = self.trouble(request)
        if answer is not None:
            return answer
        address = urlsplit(request["path"])
        parts = [unquote(part) for part in address.path.split("/") if part]
        options = {name: values[0] for name, values in parse_qs(address.query).items()}
        status, content = self.answer(request["method"], parts, options, request["content"])
        return status, {}, content

    def answer(self, method, parts, options, content):
        lines = [json.loads(line) for line in content.decode().splitlines() if line] if content else []
        body = lines[0] if lines else {}
        match (method, *parts):
            case ("POST", "_aliases"):
                return self.move(body["actions"])
            case (("POST" | "GET"), "_search", "scroll"):
                return 200, {"_scroll_id": "s", "hits": {"hits": []}, "_shards": {"total": 1, "successful": 1}}
            case ("DELETE", "_search", "scroll", *_):
                return 200, {"succeeded": True}
            case ("PUT", name):
                if name in self.indexes:
                    return self.error(400, "resource_already_exists_exception", f"index [{name}] already exists")
                self.indexes[name] = {"body": body, "documents": {}}
                return 200, {"acknowledged": True, "index": name}
        name, *rest = parts
        names = [name] if name in self.indexes else self.aliases.get(name, [])
        if not names:
            if method == "DELETE" and options.get("ignore_unavailable") == "true":
                return 200, {"acknowledged": True}
            return self.error(404, "index_not_found_exception", f"no such index [{name}]")
        (index,) = names
        documents = self.indexes[index]["documents"]
        match (method, *rest):
            case ("HEAD",):
                return 200, b""
            case ("GET",):
                return 200, {index: self.indexes[index]["body"]}
            case ("DELETE",):
                del self.indexes[index]
                return 200, {"acknowledged": True}
            case ("GET", "_mapping"):
                return 200, {index: {"mappings": self.indexes[index]["body"].get("mappings", {})}}
            case ("POST", "_refresh"):
                return 200, {"_shards": {"failed": 0}}
            case (_, "_count"):
                return 200, {"count": len(documents)}
            case (_, "_bulk"):
                return 200, {"errors": False, "items": list(self.bulk(documents, lines))}
            case (_, "_mget"):
                return 200, {"docs": [self.document(documents, id) for id in body["ids"]]}
            case (_, "_msearch"):
                return 200, {"responses": [self.hits(index, query) for query in lines[1::2]]}
            case (_, "_search"):
                hits = [{"_id": id} for id in documents]
                shards = {"total": 1, "successful": 1, "skipped": 0, "failed": 0}
                return 200, {"_scroll_id": "s", "_shards": shards, "hits": {"hits": hits}}
            case (_, "_explain", id):
                return self.explanation(index, id, body)
        return self.error(400, "illegal_argument_exception", f"{method} /{'/'.join(parts)}")

    def move(self, actions):
        for action in actions:
            ((kind, what),) = action.items()
            if kind == "remove_index":
                del self.indexes[what["index"]]
                self.aliases = {a: [i for i in behind if i != what["index"]] for a, behind in self.aliases.items()}
            elif kind == "add":
                assert what["alias"] not in self.indexes, "an alias cannot have the name of an index"
                self.aliases.setdefault(what["alias"], []).append(what["index"])
            else:
                self.aliases[what["alias"]].remove(what["index"])
        return 200, {"acknowledged": True}

    def bulk(self, documents, lines):
        rest = iter(lines)
        for line in rest:
            ((kind, what),) = line.items()
            id = what["_id"]
            if kind == "delete":
                gone = documents.pop(id, None)
                yield {"delete": {"_id": id, "status": 200 if gone else 404, "result": "deleted"}}
                continue
            source = next(rest)
            if len(id.encode()) > 512:
                error = {"type": "illegal_argument_exception", "reason": "id is too long"}
                yield {"index": {"_id": id, "status": 400, "error": error}}
                continue
            documents[id] = source
            yield {"index": {"_id": id, "status": 201, "result": "created"}}

    def document(self, documents, id):
        return {"_id": id, "found": id in documents} | ({"_source": documents[id]} if id in documents else {})

    def retriever(self, index):
        """Ours, with the options of the index."""
        settings = self.indexes[index]["body"]["settings"]
        similarity = settings["index"]["similarity"]["bm25"]
        filters = settings["analysis"]["filter"]
        retriever = BM25Retriever(
            "lucene",
            similarity["k1"],
            similarity["b"],
            "en" if filters.get("stopwords", {}).get("stopwords") == "_english_" else None,
            "en" if filters.get("stemming", {}).get("language") == "english" else None,
        )
        documents = self.indexes[index]["documents"]
        return retriever.build(Document(id, d["text"], d["title"]) for id, d in documents.items())

    def hits(self, index, query):
        text = query["query"]["match"]["searched"]["query"]
        if "unparsable" in text:
            return self.error(400, "search_phase_execution_exception", "too many clauses")[1]
        with gathered_empty():
            found = self.retriever(index).search(text, query["size"])["0"]
        return {"status": 200, "hits": {"hits": [{"_id": id, "_score": score} for id, score in found.items()]}}

    def explanation(self, index, id, body):
        if id not in self.indexes[index]["documents"]:
            return 404, {"_index": index, "_id": id, "matched": False}
        parts = self.retriever(index).explain(body["query"]["match"]["searched"]["query"], id)
        details = [
            {
                "value": value,
                "description": f"weight(searched:{term} in 3) [PerFieldSimilarity], result of:",
                "details": [{"value": value, "description": "score(freq=1.0), computed as boost * idf * tf from:"}],
            }
            for term, value in parts.items()
        ]
        if not details:
            tree = {"value": 0.0, "description": "No matching clauses", "details": []}
        else:
            total = {"value": sum(parts.values()), "description": "sum of:", "details": details}
            tree = details[0] if len(details) == 1 else total
        return 200, {"_index": index, "_id": id, "matched": bool(details), "explanation": tree}

    def error(self, status, kind, reason):
        cause = {"type": kind, "reason": reason}
        return status, {"error": {"root_cause": [cause], **cause}, "status": status}

    def behind(self, alias):
        """The only index that an alias stands for."""
        (index,) = self.aliases[alias]
        assert re.fullmatch(re.escape(alias) + "-[0-9a-f]{32}", index)
        return index
