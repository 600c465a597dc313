"""G-Rank: ranking from the clicks of peers, each in the measure of its likeness to the owner (arXiv 2301.12530).

R_i(k | Q) = sum_j C_kj(Q) (S_i(j) + F): rows of node j with the term Q and a click on k, in the measure of j.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np

from fullrank._files import to_json, write_bytes
from fullrank.search.catalogue import Metadata, Query, terms_of
from fullrank.search.click_log import ClickLog
from fullrank.search.click_rows import ClickRows, Vocabulary, plain_word, read_word
from fullrank.search.click_similarity import ClickCounts, Item, Match, Node, Term, Variant, sort_key
from fullrank.search.protocols import Document, Ranking
from fullrank.search.run import at_least_one

_DIGITS = 9  # sums of the same weights in another order differ behind them: they are ties


class RankedItems(NamedTuple):
    """Items, best first, and their scores."""

    items: list[Any]
    scores: list[float]


class GRank:
    """A ranker that learns from every row that it sees, and trains nothing.

    Args:
        top_k: K, the most frequent terms that are compared.
        isolation: F, weight of every contributor beside its similarity; at 0 only alike ones count.
        variant: "paper" (kappa_t + kappa_m^2) / kappa_u, or "code" (kappa_m + kappa_t^2) / kappa_u.
        match: what kappa_m counts: "items" clicked by both, or "pairs" of term and item.
        metadata_first: items that match the query rank above those that are known by clicks alone.
        noise: probability of swapping two random places of what `rank` gives (exploration).
        node_id: the owner.
        catalogue: item -> its terms (tags, words of the title, ...); what a query can match.
        library: the items at hand, which a query finds without a click; the whole catalogue by default.
        matcher: `matcher(query, item) -> bool` in place of the catalogue's terms.
        max_rows: beyond so many rows the oldest sixteenth is forgotten, rows of others first.
        window: rows older than the owner's newest click by more than this are forgotten and not taken.
        vocabulary: of the log, shared with other rankers in one process.
        seed: of the noise.

    Raises:
        ValueError: top_k or max_rows below 1, isolation or window negative or not finite, noise outside [0, 1], an
            unknown variant or match, or an item of the library that the catalogue lacks.
    """

    def __init__(
        self,
        top_k: int = 10,
        isolation: float | int = 0.0,
        variant: Variant = "paper",
        match: Match = "items",
        metadata_first: bool = True,
        noise: float | int = 0.0,
        node_id: Hashable = 0,
        catalogue: Mapping[Any, Iterable[Term]] | None = None,
        library: Iterable[Hashable] | None = None,
        matcher: Callable[[Any, Any], bool] | None = None,
        max_rows: int | None = None,
        window: int | None = None,
        vocabulary: Vocabulary | None = None,
        seed: int = 0,
    ) -> None:
        at_least_one(top_k, "top_k")
        if not (math.isfinite(isolation) and isolation >= 0):
            raise ValueError(f"isolation={isolation} is not accepted; F is a finite number of at least 0")
        if not 0 <= noise <= 1:
            raise ValueError(f"noise={noise} is not accepted; it is a probability, from 0 to 1")
        if max_rows is not None:
            at_least_one(max_rows, "max_rows")
        if window is not None and window < 0:
            raise ValueError(f"window={window} is not accepted; at least 0, or None for all times")
        for name, value, known in (("variant", variant, get_args(Variant)), ("match", match, get_args(Match))):
            if value not in known:
                raise ValueError(f"{name}={value!r} is not known; accepted: {', '.join(known)}")
        self.top_k, self.isolation, self.metadata_first, self.noise = top_k, isolation, metadata_first, noise
        self.variant: Variant = variant
        self.match: Match = match
        self.node_id, self.max_rows, self.window = node_id, max_rows, window
        self.metadata = Metadata(catalogue, library, matcher)
        self.seed = seed
        self._vocabulary = vocabulary
        self._random = np.random.default_rng(seed)
        self._begin(ClickLog(vocabulary))

    @property
    def n_rows_(self) -> int:
        """Rows in the log."""
        return len(self.log)

    @property
    def known_nodes_(self) -> tuple[Node, ...]:
        """Nodes with a row in the log, and the owner, in order."""
        return tuple(sorted((self._node(code) for code in self._counts.nodes), key=sort_key))

    @property
    def n_conflicts_(self) -> int:
        """Rows that came with the key of another row and other content: a sign of an attack."""
        return self.log.n_conflicts

    def fit(self, entries: ClickLog | ClickRows | Iterable[Any]) -> GRank:
        """Forget everything, then learn from rows; see `partial_fit`."""
        self._begin(ClickLog(self._vocabulary))
        return self.partial_fit(entries)

    def partial_fit(self, entries: ClickLog | ClickRows | Iterable[Any]) -> GRank:
        """Learn from rows; what a peer sends, and what the owner clicks, are the same.

        Args:
            entries: a log, rows of one, or (node, term, item), with the number of the node's query and a time or
                without. A row whose (node, number) is known already is not counted again. A term may be a list of
                terms: the row counts under each, once.

        Raises:
            ValueError: a row of another form, by its place; or an item that the catalogue does not have. Nothing is
                learned then.
        """
        if isinstance(entries, ClickLog):
            entries = entries.rows
        rows = entries if isinstance(entries, ClickRows) else self.log.encode(entries)
        self.check(rows)
        if self.window is not None and len(rows):
            rows = rows.choose(rows.columns[4] >= self._oldest(rows))
        position = self.log.position
        if self.log.merge(rows) == 0:
            return self
        self._count(self.log.since(position), self._counts.add)
        if self.window is not None:
            self._forget(self.log.rows.columns[4] < self._oldest(self.log.rows))
        if self.max_rows is not None and len(self.log) > self.max_rows:
            self.evict(len(self.log) - self.max_rows + self.max_rows // 16)
        return self

    def check(self, rows: ClickRows) -> None:
        """Refuse rows that could not be learned.

        Raises:
            ValueError: a row whose item the catalogue does not have.
        """
        unknown = np.flatnonzero(self.metadata.unknown(rows))
        if len(unknown):
            item = rows.vocabulary.items.values[rows.columns[2, unknown[0]]]
            raise ValueError(f"row {unknown[0]} clicks {item!r}, which is not in the catalogue; add it there")

    def evict(self, count: int) -> GRank:
        """Forget the oldest rows: those of others, and the owner's only when no others are left.

        Raises:
            ValueError: a negative count.
        """
        if count < 0:
            raise ValueError(f"count={count} is not accepted; a number of rows to forget, from 0")
        own = self.log.rows.columns[0] == self._owner
        oldest = np.argsort(own, kind="stable")[:count]
        chosen = np.zeros(len(own), dtype=bool)
        chosen[oldest] = True
        return self._forget(chosen)

    def similarity(self, node: Node | None = None) -> Any:
        """S of a node, or of every known node, normalised by the largest: between 0 and 1.

        Raises:
            LookupError: the node has no row in the log.
        """
        found = {self._node(code): float(self._weights()[code]) for code in self._counts.nodes}
        if node is None:
            return found
        self._known(node, found)
        return found[node]

    def weights(self) -> np.ndarray:
        """S + F of every node, by the code of the node in the log's vocabulary: (nodes,)."""
        return self._weights() + self.isolation

    def raw_similarity(self, node: Node) -> float:
        """S of a node before it is normalised.

        Raises:
            LookupError: the node has no row in the log.
        """
        found = {self._node(code): code for code in self._counts.nodes}
        self._known(node, found)
        return float(self._counts.raw()[found[node]])

    def score(self, query: Query, items: Sequence[Item] | None = None) -> dict[Item, float]:
        """R of the given items, or of all that have one; a query of several terms has the sum of theirs.

        Raises:
            TypeError: a query that is neither a term nor a list of terms.
        """
        words = self.log.vocabulary.items
        total = np.zeros(len(words))
        weights = self.weights()
        for code in self._codes(query):
            clicks = self._counts.clicks(code)
            if clicks is not None:
                nodes, found, counts = clicks.columns()
                total += np.bincount(found, weights[nodes] * counts, minlength=len(words))
        if items is None:
            return {words.values[code]: float(total[code]) for code in np.flatnonzero(total)}
        codes = [words.find(item) for item in items]
        return {
            item: 0.0 if code is None else float(total[code]) for item, code in zip(items, codes, strict=True)
        }  # fmt: skip

    def rank(self, query: Query, k: int | None = None) -> RankedItems:
        """Items, best first; ties by item.

        Items that match the query come first, clicked or not. A query without a click that counts finds the matching
        items of the library, then clicked items that match, most clicked first; if nothing matches, the most clicked
        items of the log. Their scores are 0.

        Args:
            query: a term, or a list of terms.
            k: how many at most.

        Raises:
            TypeError: a query that is neither a term nor a list of terms.
            ValueError: k below 1.
        """
        if k is not None:
            at_least_one(k)
        scores = self.score(query)
        order = self._by_score(query, scores) if scores else self._unseen(query)
        if self.noise and len(order) > 1 and self._random.random() < self.noise:
            one, other = self._random.choice(len(order), 2, replace=False)
            order[one], order[other] = order[other], order[one]
        order = order[:k]
        return RankedItems(order, [scores.get(item, 0.0) for item in order])

    def order(self, query: Query, items: Sequence[Item]) -> list[int]:
        """Places of the given items, best first; equal ones keep their order."""
        scores = self.score(query, items)
        first = self._first(query, items)
        keys = [(item not in first, -round(scores[item], _DIGITS)) for item in items]
        return sorted(range(len(items)), key=keys.__getitem__)

    def rerank(self, query: str, documents: Sequence[Document]) -> Ranking:
        """The documents in the order of the clicks on their ids; see `Reranker.rerank`.

        The query's words are its terms: learn a click by `partial_fit([(node, query.lower().split(), document.id)])`.
        """
        terms = query.lower().split()
        ids = [document.id for document in documents]
        scores = self.score(terms, ids)
        order = self.order(terms, ids)
        return Ranking(query, tuple(documents[i] for i in order), tuple(scores[ids[i]] for i in order))

    def explain(self, query: Query, item: Item) -> dict[Node, float]:
        """What each node contributes to an item's score; they sum to it."""
        code, found = self.log.vocabulary.items.find(item), {}
        weights = self.weights()
        for term in self._codes(query):
            clicks = self._counts.clicks(term)
            if clicks is None or code is None:
                continue
            nodes, items, counts = clicks.columns()
            for node, count in zip(nodes[items == code].tolist(), counts[items == code].tolist(), strict=True):
                if weights[node] > 0:
                    name = self._node(node)
                    found[name] = found.get(name, 0.0) + count * float(weights[node])
        return found

    def save(self, path: str | Path) -> Path:
        """Write log, library and options as .npz without pickles, atomically; `load` is given catalogue and matcher.

        Raises:
            TypeError: a node, term or item that is neither text nor a whole number.
        """
        library = self.metadata.library
        about = {
            "options": {name: getattr(self, name) for name in _OPTIONS} | {"node_id": plain_word(self.node_id)},
            "library": None if library is None else [plain_word(item) for item in sorted(library, key=sort_key)],
            "forgotten": [(plain_word(node), number) for node, number in self.log.forgotten.items()],
            "next": self.log.next_number(self.node_id),
            "conflicts": self.log.n_conflicts,
        }
        buffer = io.BytesIO()
        parts = {"about": to_json(about, None).encode(), "rows": self.log.to_bytes()}
        np.savez(buffer, **{name: np.frombuffer(part, dtype=np.uint8) for name, part in parts.items()})  # pyright: ignore[reportArgumentType]
        return write_bytes(Path(path), buffer.getvalue())

    @classmethod
    def load(
        cls,
        path: str | Path,
        catalogue: Mapping[Any, Iterable[Term]] | None = None,
        matcher: Callable[[Any, Any], bool] | None = None,
        vocabulary: Vocabulary | None = None,
    ) -> GRank:
        """Read what `save` wrote.

        Raises:
            ValueError: the file is damaged.
        """
        try:
            with np.load(io.BytesIO(Path(path).read_bytes()), allow_pickle=False) as parts:
                about = json.loads(parts["about"].tobytes())
                rows = ClickRows.from_bytes(parts["rows"].tobytes())
            library = about["library"]
            ranker = cls(
                **about["options"] | {"node_id": read_word(about["options"]["node_id"])},
                catalogue=catalogue,
                matcher=matcher,
                library=None if library is None else [read_word(item) for item in library],
                vocabulary=vocabulary,
            )
            ranker.partial_fit(rows)
            forgotten = [(read_word(node), number) for node, number in about["forgotten"]]
            for node, number in [*forgotten, (ranker.node_id, 0)]:
                ranker.log.forget_before(node, number)
            ranker.log.reserve(ranker.node_id, about["next"])
            ranker.log.n_conflicts = int(about["conflicts"])
        except (ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path} is damaged, or no saved GRank: {error}") from error
        return ranker

    def _begin(self, log: ClickLog) -> None:
        """Count a log from scratch."""
        self.log = log
        self._owner = log.vocabulary.nodes.code(self.node_id)
        self._counts = ClickCounts(self._owner, self.top_k, self.variant, self.match, log.vocabulary.terms)
        self._similarities: np.ndarray | None = None
        self._count(log.rows, self._counts.add)

    def _count(self, rows: ClickRows, count: Callable[[int, int, int], None]) -> None:
        """Count rows, or take them back, under each of their terms."""
        terms = self.log.vocabulary.terms
        codes = rows.columns[:3].T.tolist()
        several = {
            term: [terms.code(single) for single in dict.fromkeys(value)]
            for term in {row[1] for row in codes}
            if isinstance(value := terms.values[term], tuple)
        }
        for node, term, item in codes:
            for single in several.get(term, (term,)):
                count(node, single, item)
        self._similarities = None

    def _forget(self, chosen: np.ndarray) -> GRank:
        if not chosen.any():
            return self
        self._count(self.log.forget(chosen), self._counts.remove)
        if self._vocabulary is None and sum(map(len, self.log.vocabulary)) > 4 * len(self.log) + 1000:
            self._begin(self.log.with_own_words())  # else names that nobody uses would fill the memory
        return self

    def _oldest(self, rows: ClickRows) -> int:
        """The time before which rows are not kept: by the owner's clock, which nobody else can turn."""
        newest = [-(2**31)]
        for known in (self.log.rows, rows):
            owner = known.vocabulary.nodes.find(self.node_id)
            if owner is not None:
                newest += known.columns[4][known.columns[0] == owner].tolist()
        return max(newest) - (self.window or 0)

    def _weights(self) -> np.ndarray:
        """S by the code of the node."""
        if self._similarities is not None:
            return self._similarities
        raw = self._counts.raw()
        largest = raw.max()
        self._similarities = found = raw / largest if largest > 0 else raw
        return found

    def _first(self, query: Query, items: Iterable[Item]) -> set[Item]:
        """The items that rank above the others."""
        return self.metadata.matching(query, items) if self.metadata_first else set()

    def _by_score(self, query: Query, scores: Mapping[Item, float]) -> list[Item]:
        at_hand = self.metadata.at_hand(query)
        first = self._first(query, scores.keys() | at_hand)
        return sorted(
            scores.keys() | at_hand,
            key=lambda item: (
                self.metadata_first and item not in first,
                -round(scores.get(item, 0.0), _DIGITS),
                sort_key(item),
            ),
        )

    def _unseen(self, query: Query) -> list[Item]:
        at_hand = sorted(self.metadata.at_hand(query), key=sort_key)
        clicked = self._most_clicked()
        matching = self.metadata.matching(query, clicked).difference(at_hand)
        return [*at_hand, *(item for item in clicked if item in matching)] or clicked

    def _most_clicked(self) -> list[Item]:
        counts = np.bincount(self.log.rows.columns[2]) if len(self.log) else np.zeros(0, dtype=int)
        words = self.log.vocabulary.items.values
        return [words[code] for code in sorted(np.flatnonzero(counts), key=lambda c: (-counts[c], sort_key(words[c])))]

    def _codes(self, query: Query) -> list[int]:
        found = (self.log.vocabulary.terms.find(term) for term in terms_of(query))
        return [code for code in found if code is not None]

    def _node(self, code: int) -> Node:
        return self.log.vocabulary.nodes.values[code]

    def _known(self, node: Node, known: Mapping[Node, Any]) -> None:
        if node not in known:
            names = ", ".join(map(repr, self.known_nodes_[:10]))
            raise LookupError(f"node {node!r} has no row in the log; known are {names}")


_OPTIONS = (
    "top_k", "isolation", "variant", "match", "metadata_first", "noise", "node_id", "max_rows", "window", "seed",
)  # fmt: skip
