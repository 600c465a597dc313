"""Long lists re-ranked by a model that orders a few passages at a time: sliding windows and tournaments."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

from fullrank.search.ordering import OrderReranker
from fullrank.search.run import at_least_one

_DIGITS = re.compile(r"\d+")
_MOST_DIGITS = 9  # longer numbers are out of range anyway
_Home = tuple[int, int]  # round and number of a group


@runtime_checkable
class ListwiseModel(Protocol):
    """Orders a few texts."""

    def order(self, query: str, texts: Sequence[str]) -> Sequence[int]:
        """Places of the texts, best first; those that it leaves out follow in their order."""
        ...


@runtime_checkable
class ListsModel(Protocol):
    """Orders several small lists together."""

    def orders(self, query: str, lists: Sequence[Sequence[str]]) -> Sequence[Sequence[int]]:
        """For every list what `ListwiseModel.order` gives."""
        ...


def parse_order(response: str) -> list[int]:
    """Places that a model named, such as "[2] > [5] > [1]", which count from 0 here and from 1 there.

    Whatever is no digit divides numbers. Repeats, strangers and gaps are kept as they are: see `completed`.
    """
    return [int(digits[:_MOST_DIGITS]) - 1 for digits in _DIGITS.findall(response)]


def parse_permutation(response: str, count: int) -> list[int]:
    """The order that a model wrote: `parse_order`, `completed`. An answer without a number keeps the order.

    Args:
        response: of the model.
        count: how many passages there were.
    """
    return completed(parse_order(response), count)


def completed(order: Sequence[int], count: int) -> list[int]:
    """Places 0 to count - 1, each once: those of an order first, without repeats and strangers."""
    known = [place for place in dict.fromkeys(map(int, order)) if 0 <= place < count]
    return known + sorted(set(range(count)) - set(known))


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


class _ListwiseReranker(OrderReranker):
    """What asks a model for orders, and counts what it was asked and what it gave incompletely."""

    def __init__(self, model: Any) -> None:
        self.model, self._model_orders = model, _lists(model)
        self.calls = self.n_malformed = 0

    def _orders(self, query: str, lists: Sequence[Sequence[str]]) -> list[list[int]]:
        """Whole orders, whatever the model gave."""
        if not lists:
            return []
        given = self._model_orders(query, lists)
        self.calls += len(lists)
        orders = [completed(order, len(texts)) for order, texts in zip(given, lists, strict=True)]
        self.n_malformed += sum(list(map(int, raw)) != order for raw, order in zip(given, orders, strict=True))
        return orders


class SlidingWindowReranker(_ListwiseReranker):
    """Windows slide from the end of the CURRENT order to its front, so that a good passage climbs (Sun et al. 2023).

    Args:
        model: an object with `order(query, texts)`, or such a function.
        window: passages that the model sees at a time.
        step: places that the window moves; a passage needs an overlap of `window - step` to climb on.
        passes: how often over the list.

    Attributes:
        calls: windows that were ordered since this object was made.
        n_malformed: of those, how many got no complete order.

    Raises:
        ValueError: a window below 2, a step below 1 or above the window, or passes below 1.
        TypeError: nothing that orders.
    """

    def __init__(self, model: Any, window: int = 20, step: int = 10, passes: int = 1) -> None:
        if window < 2:
            raise ValueError(f"window={window} is not accepted; at least 2 passages are compared")
        if not 1 <= step <= window:
            raise ValueError(f"step={step} is not accepted; it lies between 1 and window={window}")
        at_least_one(passes, "passes")
        super().__init__(model)
        self.window, self.step, self.passes = window, step, passes

    def order(self, query: str, texts: Sequence[str]) -> list[int]:
        """Places of the texts, best first."""
        current = list(range(len(texts)))
        for _ in range(self.passes):
            for start, end in windows(len(texts), self.window, self.step):
                places = current[start:end]
                order = self._orders(query, [[texts[place] for place in places]])[0]
                current[start:end] = [places[place] for place in order]
        return current


class TournamentReranker(_ListwiseReranker):
    """Groups send their best on until one is first; then the next is sought (ListT5, Yoon et al. 2024).

    After a passage is placed, only the groups on its way are asked again, as in the extraction from a heap. A group
    that is short is filled up with passages of the list, for models that want all of them; they win nothing there.

    Args:
        model: an object with `order(query, texts)`, or such a function; groups of a round go to its
            `orders(query, lists)` together, if it has one.
        group: passages that the model sees at a time.
        winners: how many of a group go on.
        top_k: places that are decided; the rest keeps its order.

    Attributes:
        calls: groups that were ordered since this object was made.
        n_malformed: of those, how many got no complete order.

    Raises:
        ValueError: a group below 2, winners outside [1, group), or top_k below 1.
        TypeError: nothing that orders.
    """

    def __init__(self, model: Any, group: int = 5, winners: int = 2, top_k: int = 10) -> None:
        if group < 2:
            raise ValueError(f"group={group} is not accepted; at least 2 passages are compared")
        if not 1 <= winners < group:
            raise ValueError(f"winners={winners} is not accepted; it lies between 1 and group={group} less 1")
        if top_k < 1:
            raise ValueError(f"top_k={top_k} is not accepted; at least 1 place is decided")
        super().__init__(model)
        self.group, self.winners, self.top_k = group, winners, top_k

    def order(self, query: str, texts: Sequence[str]) -> list[int]:
        """Places of the texts, best first."""
        slots: list[int | None] = list(range(len(texts)))
        known: dict[_Home, list[int]] = {}
        placed: list[int] = []
        while len(placed) < min(self.top_k, len(texts)):
            best = self._champion(query, texts, slots, known)
            slots[best] = None
            placed.append(best)
        return placed + [place for place in slots if place is not None]

    def _champion(
        self, query: str, texts: Sequence[str], slots: list[int | None], known: dict[_Home, list[int]]
    ) -> int:
        """The best of those that are left. Winners of a group always go to the same slots of the next round."""
        level = 0
        while True:
            groups = [slots[start : start + self.group] for start in range(0, len(slots), self.group)]
            members = [[place for place in group if place is not None] for group in groups]
            final = len(groups) == 1
            contested = [n for n, found in enumerate(members) if final or len(found) > self.winners]
            self._settle(query, texts, {(level, n): members[n] for n in contested}, known)
            for n in contested:
                members[n] = [place for place in known[level, n] if place in members[n]]
            if final:
                return members[0][0]
            places = [min(self.winners, len(group)) for group in groups]  # fewer than before, so that a round is last
            best = [found[:count] for found, count in zip(members, places, strict=True)]
            slots = [
                place
                for found, count in zip(best, places, strict=True)
                for place in [*found, *[None] * (count - len(found))]
            ]
            level += 1

    def _settle(
        self, query: str, texts: Sequence[str], homes: dict[_Home, list[int]], known: dict[_Home, list[int]]
    ) -> None:
        """Order the groups that have new members; one that only lost members has the order that it had."""
        new = {home: found for home, found in homes.items() if not set(found) <= set(known.get(home, []))}
        known.update({home: found for home, found in new.items() if len(found) == 1})
        asked = {home: self._filled(found, len(texts)) for home, found in new.items() if len(found) > 1}
        orders = self._orders(query, [[texts[place] for place in places] for places in asked.values()])
        for (home, places), order in zip(asked.items(), orders, strict=True):
            known[home] = [places[place] for place in order if places[place] in homes[home]]

    def _filled(self, members: list[int], count: int) -> list[int]:
        others = [place for place in range(count) if place not in members]
        return members + others[: self.group - len(members)]


def _lists(model: Any) -> Callable[[str, Sequence[Sequence[str]]], Sequence[Sequence[int]]]:
    if isinstance(model, ListsModel):
        return model.orders
    function: Callable[..., Any] = getattr(model, "order", model)
    if not callable(function):
        raise TypeError(
            f"model={model!r} is {type(model).__name__}; an object with order(query, texts), or such a function"
        )
    return lambda query, lists: [function(query, texts) for texts in lists]
