"""What a compression method is: a plan of replacements, a layer at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fullrank.compress.layers import LINEAR, Layer
from fullrank.compress.statistics import SampleLosses


@dataclass(frozen=True)
class Job:
    """One compression.

    Attributes:
        model: the copy that changes; layers that were replaced already are in it.
        layers: what to compress, dense, in the model's order.
        batches: calibration data, or None.
        sample_losses: see `collect_statistics`, or None.
        progress: called with (layers done, layers in all, text).
    """

    model: nn.Module
    layers: Sequence[Layer]
    batches: Iterable[Any] | None = None
    sample_losses: SampleLosses | None = None
    progress: Callable[[int, int, str], None] = lambda done, total, text: None

    def need_batches(self, method: str, example: str) -> Iterable[Any]:
        """The calibration data.

        Raises:
            ValueError: there are none.
        """
        if self.batches is None:
            raise ValueError(f"method {method!r} needs data: {example}")
        return self.batches


@dataclass(frozen=True)
class Replaced:
    """What takes a layer's place.

    Attributes:
        module: a new module, or the dense one where it stays.
        rank: its rank, where it has one.
        loss: its error in the method's measure of loss, or None.
        reason: why the layer stays dense; "" where it does not.
        weighted_error: the root of `loss`'s share of what the measure gives the dense weight, or None.
        dead_inputs: directions of the inputs that the data never take, and that weigh nothing.
    """

    module: nn.Module
    rank: int | None = None
    loss: float | None = None
    reason: str = ""
    weighted_error: float | None = None
    dead_inputs: int = 0


#: A layer's turn: the layer, and what computes its replacement.
Step = tuple[Layer, Callable[[], Replaced]]


class Method(ABC):
    """A way to make layers smaller.

    A subclass says which layers it can treat and plans their replacement. `steps` may look at all of them first, to
    gather statistics or to share a budget; each step is computed when its turn comes, with the earlier ones in place.

    Attributes:
        name: as in `compress(model, name)`.
        kinds: types of layers that can be treated.
        targets: the layers that are treated where none are asked for; see `select_layers`.
        grouped: whether convolutions with groups can be treated.
    """

    name: str
    kinds: ClassVar[tuple[type[nn.Module], ...]] = LINEAR
    targets: ClassVar[str] = "all-linear"
    grouped: ClassVar[bool] = False

    @abstractmethod
    def steps(self, job: Job) -> Iterator[Step]:
        """The layers' turns, in order."""

    @abstractmethod
    def options(self) -> dict[str, Any]:
        """What the method was made with, JSON-like."""


def relative_error(dense: Tensor, product: Tensor) -> float:
    """||W - W'|| / ||W|| in the Frobenius norm; 0 for a zero weight that stayed zero."""
    norm = torch.linalg.matrix_norm(dense.to(torch.float64))
    difference = torch.linalg.matrix_norm(dense.to(torch.float64) - product.to(torch.float64))
    return float(difference / norm) if norm > 0 else float(difference)
