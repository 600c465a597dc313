"""What a query can match: items and their terms, synthetic or read from a table."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fullrank.search.click_rows import ClickRows, codes_in
from fullrank.search.click_similarity import Item, Term, sort_key

Query = str | int | Sequence[str | int]


class Catalogue(Mapping[Item, frozenset[Term]]):
    """Items with their terms (tags, words of the title, ...), and terms with their items.

    Args:
        terms: item -> its terms.
    """

    def __init__(self, terms: Mapping[Item, Iterable[Term]]) -> None:
        self._terms = {item: frozenset(found) for item, found in terms.items()}
        self._items: dict[Term, list[Item]] = {}
        for item in sorted(self._terms, key=sort_key):
            for term in self._terms[item]:
                self._items.setdefault(term, []).append(item)

    def __getitem__(self, item: Item) -> frozenset[Term]:
        return self._terms[item]

    def __contains__(self, item: object) -> bool:
        return item in self._terms

    def __iter__(self) -> Iterator[Item]:
        return iter(self._terms)

    def __len__(self) -> int:
        return len(self._terms)

    @property
    def terms(self) -> list[Term]:
        """All terms, in order."""
        return sorted(self._items, key=sort_key)

    def items_of(self, term: Term) -> list[Item]:
        """The items that have a term, in order."""
        return self._items.get(term, [])


class Metadata:
    """What a query finds without any click: the items at hand whose terms it names.

    Args:
        catalogue: item -> its terms; None where items have none.
        library: the items at hand; the whole catalogue by default.
        matcher: `matcher(query, item) -> bool` in place of the catalogue's terms.

    Raises:
        ValueError: an item of the library that the catalogue lacks.
    """

    def __init__(
        self,
        catalogue: Mapping[Any, Iterable[Term]] | None = None,
        library: Iterable[Hashable] | None = None,
        matcher: Callable[[Any, Any], bool] | None = None,
    ) -> None:
        self.catalogue = catalogue if catalogue is None or isinstance(catalogue, Catalogue) else Catalogue(catalogue)
        self.library: set[Item] | None = None if library is None else set(library)
        self.matcher = matcher
        if self.catalogue is not None and (strange := (self.library or set()) - self.catalogue.keys()):
            raise ValueError(f"library has {strange.pop()!r}, which is not in the catalogue; add it there")

    def matching(self, query: Query, items: Iterable[Item]) -> set[Item]:
        """The items whose metadata match the query: any of its terms."""
        if self.matcher is not None:
            return {item for item in items if self.matcher(query, item)}
        if self.catalogue is None:
            return set()
        return {item for term in terms_of(query) for item in self.catalogue.items_of(term)}.intersection(items)

    def at_hand(self, query: Query) -> set[Item]:
        """The items of the library that match."""
        return self.matching(query, self.catalogue or () if self.library is None else self.library)

    def unknown(self, rows: ClickRows) -> np.ndarray:
        """Which rows click an item that the catalogue does not have: bool of shape (rows,)."""
        words, items = rows.vocabulary.items.values, rows.columns[2]
        if self.catalogue is None:
            return np.zeros(len(rows), dtype=bool)
        return np.isin(items, [code for code in codes_in(items).tolist() if words[code] not in self.catalogue])


def terms_of(query: Query) -> Sequence[Term]:
    """The terms of a query.

    Raises:
        TypeError: a query that is neither a term nor a list of terms.
    """
    if isinstance(query, str | int | np.integer):
        return (query,)
    if isinstance(query, list | tuple) and all(isinstance(term, str | int | np.integer) for term in query):
        return query
    raise TypeError(f"query={query!r} is {type(query).__name__}; a term (text or number) or a list of terms is needed")


def synthetic_catalogue(
    items: int = 256, tags: int = 39, per_item: int = 3, zipf: float = 0.0, seed: int = 0
) -> Catalogue:
    """Items 0, 1, ... with tags 0, 1, ..., drawn uniformly, or with probability proportional to 1 / (1 + tag)^zipf.

    Raises:
        ValueError: more tags an item than there are.
    """
    if not 1 <= per_item <= tags:
        raise ValueError(f"per_item={per_item} is not accepted; it lies between 1 and tags={tags}")
    rng = np.random.default_rng(seed)
    weight = 1.0 / np.arange(1, tags + 1) ** zipf
    drawn = [rng.choice(tags, per_item, replace=False, p=weight / weight.sum()).tolist() for _ in range(items)]
    return Catalogue(dict(enumerate(drawn)))


def read_catalogue(path: str | Path) -> Catalogue:
    """Items 0, 1, ... with tags from the column "tags" of a CSV file, such as "['house' 'garage']" or "house, garage".

    Raises:
        ValueError: the file has no such column, or no item with a tag.
    """
    path = Path(path)
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file)
        if "tags" not in (rows.fieldnames or ()):
            raise ValueError(f"{path} has the columns {', '.join(rows.fieldnames or ())}; a column tags is needed")
        found: dict[Hashable, list[str]] = {item: re.findall(r"[\w-]+", row["tags"]) for item, row in enumerate(rows)}
    if not any(found.values()):
        raise ValueError(f"{path} has no item with a tag")
    return Catalogue(found)
