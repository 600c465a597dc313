"""`analyze`: the rank of every matrix of a model, live or stored."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fullrank.linalg import singular_values, singular_values_of_rows
from fullrank.spectra.attention_heads import HeadLayer, head_layers, head_products
from fullrank.spectra.checkpoint import Checkpoint, CheckpointError, StoredTensor
from fullrank.spectra.report import ENERGIES, HeadReport, MatrixReport, Report, Skipped
from fullrank.spectra.spectrum import Spectrum

OnProgress = Callable[[int, int, str], None]

# From this many entries on a matrix is worked on alone, and read in blocks of rows where it is tall, so that memory
# stays within three times the largest matrix.
_LARGE = 1 << 22
_BLOCK = 1 << 21  # entries read at a time


@dataclass(frozen=True)
class _Weight:
    """A weight that may be a matrix: what it is, and how to get it."""

    name: str
    kind: str
    shape: tuple[int, ...]
    dtype: torch.dtype | None
    read: Callable[[], Tensor]
    stored: StoredTensor | None = None
    refusal: str = ""

    @property
    def entries(self) -> int:
        return torch.Size(self.shape).numel()


def analyze(
    model: nn.Module | str | Path,
    *,
    heads: bool = True,
    device: str = "cpu",
    name: str | None = None,
    on_progress: OnProgress = lambda done, total, text: None,
) -> Report:
    """The rank of every matrix of a model, and where compression is cheapest.

    Files are read memory-mapped and one matrix at a time (several small ones together); no model is built from them.

    Args:
        model: a live module, a Hugging Face folder, a `.safetensors` file, or a `.safetensors.index.json`.
        heads: also measure the Q-K and O-V product of every attention head, where the architecture is known.
        device: where to compute.
        name: how the report calls the model; the path, or the module's class, by default.
        on_progress: called with (done, total, text) after every matrix.

    Raises:
        CheckpointError: nothing to read at the path, a damaged file, a pickle, a model name instead of a folder.
        TypeError: `model` is neither a module nor a path.
    """
    began = time.monotonic()
    if isinstance(model, nn.Module):
        (weights, parameters, config), label = _of_module(model), type(model).__name__
    elif isinstance(model, str | Path):
        checkpoint = Checkpoint.open(model)
        (weights, parameters, config), label = _of_checkpoint(checkpoint), str(model)
    else:
        raise TypeError(f"model is a {type(model).__name__}: a torch.nn.Module or a path to a checkpoint is accepted")
    matrices = [weight for weight in weights if not weight.refusal]
    skipped = [Skipped(weight.name, weight.refusal) for weight in weights if weight.refusal]
    remarks = [] if matrices else ["there is no matrix in this model"]
    layers = head_layers([weight.name for weight in matrices], config) if heads else []
    if heads and matrices and not layers:
        remarks.append("attention heads are left out: no known layout of query, key, value and output weights")
    total = len(matrices) + len(layers)
    measured: list[MatrixReport] = []
    for weight, outcome in _measured(matrices, device):
        if isinstance(outcome, Spectrum):
            measured.append(MatrixReport.of(weight.name, weight.kind, weight.shape, _dtype_name(weight.dtype), outcome))
        else:
            skipped.append(Skipped(weight.name, outcome))
        on_progress(len(measured) + len(skipped), total, weight.name)
    reports: list[HeadReport] = []
    by_name = {weight.name: weight for weight in matrices}
    for layer in layers:
        reports += _head_reports(layer, by_name, device, remarks)
        on_progress(len(matrices) + layer.layer + 1, total, f"attention heads of layer {layer.layer}")
    return Report(
        model=name or label,
        architecture=str(config.get("model_type", "")),
        matrices=tuple(measured),
        heads=tuple(reports),
        skipped=tuple(skipped),
        parameters=parameters,
        remarks=tuple(remarks),
        seconds=round(time.monotonic() - began, 3),
    )


def matrix_of(tensor: Tensor, kind: str) -> Tensor:
    """The matrix that a weight acts as: a convolution's kernel is (out, in * kernel)."""
    return tensor.flatten(1) if kind == "conv" else tensor


def _of_module(model: nn.Module) -> tuple[list[_Weight], int, Mapping[str, Any]]:
    owners = {id(p): module for module in model.modules() for p in module.parameters(recurse=False)}
    seen: set[int] = set()
    weights = []
    parameters = 0
    for name, parameter in model.named_parameters():  # a shared parameter is named once
        if parameter.data_ptr() in seen and parameter.numel():
            continue
        seen.add(parameter.data_ptr())
        parameters += parameter.numel()
        if parameter.ndim < 2:
            continue
        owner = type(owners[id(parameter)]).__name__
        kind = "embedding" if "Embedding" in owner else "conv1d" if owner == "Conv1D" else _kind_by_shape(parameter.shape)
        dtype = parameter.dtype if parameter.dtype.is_floating_point else None
        tensor = parameter.detach()
        weights.append(
            _Weight(name, kind, tuple(tensor.shape), dtype, lambda tensor=tensor: tensor, None, _refusal(tensor.shape, dtype))
        )
    config = getattr(model, "config", None)
    settings = config.to_dict() if hasattr(config, "to_dict") else {}
    return weights, parameters, settings


