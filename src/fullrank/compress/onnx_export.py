"""Compressed models as ONNX files, compared with what they were made from."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fullrank._optional import require
from fullrank.compress.layers import replace_module
from fullrank.compress.lr2vq import decode
from fullrank.compress.quantized_linear import QuantizedLinear, round_tokens
from fullrank.spectra.modes import evaluating

_AXES = ("batch", "tokens")
_ONE_FILE = 1_900_000_000  # bytes; a protocol buffer holds 2 GB


def export_onnx(
    model: nn.Module,
    path: str | Path,
    example: Mapping[str, Tensor],
    *,
    overwrite: bool = False,
    tolerance: float = 1e-3,
) -> Path:
    """Write a model as ONNX, and run the file to see that it computes the same.

    Low-rank layers stay two thin ones. Packed weights become dense ones: ONNX has no operator for them. Layers with
    int8 activations round their tokens in the file too.

    Args:
        model: compressed or not; it stays as it is, and is exported in evaluation mode.
        path: of the file; weights beyond 2 GB go into a second file beside it.
        example: inputs by the names of `forward`'s parameters. Their first axis may have any length in the file, and so
            may the second axis of whole numbers (tokens).
        overwrite: replace files that exist.
        tolerance: largest difference of the first output, relative to its largest entry.

    Returns:
        The path.

    Raises:
        MissingExtra: onnx, onnxscript or onnxruntime is not installed.
        ValueError: no inputs, or a file that computes something else.
        FileExistsError: the file, or the one for its weights, exists and `overwrite` is not set.
    """
    for library in ("onnx", "onnxscript", "onnxruntime"):
        require(library, "onnx")
    path = Path(path)
    if not example:
        raise ValueError("example={} has no inputs: give tensors by the names of forward's parameters")
    if not overwrite:
        _refuse(path)
    dense = _dense(model).eval()
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        made = Path(folder) / path.name
        _export(dense, made, example)
        with evaluating(model):
            _compare(model, made, example, tolerance)
        files = sorted(Path(folder).iterdir(), reverse=True)  # the model's file last, after its weights
        for file in files:
            if not overwrite:
                _refuse(path.parent / file.name)
        for file in files:
            file.replace(path.parent / file.name)
    return path


def _refuse(path: Path) -> None:
    if path.exists():
        raise FileExistsError(17, "File exists; name another one, or set overwrite=True", str(path))


def _dense(model: nn.Module) -> Any:
    """A copy without packed weights, which gives no cache of a language model."""
    dense = decode(model)
    for name, module in list(dense.named_modules()):
        if isinstance(module, QuantizedLinear):
            replace_module(dense, name, module.to_linear() if module.activations is None else _Rounding(module))
    config: Any = getattr(dense, "config", None)
    if getattr(config, "use_cache", False):
        config.use_cache = False
    return dense


class _Rounding(nn.Module):
    """A quantised layer with int8 activations, its weight dense: the compensation takes tokens as they come."""

    A: Tensor | None
    B: Tensor | None

    def __init__(self, layer: QuantizedLinear) -> None:
        super().__init__()
        self.symmetric = layer.activations == "int8"
        self.rounded = layer.to_linear(compensated=False)
        A, B = layer.factors.floats() if layer.factors is not None else (None, None)
        self.register_buffer("A", A)
        self.register_buffer("B", B)

    def forward(self, x: Tensor) -> Tensor:
        """See `QuantizedLinear.forward`."""
        y = self.rounded(round_tokens(x, self.symmetric))
        return y if self.A is None or self.B is None else y + x @ self.A.mT @ self.B.mT


def _export(model: nn.Module, file: Path, example: Mapping[str, Tensor]) -> None:
    axes = {name: torch.export.Dim(name) for name in _AXES}
    shapes = {name: {axis: axes[_AXES[axis]] for axis in range(_free_axes(tensor))} for name, tensor in example.items()}
    size = sum(tensor.nbytes for tensor in model.state_dict().values())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's exporter about its own parts
        torch.onnx.export(
            model, (), str(file), kwargs=dict(example), dynamic_shapes=shapes, dynamo=True, verbose=False,
            external_data=size > _ONE_FILE,
        )  # fmt: skip


def _free_axes(tensor: Tensor) -> int:
    return min(tensor.ndim, 1 if tensor.is_floating_point() else 2)


def _compare(model: nn.Module, file: Path, example: Mapping[str, Tensor], tolerance: float) -> None:
    """Run both on twice the batch."""
    twice = {name: torch.cat([tensor, tensor]) for name, tensor in example.items()}
    session: Any = require("onnxruntime", "onnx").InferenceSession(str(file), providers=["CPUExecutionProvider"])
    found = session.run(None, {entry.name: twice[entry.name].numpy() for entry in session.get_inputs()})[0]
    with torch.no_grad():
        outputs = model(**twice)
    expected = outputs if isinstance(outputs, Tensor) else next(iter(outputs.values()))
    difference = float((torch.from_numpy(found) - expected).abs().max() / expected.abs().max().clamp(min=1e-12))
    if not difference <= tolerance:
        raise ValueError(
            f"the exported file differs from the model by {difference:.2g} of the largest output (tolerance="
            f"{tolerance}): nothing was written; export in float32, or raise the tolerance"
        )
