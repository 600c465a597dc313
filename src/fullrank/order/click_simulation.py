"""Clicks on ranked lists, drawn as ULTRA's simulators draw them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Bool, Float, Int

from fullrank.order.click_behaviours import Behaviour, ByLastClick, ByPosition, TopDown

Users = Literal["pbm", "cascade", "ubm"]

#: Examination by rank; later ranks as the last.
PBM_EXAMINATION = (0.68, 0.61, 0.48, 0.34, 0.28, 0.20, 0.11, 0.10, 0.08, 0.06)
#: Examination by rank and distance to the click before (the whole way where there is none).
UBM_EXAMINATION = (
    (1.0,),
    (0.98, 1.0),
    (1.0, 0.62, 0.95),
    (1.0, 0.77, 0.42, 0.82),
    (1.0, 0.92, 0.55, 0.31, 0.69),
    (1.0, 0.96, 0.63, 0.4, 0.22, 0.54),
    (1.0, 0.99, 0.73, 0.46, 0.29, 0.17, 0.47),
    (1.0, 1.0, 0.89, 0.52, 0.35, 0.24, 0.14, 0.43),
    (1.0, 1.0, 0.95, 0.68, 0.4, 0.29, 0.19, 0.12, 0.41),
    (1.0, 1.0, 1.0, 0.96, 0.52, 0.36, 0.27, 0.18, 0.12, 0.43),
)


class SimulatedClicks(NamedTuple):
    """Clicks and what they were drawn from, each (lists, ranks).

    Attributes:
        clicks: 0 or 1.
        examination: probability that the rank was looked at, given the clicks before it.
        attraction: probability of a click on what is looked at.
        weights: inverse propensities, as ULTRA's estimators use them.
    """

    clicks: Int[np.ndarray, "lists ranks"]
    examination: Float[np.ndarray, "lists ranks"]
    attraction: Float[np.ndarray, "lists ranks"]
    weights: Float[np.ndarray, "lists ranks"]


@dataclass(frozen=True)
class ClickSimulator:
    """A user who looks from the top down, and clicks on what attracts.

    P(click | looked at, grade g) = n + (p - n) (2^g - 1) / (2^G - 1), with noise n and p = `certainty`.

    Args:
        behaviour: "pbm" looks at a rank with a probability of its own; "cascade" looks until the first click; "ubm"
            with a probability by rank and distance to the click before.
        eta: exponent of the examination: 0 for a user who looks at everything, 1 for ULTRA's tables.
        noise: n, clicks on what is not relevant.
        certainty: p, clicks on the best.
        top_grade: G; higher grades count as it.

    Raises:
        ValueError: an unknown behaviour, a negative eta, a probability outside [0, 1], or no grade above 0.
    """

    behaviour: Users = "pbm"
    eta: float = 1.0
    noise: float = 0.1
    certainty: float = 1.0
    top_grade: int = 4
    examination_table: tuple[float, ...] | None = field(default=None)

    def __post_init__(self) -> None:
        if self.behaviour not in get_args(Users):
            raise ValueError(f"behaviour={self.behaviour!r} is not known; accepted: {', '.join(get_args(Users))}")
        if self.eta < 0:
            raise ValueError(f"eta={self.eta} is not accepted; it is 0 or more")
        for name, value in (("noise", self.noise), ("certainty", self.certainty)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name}={value} is not accepted; it is a probability")
        if self.top_grade < 1:
            raise ValueError(f"top_grade={self.top_grade} is not accepted; at least 1 is needed")

    def attraction(self, grades: Int[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
        """Probability of a click on what is looked at.

        Raises:
            ValueError: a negative grade.
        """
        if (grades < 0).any():
            raise ValueError(f"grades hold {int(grades.min())}; they are 0 or more")
        worth = (np.exp2(np.minimum(grades, self.top_grade)) - 1) / (2**self.top_grade - 1)
        return self.noise + (self.certainty - self.noise) * worth

    def propensities(self, ranks: int) -> Float[np.ndarray, " ranks"]:
        """Examination of the first ranks under "pbm", which does not depend on clicks.

        Raises:
            ValueError: another behaviour, whose examination depends on the clicks before.
        """
        if self.behaviour != "pbm":
            raise ValueError(f"behaviour={self.behaviour!r} has no propensity by rank alone; 'pbm' has")
        return ByPosition(np.array(self.examination_table or PBM_EXAMINATION) ** self.eta).by_rank(ranks)

    def simulate(
        self,
        grades: Int[np.ndarray, "lists ranks"],
        rng: np.random.Generator | None = None,
        uniforms: Float[np.ndarray, "lists ranks"] | None = None,
    ) -> SimulatedClicks:
        """Clicks on lists: a click where a uniform number is below examination times attraction.

        Args:
            grades: of the documents, in the order in which they are shown.
            rng: of the uniform numbers.
            uniforms: those numbers themselves, in [0, 1).
        """
        if uniforms is None:
            uniforms = (rng or np.random.default_rng()).random(grades.shape)
        attraction = self.attraction(grades)
        clicks, examination = self.users(grades.shape[1]).draw(attraction, uniforms)
        return SimulatedClicks(clicks.astype(np.int64), examination, attraction, self._weights(examination))

    def users(self, ranks: int) -> Behaviour:
        """How they look through lists of so many ranks."""
        if self.behaviour == "pbm":
            return ByPosition(self.propensities(ranks))
        if self.behaviour == "cascade":
            return TopDown(np.zeros(ranks), after_skip=1.0)
        size = len(UBM_EXAMINATION)
        table = np.array([row + (0.0,) * (size - len(row)) for row in UBM_EXAMINATION])
        return ByLastClick(table**self.eta)

    def _weights(self, examination: np.ndarray) -> np.ndarray:
        if self.behaviour == "pbm":
            return examination[:, :1] / examination
        if self.behaviour == "cascade":
            return np.ones_like(examination)
        return 1 / np.maximum(examination, 1e-12)


def simulate_clicks(
    grades: Int[np.ndarray, "lists ranks"],
    behaviour: Users = "pbm",
    eta: float = 1.0,
    noise: float = 0.1,
    top_grade: int = 4,
    rng: np.random.Generator | None = None,
    mask: Bool[np.ndarray, "lists ranks"] | None = None,
) -> Int[np.ndarray, "lists ranks"]:
    """Clicks on ranked lists; see `ClickSimulator`.

    Args:
        grades: of the documents as shown, 0 to `top_grade`.
        behaviour: see `ClickSimulator`.
        eta: see `ClickSimulator`.
        noise: see `ClickSimulator`.
        top_grade: see `ClickSimulator`.
        rng: of the draws.
        mask: False where a list has no document; nothing is clicked there.
    """
    simulator = ClickSimulator(behaviour, eta, noise, top_grade=top_grade)
    clicks = simulator.simulate(grades if mask is None else np.where(mask, grades, 0), rng).clicks
    return clicks if mask is None else clicks * mask