def _of_checkpoint(checkpoint: Checkpoint) -> tuple[list[_Weight], int, Mapping[str, Any]]:
    transposed = checkpoint.config.get("model_type") in ("gpt2", "openai-gpt", "imagegpt")
    weights = []
    parameters = 0
    for stored in checkpoint.tensors:
        entries = torch.Size(stored.shape).numel()
        if stored.dtype is not None:
            parameters += entries
        if len(stored.shape) < 2:
            continue
        kind = _kind_by_name(stored, transposed)
        refusal = _refusal(stored.shape, stored.dtype, stored.stored_as)
        weights.append(_Weight(stored.name, kind, stored.shape, stored.dtype, stored.read, stored, refusal))
    return weights, parameters, checkpoint.config


def _kind_by_shape(shape: tuple[int, ...]) -> str:
    return "linear" if len(shape) == 2 else "conv"


def _kind_by_name(stored: StoredTensor, transposed: bool) -> str:
    name = stored.name.lower()
    if len(stored.shape) == 2 and any(part in name for part in ("embed", "wte", "wpe", "shared.weight")):
        return "embedding"
    if transposed and len(stored.shape) == 2 and any(part in name for part in ("c_attn", "c_proj", "c_fc")):
        return "conv1d"
    return _kind_by_shape(stored.shape)


def _refusal(shape: tuple[int, ...], dtype: torch.dtype | None, stored_as: str = "") -> str:
    if dtype is None:
        return f"its entries are not floating point ({stored_as})" if stored_as else "its entries are not floating point"
    return "it is empty" if 0 in shape else ""


def _measured(weights: list[_Weight], device: str) -> Iterator[tuple[_Weight, Spectrum | str]]:
    """Every weight with its spectrum, or with why it has none; small matrices on all cores, large ones alone."""

    def measure(weight: _Weight) -> Spectrum | str:
        try:
            return _spectrum(weight, device)
        except ValueError as error:
            return str(error)

    with _one_thread_each() as pool:
        small: list[_Weight] = []
        for weight in weights:
            if weight.entries < _LARGE:
                small.append(weight)
                continue
            yield from zip(small, pool.map(measure, small), strict=True)
            small = []
            yield weight, pool.submit(measure, weight).result()
        yield from zip(small, pool.map(measure, small), strict=True)


@contextmanager
def _one_thread_each() -> Iterator[ThreadPoolExecutor]:
    """As many workers as torch would use threads, each with one: LAPACK's own threads gain little on small matrices."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    pool = ThreadPoolExecutor(min(threads, os.cpu_count() or 1))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


def _spectrum(weight: _Weight, device: str) -> Spectrum:
    dtype = weight.dtype or torch.float32
    rows, columns = weight.shape[0], weight.entries // weight.shape[0]
    stored = weight.stored
    if stored is not None and weight.entries >= _LARGE and rows >= 2 * columns:

        def blocks() -> Iterator[Tensor]:
            for block in stored.rows(max(1, _BLOCK // columns)):
                yield _floating(matrix_of(block, weight.kind)).to(device)

        return Spectrum(singular_values_of_rows(blocks, weight.name).cpu(), (rows, columns), dtype)
    matrix = _floating(matrix_of(weight.read(), weight.kind)).to(device)
    # The exact route needs no float64 copy, which a large square matrix could not afford within the memory promise.
    method = "exact" if weight.entries >= _LARGE and max(rows, columns) < 2 * min(rows, columns) else "auto"
    return Spectrum(singular_values(matrix, method=method, name=weight.name).cpu(), (rows, columns), dtype)


def _floating(tensor: Tensor) -> Tensor:
    return tensor.to(torch.float32) if tensor.dtype.itemsize == 1 else tensor


def _head_reports(
    layer: HeadLayer, weights: Mapping[str, _Weight], device: str, remarks: list[str]
) -> list[HeadReport]:
    def read(name: str) -> Tensor:
        return _floating(weights[name].read()).to(device)

    reports = []
    for product in ("QK", "OV"):
        try:
            values = head_products(layer, read, product).cpu()
        except (ValueError, CheckpointError) as error:
            remarks.append(f"heads of layer {layer.layer} ({product}) are left out: {error}")
            continue
        head_dim = values.shape[-1]
        for head, spectrum in enumerate(Spectrum(row, (head_dim, head_dim)) for row in values):
            zero = float(spectrum.spectral_norm) == 0
            reports.append(
                HeadReport(
                    layer=layer.layer,
                    head=head,
                    product=product,
                    head_dim=head_dim,
                    effective_rank=0.0 if zero else float(spectrum.effective_rank),
                    stable_rank=0.0 if zero else float(spectrum.stable_rank),
                    energy_ranks={f"{energy:.2f}": int(spectrum.energy_rank(energy)) for energy in ENERGIES},
                )
            )
    return reports


def _dtype_name(dtype: torch.dtype | None) -> str:
    return str(dtype).removeprefix("torch.")
