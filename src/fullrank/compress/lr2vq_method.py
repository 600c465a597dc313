"""Vector quantisation of low-rank representations as a method of `compress`, without training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

import torch

from fullrank.compress.layers import Layer
from fullrank.compress.lr2vq import quantised_layer
from fullrank.compress.method import Job, Method, Replaced, Step
from fullrank.compress.subvectors import Axis
from fullrank.compress.vq_layers import Projection
from fullrank.compress.vq_plan import QUANTISED, LR2VQConfig


class LR2VQMethod(Method):
    """Truncated SVD of the subvectors, k-means, packed codes, a layer at a time.

    Nothing trains, so a larger d always has the smaller error, and no projection (plain vector quantisation) the
    smallest; d below m pays when the model is trained, see `lr2vq`.

    Args:
        subvector_size, k, dim, axis, projection, k_pattern, codebook_dtype, pad, depthwise, seed: see `LR2VQConfig`.
        starts: k-means runs of a layer, of which the best is taken.
    """

    name = "lr2vq"
    kinds = QUANTISED
    targets = "all"
    grouped = True

    def __init__(
        self,
        subvector_size: Mapping[str, int] | int | None = None,
        k: int = 256,
        dim: int | float = 0.5,
        axis: Axis = "in",
        projection: Projection = "layer",
        k_pattern: Mapping[str, int] | None = None,
        codebook_dtype: str = "float16",
        pad: bool = False,
        depthwise: bool = False,
        starts: int = 1,
        seed: int = 0,
    ) -> None:
        sizes: dict[str, Any] = {} if subvector_size is None else {"subvector_size": subvector_size}
        self.config = LR2VQConfig(
            **sizes, k=k, dim=dim, axis=axis, assign="fixed", projection=projection, k_pattern=k_pattern or {},
            codebook_dtype=codebook_dtype, pad=pad, depthwise=depthwise, seed=seed,
        )  # fmt: skip
        self.starts = starts

    def steps(self, job: Job) -> Iterator[Step]:
        """Layer by layer; one whose length m does not divide stays dense."""
        for layer in job.layers:
            yield layer, partial(self._replace, layer)

    def options(self) -> dict[str, Any]:
        """Those of the config that count here, and starts."""
        unused = ("assign", "tau", "tau_final", "dkm_iters", "skip_modules", "clamp")
        chosen = {name: value for name, value in asdict(self.config).items() if name not in unused}
        return chosen | {"starts": self.starts}

    def _replace(self, layer: Layer) -> Replaced:
        try:
            settings = self.config.settings_of(layer)
        except ValueError as error:
            return Replaced(layer.module, reason=str(error).removeprefix(f"{layer.name}: "))
        if isinstance(settings, str):
            return Replaced(layer.module, reason=settings)
        generator = torch.Generator().manual_seed(self.config.seed)
        made = quantised_layer(layer, settings).cluster(generator, starts=self.starts).harden()
        lost = layer.matrix.double() - made.weight.flatten(1).double()
        return Replaced(made, settings.d, float(lost.square().sum()))
