"""`analyze`: the rank of every matrix of a model, live or stored."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from fullrank.linalg import singular_values, singular_values_in_place, singular_values_of_rows
from fullrank.spectra.attention_heads import PRODUCTS, HeadLayer, head_layers, head_products
from fullrank.spectra.report import HeadReport, MatrixReport, Report, Skipped
from fullrank.spectra.spectrum import Spectrum
from fullrank.spectra.weights import Weight, weights_of

LinAlgError = torch.linalg.LinAlgError  # pyright: ignore[reportPrivateImportUsage]
OnProgress = Callable[[int, int, str], None]

# A small matrix needs some 40 bytes an entry: itself, a float64 copy, its Gram matrix, LAPACK's copy of that. Small are
# those of which two together stay within three times the model's largest matrix, but never more than 2^22 entries.
_SMALL = 3 / (2 * 40)
_SMALLEST, _LARGEST = 1 << 18, 1 << 22
_BLOCK = 1 << 20  # entries read at a time


def analyze(
    model: nn.Module | str | Path,
    *,
    heads: bool = True,
    device: str = "cpu",
    name: str | None = None,
    on_progress: OnProgress = lambda done, total, text: None,
) -> Report:
    """The rank of every matrix of a model, and where compression is cheapest.

    Files are read memory-mapped and one matrix at a time (several small ones together), large ones in blocks; no model
    is built from them. On the CPU the memory needed is at most three times the largest matrix.

    Args:
        model: a live module, a Hugging Face folder, a `.safetensors` file, or a `.safetensors.index.json`.
        heads: also measure the Q-K and O-V product of every attention head, where the architecture is known.
        device: where to compute.
        name: how the report calls the model; the path, or the module's class, by default.
        on_progress: called with (done, total, text) after every matrix.

    Raises:
        CheckpointError: nothing to read at the path, a damaged file, a pickle, a model name instead of a folder.
        TypeError: `model` is neither a module nor a path.
        ValueError: there is no such device.
    """
    began = time.monotonic()
    _require_device(device)
    weights = weights_of(model)
    matrices = [weight for weight in weights.matrices if not weight.refusal]
    skipped = [Skipped(weight.name, weight.refusal) for weight in weights.matrices if weight.refusal]
    remarks = _remarks(matrices)
    layers = head_layers([weight.name for weight in matrices], weights.config) if heads else []
    if heads and matrices and not layers:
        remarks.append(
            "attention heads are left out: their number and their query, key, value and output weights are not known "
            "for this architecture"
        )
    total = len(matrices) + len(layers)
    measured: list[MatrixReport] = []
    for done, (weight, outcome) in enumerate(spectra_of(matrices, device), 1):
        if isinstance(outcome, Spectrum):
            measured.append(MatrixReport.of(weight.name, weight.kind, weight.shape, outcome))
        else:
            skipped.append(Skipped(weight.name, outcome))
        on_progress(done, total, weight.name)
    reports: list[HeadReport] = []
    by_name = {weight.name: weight for weight in matrices}
    unread = {item.name for item in skipped}
    for done, layer in enumerate(layers, len(matrices) + 1):
        try:
            reports += _head_reports(layer, by_name, unread, device)
        except (ValueError, LinAlgError) as error:
            remarks.append(f"the heads of {layer.module} are left out: {error}")
        on_progress(done, total, f"attention heads of {layer.module}")
    return Report(
        model=name or weights.label,
        architecture=str(weights.config.get("model_type", "")),
        matrices=tuple(measured),
        heads=tuple(reports),
        skipped=tuple(skipped),
        parameters=weights.parameters,
        remarks=tuple(remarks),
        seconds=round(time.monotonic() - began, 3),
    )


def spectra_of(weights: Sequence[Weight], device: str) -> Iterator[tuple[Weight, Spectrum | str]]:
    """Every weight with its spectrum, or with why it has none.

    Small ones are worked on side by side; a large one on the CPU alone, in blocks or in place, so that it is never held
    together with a copy of itself.

    Args:
        weights: none of them refused.
        device: where to compute.
    """
    on_cpu = torch.device(device).type == "cpu"
    limit = _small(weights) if on_cpu else 0  # an accelerator is busy with one

    def measure(weight: Weight) -> Spectrum | str:
        try:
            values = _large(weight) if on_cpu and weight.entries > limit else _values(weight, device)
            return Spectrum(values, (weight.rows, weight.columns), weight.dtype or torch.float32)
        except (ValueError, LinAlgError) as error:
            return str(error)

    small: list[Weight] = []
    for weight in weights:
        if weight.entries <= limit:
            small.append(weight)
            continue
        yield from _side_by_side(measure, small)
        small = []
        yield weight, measure(weight)
    yield from _side_by_side(measure, small)


def _small(weights: Sequence[Weight]) -> int:
    """Up to how many entries a matrix counts as small in this model."""
    largest = max((weight.entries * weight.dtype.itemsize for weight in weights if weight.dtype), default=0)
    return min(max(int(_SMALL * largest), _SMALLEST), _LARGEST)


def _values(weight: Weight, device: str) -> Tensor:
    return singular_values(weight.read().to(device), name=weight.name).cpu()


def _large(weight: Weight) -> Tensor:
    rows, columns = weight.rows, weight.columns
    if max(rows, columns) < 2 * min(rows, columns):
        return singular_values_in_place(_copy(weight), weight.name)
    name = weight.name if rows >= columns else f"the transpose of {weight.name}"
    return singular_values_of_rows(lambda: _long_blocks(weight), name)


def _copy(weight: Weight) -> Tensor:
    """The matrix in memory of its own, in float32 or better, filled block by block."""
    dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
    matrix = torch.empty(weight.rows, weight.columns, dtype=dtype)
    start = 0
    for block in weight.blocks(0, _BLOCK):
        matrix[start : start + len(block)] = block
        start += len(block)
    return matrix


def _long_blocks(weight: Weight) -> Iterator[Tensor]:
    """Blocks of rows of the matrix, or of its transpose where that is the taller one."""
    if weight.rows >= weight.columns:
        yield from weight.blocks(0, _BLOCK)
    else:
        yield from (block.mT for block in weight.blocks(1, _BLOCK))


def _side_by_side(
    measure: Callable[[Weight], Spectrum | str], weights: list[Weight]
) -> Iterator[tuple[Weight, Spectrum | str]]:
    with _one_thread_each() as pool:
        yield from zip(weights, pool.map(measure, weights), strict=True)


@contextmanager
def _one_thread_each() -> Iterator[ThreadPoolExecutor]:
    """As many workers as torch would use threads, each with one: its own threads gain little on small matrices."""
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # a worker's setting reaches MKL, and with it every thread


def _head_reports(layer: HeadLayer, weights: Mapping[str, Weight], unread: Set[str], device: str) -> list[HeadReport]:
    if missing := [name for name in layer.names if name in unread]:
        raise ValueError(f"{missing[0]} could not be measured")
    reports = []
    for product in PRODUCTS:
        values = head_products(layer, weights, product, device).cpu()
        size = values.shape[-1]
        reports += [
            HeadReport.of(layer.layer, head, product, layer.module, Spectrum(row, (size, size)))
            for head, row in enumerate(values)
        ]
    return reports


def _remarks(matrices: list[Weight]) -> list[str]:
    if not matrices:
        return ["there is no matrix in this model"]
    if any(weight.dtype is not None and weight.dtype.itemsize == 1 for weight in matrices):
        return ["8-bit weights are measured as they are stored, without the scales that are stored beside them"]
    return []


def _require_device(device: str) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"device={device!r} cannot be used ({reason}); cpu, cuda, cuda:1 or mps are accepted"
        ) from error
