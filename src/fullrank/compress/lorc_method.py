"""LoRC as a method of compression: every layer in turn, after a plan that is checked before any work is done."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor

from fullrank.compress.calibration import LayerInputs
from fullrank.compress.gptq import gptq_quantize
from fullrank.compress.layers import LINEAR, Layer
from fullrank.compress.lorc import Compensated, LoRCConfig, compensate, input_scale
from fullrank.compress.method import Job, Method, Replaced, Step
from fullrank.compress.quantization import QuantizedWeight, wide
from fullrank.compress.quantized_linear import QuantizedLinear
from fullrank.compress.statistics import LayerStatistics
from fullrank.compress.zeroquant_local import zeroquant_local_quantize
from fullrank.linalg import require_finite

_NEEDS_DATA = (
    "give calibration data as the model is called with, such as data=[batch, ...]; 128 sequences of 2048 tokens are "
    "typical"
)


class LoRCMethod(Method):
    """Quantise every linear layer and keep the leading directions of the error beside it.

    Args:
        config: see `LoRCConfig`; its `target_modules` and `exclude_modules` are those of `quantize_lorc` only.
        name: as reports call the method.
        options: fields of `LoRCConfig`, over those of `config`.

    Raises:
        ValueError: an unknown option, or one that cannot be.
    """

    name = "lorc"
    kinds = LINEAR

    def __init__(self, config: LoRCConfig | None = None, name: str = "lorc", **options: Any) -> None:
        known = LoRCConfig.__dataclass_fields__
        if unknown := sorted(set(options) - set(known)):
            raise ValueError(f"method {name!r} has no option {unknown[0]!r}; it has {', '.join(known)}")
        self.config = replace(config or LoRCConfig(), **options)
        self.name = name

    def steps(self, job: Job) -> Iterator[Step]:
        """Every layer in turn; those that look at data see what the compensated layers before them give."""
        for layer in job.layers:  # before any work is done
            self._check(layer)
        inputs = None
        if self.config.needs_data:
            inputs = LayerInputs(job.model, job.need_batches(self.name, _NEEDS_DATA), job.layers)
        for layer in job.layers:
            yield layer, partial(self._replace, layer, inputs)

    def options(self) -> dict[str, Any]:
        """The configuration, without the layers' names."""
        return {name: value for name, value in self.config.to_dict().items() if not name.endswith("_modules")}

    def _check(self, layer: Layer) -> None:
        inputs, rank = layer.shape[1], self.config.rank_of(layer.name)
        self.config.grid_of(layer.name).group_of(inputs, layer.name)
        if rank > min(layer.shape):
            raise ValueError(
                f"{layer.name}: rank={rank} does not fit its shape {layer.shape}: 0 to {min(layer.shape)} is accepted"
            )

    def _replace(self, layer: Layer, inputs: LayerInputs | None) -> Replaced:
        statistics = None if inputs is None else inputs.of(layer)
        if inputs is not None and statistics is None:
            return Replaced(layer.module, reason="the calibration data do not reach it")
        made = compensated(layer, self.config, statistics)
        linear = layer.as_linear()
        module = QuantizedLinear.from_linear(linear, made.quantized, made.factors, self.config.activations)
        original = 8 * linear.weight.element_size()
        if module.bits_per_weight >= original:
            warnings.warn(
                f"{layer.name}: codes, scales and factors take {module.bits_per_weight:.2f} bits a weight, which had "
                f"{original}: factors of rank {made.factors.rank} cost more than quantising saves: take fewer",
                stacklevel=2,
            )
        E = wide(layer.matrix) - module.dequantize()
        moments = None if statistics is None else statistics.moments
        return Replaced(module, made.factors.rank, output_error(E, moments), dead_inputs=made.dead_inputs)


def compensated(layer: Layer, config: LoRCConfig, statistics: LayerStatistics | None = None) -> Compensated:
    """A layer's weight, quantised and compensated as a configuration says.

    Raises:
        ValueError: data are needed and missing, or the weight is not finite.
    """
    name, grid, rank = layer.name, config.grid_of(layer.name), config.rank_of(layer.name)
    require_finite(layer.matrix, name)
    if config.needs_data and statistics is None:
        raise ValueError(f"{name}: quantizer={config.quantizer!r}, scaling={config.scaling!r}: {_NEEDS_DATA}")
    moments = None if statistics is None else statistics.moments

    def quantize(weight: Tensor) -> QuantizedWeight:
        if config.quantizer == "rtn":
            return grid.quantize(weight, name)
        assert moments is not None
        assert statistics is not None
        if config.quantizer == "gptq":
            return gptq_quantize(weight, 2 * moments, grid, name=name, tokens=statistics.positions)
        return zeroquant_local_quantize(weight, moments, grid, name=name)

    scale = input_scale(config.scaling, statistics) if rank else None
    return compensate(
        layer.matrix,
        quantize,
        rank,
        scale,
        lowrank_dtype=config.lowrank_dtype,
        iterations=config.iterations,
        svd=config.svd,
        name=name,
    )


def output_error(error: Tensor, moments: Tensor | None) -> float:
    """E ||error x||^2 from the moments of x; ||error||^2 without them."""
    if moments is None:
        return float(error.double().square().sum())
    return float(((error @ moments.to(error)) * error).sum())
