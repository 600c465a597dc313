"""Long lists re-ranked by a model that orders a few passages at a time: sliding windows and tournaments."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

from fullrank.search.protocols import Document, Ranking

_DIGITS = re.compile(r"\d+")
_Orders = dict[tuple[int, int], list[int]]  # round and number of a group -> its passages, best first


@runtime_checkable
class ListwiseModel(Protocol):
    """Orders a few texts."""

    def order(self, query: str, texts: Sequence[str]) -> Sequence[int]:
        """Places of the texts, best first; those that it leaves out follow in their order."""
        ...


def parse_permutation(response: str, count: int) -> list[int]:
    """The order that a model wrote, such as "[2] > [5] > [1]".

    Numbers count from 1; whatever is no digit divides them, repeats and numbers out of range are dropped, and places
    that are missing follow in their old order. An answer without a number keeps the order.

    Args:
        response: of the model.
        count: how many passages there were.
    """
    return completed([int(digits) - 1 for digits in _DIGITS.findall(response)], count)


def completed(order: Sequence[int], count: int) -> list[int]:
    """Places 0 to count - 1, each once: those of an order first, without repeats and strangers."""
    known = [place for place in dict.fromkeys(map(int, order)) if 0 <= place < count]
    return known + [place for place in range(count) if place not in set(known)]


def windows(count: int, window: int, step: int) -> list[tuple[int, int]]:
    """Windows (start, end) from the end of a list to its front; the last one starts at 0.

    Args:
        count: passages in the list.
        window: passages in a window.
        step: places from one window to the next.
    """
    found: list[tuple[int, int]] = []
    end = count
    while count:
        start = max(0, end - window)
        found.append((start, end))
        if start == 0:
            break
        end -= step
    return found


class SlidingWindowReranker:
    """Windows slide from the end of the CURRENT order to its front, so that a good passage climbs (Sun et al. 2023).

    Args:
        model: an object with `order(query, texts)`, or such a function.
        window: passages that the model sees at a time.
        step: places that the window moves; a passage needs an overlap of `window - step` to climb on.
        passes: how often over the list.

    Attributes:
        calls: of the model, since this object was made.
        n_malformed: of those, how many gave no complete order.

    Raises:
        ValueError: a window below 2, a step below 1 or above the window, or passes below 1.
    """

    def __init__(self, model: Any, window: int = 20, step: int = 10, passes: int = 1) -> None:
        if window < 2:
            raise ValueError(f"window={window} is not accepted; at least 2 passages are compared")
        if not 1 <= step <= window:
            raise ValueError(f"step={step} is not accepted; it lies between 1 and window={window}")
        if passes < 1:
            raise ValueError(f"passes={passes} is not accepted; at least 1 is needed")
        self._order = listwise(model)
        self.window, self.step, self.passes = window, step, passes
        self.calls = self.n_malformed = 0

    def order(self, query: str, texts: Sequence[str]) -> list[int]:
        """Places of the texts, best first."""
        current = list(range(len(texts)))
        for _ in range(self.passes):
            for start, end in windows(len(texts), self.window, self.step):
                places = current[start:end]
                given = list(self._order(query, [texts[place] for place in places]))
                self.calls += 1
                order = completed(given, len(places))
                self.n_malformed += order != [int(place) for place in given]
                current[start:end] = [places[place] for place in order]
        return current

    def rerank(self, query: str, documents: Sequence[Document]) -> Ranking:
        """See `Reranker.rerank`; scores count down from the number of documents."""
        return in_order(query, documents, self.order(query, [document.searched for document in documents]))


class TournamentReranker:
    """Groups send their best on until one is first; then the next is sought (ListT5, Yoon et al. 2024).

    After a passage is placed, only the groups on its way are asked again, as in the extraction from a heap.

    Args:
        model: an object with `order(query, texts)`, or such a function.
        group: passages that the model sees at a time.
        winners: how many of a group go on.
        top_k: places that are decided; the rest keeps its order.

    Attributes:
        calls: of the model, since this object was made.

    Raises:
        ValueError: a group below 2, winners outside [1, group), or top_k below 1.
    """

    def __init__(self, model: Any, group: int = 5, winners: int = 2, top_k: int = 10) -> None:
        if group < 2:
            raise ValueError(f"group={group} is not accepted; at least 2 passages are compared")
        if not 1 <= winners < group:
            raise ValueError(f"winners={winners} is not accepted; it lies between 1 and group={group} less 1")
        if top_k < 1:
            raise ValueError(f"top_k={top_k} is not accepted; at least 1 place is decided")
        self._order = listwise(model)
        self.group, self.winners, self.top_k = group, winners, top_k
        self.calls = 0

    def order(self, query: str, texts: Sequence[str]) -> list[int]:
        """Places of the texts, best first."""
        slots: list[int | None] = list(range(len(texts)))
        known: _Orders = {}
        placed: list[int] = []
        while len(placed) < min(self.top_k, len(texts)):
            best = self._champion(query, texts, slots, known)
            slots[best] = None
            placed.append(best)
        return placed + [place for place in slots if place is not None]

    def rerank(self, query: str, documents: Sequence[Document]) -> Ranking:
        """See `Reranker.rerank`; scores count down from the number of documents."""
        return in_order(query, documents, self.order(query, [document.searched for document in documents]))

    def _champion(self, query: str, texts: Sequence[str], slots: list[int | None], known: _Orders) -> int:
        """The best of those that are left. Winners of a group always go to the same slots of the next round."""
        level = 0
        while True:
            groups = [slots[start : start + self.group] for start in range(0, len(slots), self.group)]
            final = len(groups) == 1
            following: list[int | None] = []
            for index, group in enumerate(groups):
                members = [place for place in group if place is not None]
                if final or len(members) > self.winners:
                    members = self._ordered(query, texts, members, (level, index), known)
                if final:
                    return members[0]
                best = members[: self.winners]
                following += [*best, *[None] * (self.winners - len(best))]
            slots, level = following, level + 1

    def _ordered(
        self, query: str, texts: Sequence[str], members: list[int], home: tuple[int, int], known: _Orders
    ) -> list[int]:
        """A group in order; one that only lost members has the order that it had."""
        before = known.get(home, [])
        if set(members) <= set(before):
            return [place for place in before if place in members]
        if len(members) > 1:
            self.calls += 1
            order = completed(list(self._order(query, [texts[place] for place in members])), len(members))
            members = [members[place] for place in order]
        known[home] = members
        return members


def listwise(model: Any) -> Callable[[str, Sequence[str]], Sequence[int]]:
    """The `order` of an object, or a function itself.

    Raises:
        TypeError: it is neither.
    """
    if isinstance(model, ListwiseModel):
        return model.order
    if callable(model):
        function: Any = model
        return function
    raise TypeError(
        f"model={model!r} is {type(model).__name__}; an object with order(query, texts), or such a function"
    )


def in_order(query: str, documents: Sequence[Document], order: Sequence[int]) -> Ranking:
    """Documents in an order without scores of its own: they count down from the number of documents."""
    count = len(documents)
    return Ranking(
        query, tuple(documents[place] for place in order), tuple(float(count - place) for place in range(count))
    )
