"""How much every layer of a model loses when it is quantised, and how much of that a thin matrix holds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from fullrank._saving import save
from fullrank.compress.calibration import LayerInputs
from fullrank.compress.layers import LINEAR, Layer, select_layers
from fullrank.compress.lorc import LoRCConfig
from fullrank.compress.lorc_method import compensated, output_error
from fullrank.compress.lorc_model import refuse_quantized
from fullrank.compress.quantization import wide
from fullrank.compress.quantized_linear import QuantizedLinear
from fullrank.compress.statistics import LayerStatistics
from fullrank.spectra import Spectrum


@dataclass(frozen=True)
class LayerSensitivity:
    """What quantising does to one layer.

    Attributes:
        name: of the layer.
        shape: (out, in).
        bits_per_weight: codes, scales, zero points and factors for every entry.
        weight_error, weight_error_compensated: relative, ||W - W'|| / ||W||.
        output_error, output_error_compensated: relative, the root of E ||(W - W') x||^2 / E ||W x||^2; None without
            data.
        captured: share of ||E||^2 that the compensation holds.
        effective_rank: of the error E = W - Q(W); a flat spectrum has little to capture.
        spectrum: the leading singular values of E.
        dead_inputs: directions of the inputs that the scale does not see.
    """

    name: str
    shape: tuple[int, int]
    bits_per_weight: float
    weight_error: float
    weight_error_compensated: float
    output_error: float | None
    output_error_compensated: float | None
    captured: float
    effective_rank: float
    spectrum: tuple[float, ...]
    dead_inputs: int


@dataclass(frozen=True)
class SensitivityReport:
    """Every layer's sensitivity to a way of quantising; saved as .json, .csv or .parquet.

    Attributes:
        config: the way.
        layers: in the model's order.
    """

    config: LoRCConfig
    layers: tuple[LayerSensitivity, ...]

    def to_dict(self) -> dict[str, Any]:
        """Everything, JSON-like."""
        return {"config": self.config.to_dict(), "layers": [asdict(layer) for layer in self.layers]}

    def to_rows(self) -> list[dict[str, Any]]:
        """A flat row for every layer, without spectra."""
        rows = [asdict(layer) | {"shape": "x".join(map(str, layer.shape))} for layer in self.layers]
        return [{name: value for name, value in row.items() if name != "spectrum"} for row in rows]

    def save(self, path: str | Path) -> Path:
        """Write it: .json, .csv or .parquet.

        Raises:
            ValueError: another suffix.
        """
        return save(self, path)


def quantization_sensitivity(
    model: nn.Module,
    config: LoRCConfig | None = None,
    calibration: Iterable[Any] | None = None,
    leading: int = 64,
) -> SensitivityReport:
    """How much every layer loses, each quantised by itself in the model as it is; the model is not changed.

    Args:
        model: not quantised yet.
        config: see `LoRCConfig`.
        calibration: needed by some quantisers and scalings; with it errors at the outputs are measured too.
        leading: singular values of every error that are kept.

    Raises:
        TypeError, ValueError: see `quantize_lorc`.
    """
    config = config or LoRCConfig()
    refuse_quantized(model)
    layers = select_layers(model, config.target_modules, config.exclude_modules, LINEAR).layers
    inputs = None if calibration is None else LayerInputs(model, calibration, layers)
    return SensitivityReport(
        config,
        tuple(_sensitivity(layer, config, None if inputs is None else inputs.of(layer), leading) for layer in layers),
    )


def sensitivity_class(increase: float) -> Literal[1, 2, 3]:
    """ZeroQuant-V2's class of a model by its rise of perplexity: 1 up to 0.1, 2 up to 0.5, 3 above."""
    return 1 if increase <= 0.1 else 2 if increase <= 0.5 else 3


def _sensitivity(
    layer: Layer, config: LoRCConfig, statistics: LayerStatistics | None, leading: int
) -> LayerSensitivity:
    made = compensated(layer, config, statistics)
    module = QuantizedLinear.from_linear(layer.as_linear(), made.quantized, made.factors)
    W = wide(layer.matrix)
    bare, full = W - module.dequantize(compensated=False), W - module.dequantize()
    spectrum = Spectrum.of(bare)
    moments = None if statistics is None else statistics.moments

    def relative(error: Tensor, moments: Tensor | None) -> float:
        total = output_error(W, moments)
        return (output_error(error, moments) / total) ** 0.5 if total > 0 else 0.0

    before, after = relative(bare, None), relative(full, None)
    return LayerSensitivity(
        name=layer.name,
        shape=layer.shape,
        bits_per_weight=module.bits_per_weight,
        weight_error=before,
        weight_error_compensated=after,
        output_error=None if moments is None else relative(bare, moments),
        output_error_compensated=None if moments is None else relative(full, moments),
        captured=1 - (after / before) ** 2 if before else 0.0,
        effective_rank=float(spectrum.effective_rank) if before else 0.0,
        spectrum=tuple(spectrum.values[:leading].tolist()),
        dead_inputs=made.dead_inputs,
    )
