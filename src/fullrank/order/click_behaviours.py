"""How users look through a ranked list: what is examined at a rank, given the clicks above it.

A click at rank k is an examined rank and an attractive document: P(c_k = 1 | clicks above) = e_k a_k. Behaviours differ
in e_k alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Shaped


class Behaviour(ABC):
    """What is examined, rank after rank; ranks count from 0."""

    @abstractmethod
    def start(self, lists: int) -> Any:
        """What is known of the users before the first rank."""

    @abstractmethod
    def examination(self, rank: int, state: Any) -> Float[np.ndarray, " lists"]:
        """e_k, given the clicks above."""

    @abstractmethod
    def after(self, rank: int, state: Any, attraction: np.ndarray, clicked: np.ndarray) -> Any:
        """What is known once the click or skip at `rank` has been seen."""

    @abstractmethod
    def unconditional(self, attraction: Float[np.ndarray, "lists ranks"]) -> Float[np.ndarray, "lists ranks"]:
        """e_k, whatever the clicks above."""

    def given(
        self, attraction: Float[np.ndarray, "lists ranks"], clicks: Shaped[np.ndarray, "lists ranks"]
    ) -> Float[np.ndarray, "lists ranks"]:
        """e_k, given the clicks above it that were observed."""
        return self._walk(attraction, lambda rank, _: clicks[:, rank].astype(bool))[1]

    def draw(
        self, attraction: Float[np.ndarray, "lists ranks"], uniforms: Float[np.ndarray, "lists ranks"]
    ) -> tuple[Bool[np.ndarray, "lists ranks"], Float[np.ndarray, "lists ranks"]]:
        """Clicks, where a uniform number in [0, 1) is below e_k a_k, and the examination given those above."""
        return self._walk(attraction, lambda rank, click: uniforms[:, rank] < click)

    def _walk(
        self, attraction: np.ndarray, choose: Callable[[int, np.ndarray], np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Clicks and examination, where `choose(rank, probability of a click)` tells what is clicked."""
        ranks, lists = attraction.T.shape
        clicks, examination = np.zeros((ranks, lists), dtype=bool), np.zeros((ranks, lists))
        state = self.start(lists)
        for rank, a in enumerate(np.ascontiguousarray(attraction.T)):
            examination[rank] = self.examination(rank, state)
            clicks[rank] = choose(rank, examination[rank] * a)
            state = self.after(rank, state, a, clicks[rank])
        return np.ascontiguousarray(clicks.T), np.ascontiguousarray(examination.T)


class ByPosition(Behaviour):
    """Every rank has a probability of its own, whatever is clicked.

    Args:
        table: e_k; later ranks as the last.
    """

    def __init__(self, table: Float[np.ndarray, " ranks"]) -> None:
        self.table = table

    def by_rank(self, ranks: int) -> Float[np.ndarray, " ranks"]:
        """e_k of the first ranks."""
        return self.table[np.minimum(np.arange(ranks), len(self.table) - 1)]

    def start(self, lists: int) -> int:
        """Nothing but how many there are."""
        return lists

    def examination(self, rank: int, state: int) -> Float[np.ndarray, " lists"]:
        """e_k."""
        return np.full(state, self.table[min(rank, len(self.table) - 1)])

    def after(self, rank: int, state: int, attraction: np.ndarray, clicked: np.ndarray) -> int:
        """Clicks tell nothing."""
        return state

    def unconditional(self, attraction: Float[np.ndarray, "lists ranks"]) -> Float[np.ndarray, "lists ranks"]:
        """e_k."""
        return np.broadcast_to(self.by_rank(attraction.shape[1]), attraction.shape)


class ByLastClick(Behaviour):
    """A probability by rank and distance to the last click: table[k, k - last - 1], table[k, k] where there is none.

    Args:
        table: (ranks, ranks), used on and below the diagonal. Later ranks take the last row; distances that it lacks,
            the longest that it has.
    """

    def __init__(self, table: Float[np.ndarray, "ranks ranks"]) -> None:
        self.table = table

    def cells(self, rank: int, last: np.ndarray) -> tuple[int, np.ndarray]:
        """Row and columns of the table, for the places of the last clicks; -1 where there is none."""
        row = min(rank, len(self.table) - 1)
        longest = row if rank == row else row - 1  # the last column is that of lists without a click
        return row, np.where(last < 0, row, np.minimum(rank - last - 1, max(longest, 0)))

    def start(self, lists: int) -> np.ndarray:
        """No click so far."""
        return np.full(lists, -1)

    def examination(self, rank: int, state: np.ndarray) -> Float[np.ndarray, " lists"]:
        """By the distance to the last click."""
        row, columns = self.cells(rank, state)
        return self.table[row, columns]

    def after(self, rank: int, state: np.ndarray, attraction: np.ndarray, clicked: np.ndarray) -> np.ndarray:
        """Where the last click is."""
        return np.where(clicked, rank, state)

    def unconditional(self, attraction: Float[np.ndarray, "lists ranks"]) -> Float[np.ndarray, "lists ranks"]:
        """Mean over where the last click may be: P(last = k) = sum_j P(last = j) e_kj a_k, and the others without."""
        lists, ranks = attraction.shape
        examination = np.zeros((lists, ranks))
        last = np.zeros((lists, ranks + 1))  # [:, j + 1]: probability that it is at j
        last[:, 0] = 1
        for rank in range(ranks):
            row, columns = self.cells(rank, np.arange(-1, rank))
            looked = last[:, : rank + 1] * self.table[row, columns]
            examination[:, rank] = looked.sum(1)
            clicked = looked * attraction[:, rank, None]
            last[:, : rank + 1] -= clicked
            last[:, rank + 1] = clicked.sum(1)
        return examination


class TopDown(Behaviour):
    """From the top rank after rank, until the user stops.

    Args:
        after_click: probability to go on below a click, (lists, ranks) or (ranks,).
        after_skip: probability to go on below an examined rank without a click.
    """

    def __init__(self, after_click: Float[np.ndarray, "*lists ranks"], after_skip: float) -> None:
        self.after_click, self.after_skip = after_click, after_skip

    def start(self, lists: int) -> np.ndarray:
        """The first rank is examined."""
        return np.ones(lists)

    def examination(self, rank: int, state: np.ndarray) -> Float[np.ndarray, " lists"]:
        """Probability that the user has come down to here."""
        return state

    def after(self, rank: int, state: np.ndarray, attraction: np.ndarray, clicked: np.ndarray) -> np.ndarray:
        """A click shows that the rank was examined; a skip makes it less probable: e (1 - a) / (1 - e a)."""
        skip = 1 - state * attraction
        examined = np.divide(state * (1 - attraction), skip, out=np.zeros_like(skip), where=skip > 0)
        return np.where(clicked, self.after_click[..., rank], self.after_skip * examined)

    def unconditional(self, attraction: Float[np.ndarray, "lists ranks"]) -> Float[np.ndarray, "lists ranks"]:
        """e_{k+1} = e_k [a_k after_click + (1 - a_k) after_skip]."""
        onwards = attraction * self.after_click + (1 - attraction) * self.after_skip
        examination = np.ones_like(attraction)
        examination[:, 1:] = np.cumprod(onwards[:, :-1], axis=1)
        return examination
