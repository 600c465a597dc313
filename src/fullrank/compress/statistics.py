"""What a task says about a model's layers, gathered in one streaming pass: which weights and inputs matter.

Fisher sums need the gradient of every sample by itself. For a sample with layer input X (T, in) and output gradient D
(T, out) the weight's gradient is G = D^T X, and the sums of its squares over outputs are those of ((D D^T) X) * X over
the T positions: T^2 (in + out) products in place of T in out, and no matrix of the weight's size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from fullrank.compress.layers import Layer
from fullrank.tasks.losses import Batch, SampleLosses, call, labelled_losses

Wanted = Literal["fisher_in", "fisher_out", "mean_abs", "mean_square", "moments"]
FisherKind = Literal["per_sample", "batch", "token"]


@dataclass
class LayerStatistics:
    """What was gathered at one layer; float64, on the CPU; None where it was not wanted.

    Attributes:
        samples: how many samples were seen.
        positions: how many positions (tokens, pixels) were seen, without padding.
        fisher_in: mean over samples of the squared gradients, summed over outputs, (in,).
        fisher_out: the same, summed over inputs, (out,).
        mean_abs: mean |x| of every input, (in,).
        mean_square: mean x^2, (in,).
        moments: mean x x^T, (in, in).
    """

    samples: int = 0
    positions: int = 0
    fisher_in: Float[Tensor, "in"] | None = None
    fisher_out: Float[Tensor, "out"] | None = None
    mean_abs: Float[Tensor, "in"] | None = None
    mean_square: Float[Tensor, "in"] | None = None
    moments: Float[Tensor, "in in"] | None = None


@dataclass
class _Sums:
    """Running sums of one layer, and what a batch has left there so far."""

    layer: Layer
    sums: dict[str, Tensor] = field(default_factory=dict)
    inputs: list[Tensor] = field(default_factory=list)
    gradients: dict[int, Tensor] = field(default_factory=dict)
    positions: int = 0
    reached: bool = False

    def add(self, name: str, value: Tensor) -> None:
        value = value.to(torch.float64)
        self.sums[name] = self.sums[name] + value if name in self.sums else value


def collect_statistics(
    model: nn.Module,
    batches: Iterable[Batch],
    layers: Sequence[Layer],
    wanted: Iterable[Wanted],
    *,
    sample_losses: SampleLosses | None = None,
    kind: FisherKind = "per_sample",
    num_samples: int | None = None,
    skip_unreached: bool = False,
    on_progress: Callable[[int], None] = lambda samples: None,
) -> dict[str, LayerStatistics]:
    """Run the model over batches, in evaluation mode and with its weights as they are, and gather sums at its layers.

    Args:
        model: it is put back into its mode; its gradients are not touched.
        batches: what the model is called with; mappings are passed as keyword arguments.
        layers: linear layers and convolutions of the model.
        wanted: which statistics.
        sample_losses: gives the loss of every sample of a batch, (batch,); default `labelled_losses`. It may call the
            model several times. Without Fisher sums its result is not looked at, and the default is a plain call.
        kind: "per_sample" squares the gradient of each sample (the paper's equation), "batch" that of the batch's mean
            loss (public code), "token" that of each position, without what positions do together.
        num_samples: stop after so many; default all.
        skip_unreached: leave layers out that no gradient or input reached, in place of raising.
        on_progress: told how many samples are done.

    Raises:
        ValueError: an unknown statistic or kind, no batch, a batch without labels and no `sample_losses`, or losses
            that are not one number a sample.
        RuntimeError: a layer that no gradient or no input reached, by name; or losses that are not finite.
    """
    asked: set[str] = set(wanted)
    _check(asked, kind)
    gradients = {name for name in asked if name.startswith("fisher")}
    sums = {layer.name: _Sums(layer) for layer in layers}
    seen = 0
    with _watched(model, sums, gradients, asked - gradients, kind) as begin:
        for batch in batches:
            size = batch_size(batch)
            begin()
            if gradients:
                _backward(model, batch, size, sample_losses or labelled_losses, kind)
            else:
                with torch.no_grad():
                    _ = call(model, batch) if sample_losses is None else sample_losses(model, batch)
            seen += size
            on_progress(seen)
            if num_samples is not None and seen >= num_samples:
                break
    if not seen:
        raise ValueError("data holds no batch: statistics need at least one")
    unreached = [name for name, found in sums.items() if not found.reached]
    if unreached and (not skip_unreached or len(unreached) == len(sums)):
        raise RuntimeError(
            f"{'no gradient' if gradients else 'no input'} reached {', '.join(unreached[:3])} "
            f"({len(unreached)} of {len(sums)} layers): the model does not use them for this loss; exclude them"
        )
    return {name: _means(found, seen) for name, found in sums.items() if found.reached}


def batch_size(batch: Batch) -> int:
    """Samples in a batch: the length of its first tensor."""
    values = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, tuple | list) else (batch,)
    for value in values:
        if isinstance(value, Tensor) and value.ndim:
            return len(value)
    raise ValueError(f"a batch is a {type(batch).__name__} without a tensor: a mapping, tuple or tensor is accepted")


def _backward(model: nn.Module, batch: Batch, size: int, sample_losses: SampleLosses, kind: FisherKind) -> None:
    losses = sample_losses(model, batch)
    if not isinstance(losses, Tensor) or losses.shape != (size,):
        what = f"tensor of shape {tuple(losses.shape)}" if isinstance(losses, Tensor) else type(losses).__name__
        raise ValueError(
            f"sample_losses gave a {what} for {size} samples: one loss a sample, "
            f'({size},), is needed; a loss of torch gives it with reduction="none"'
        )
    if not bool(losses.isfinite().all()):
        raise RuntimeError(f"the loss of sample {int((~losses.isfinite()).nonzero()[0])} of a batch is not finite")
    total = losses.mean() if kind == "batch" else losses.sum()
    # Weights are frozen, so that the backward pass forms gradients of activations only.
    total.backward()


@contextmanager
def _watched(
    model: nn.Module, sums: Mapping[str, _Sums], gradients: set[str], activations: set[str], kind: FisherKind
) -> Iterator[Callable[[], None]]:
    """Hooks on the layers; gives what has to be called before each batch."""
    training = [(module, module.training) for module in model.modules()]
    trainable = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    masks: list[Tensor | None] = [None]

    def begin() -> None:
        for found in sums.values():
            found.inputs.clear()
            found.gradients.clear()

    def look(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        masks[0] = kwargs.get("attention_mask")

    def forward(found: _Sums, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        X = _positions(found.layer, args[0].detach())
        if activations:
            _add_activations(found, X, masks[0], activations)
        if not gradients:
            found.reached = True
            return output
        if not output.requires_grad:
            output.requires_grad_()
        found.inputs.append(X)
        output.register_hook(partial(backward, found, len(found.inputs) - 1))
        return output

    def backward(found: _Sums, number: int, gradient: Tensor) -> None:
        found.gradients[number] = _output_positions(found.layer, gradient.detach())
        if len(found.gradients) == len(found.inputs):
            _add_fisher(found, gradients, kind)
            found.inputs.clear()
            found.gradients.clear()

    handles = [found.layer.module.register_forward_hook(partial(forward, found)) for found in sums.values()]
    handles.append(model.register_forward_pre_hook(look, with_kwargs=True))
    try:
        model.eval()
        for parameter, _ in trainable:
            parameter.requires_grad_(False)
        with torch.inference_mode(False), torch.enable_grad():
            yield begin
    finally:
        for handle in handles:
            handle.remove()
        for parameter, before in trainable:
            parameter.requires_grad_(before)
        for module, before in training:
            module.training = before


def _positions(layer: Layer, x: Tensor) -> Float[Tensor, "batch positions in"]:
    """The inputs of a layer's matrix, position by position."""
    if isinstance(layer.module, nn.Linear | Conv1D):
        return x.reshape(len(x), -1, x.shape[-1])
    return _patches(layer.module, x)


def _patches(conv: Any, x: Tensor) -> Float[Tensor, "batch positions in"]:
    """The patches that a convolution multiplies by its matrix."""
    if isinstance(conv, nn.Conv3d):
        raise ValueError("statistics of three-dimensional convolutions are not gathered: exclude these layers")
    if any(conv._reversed_padding_repeated_twice):
        mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
        x = functional.pad(x, conv._reversed_padding_repeated_twice, mode=mode)
    kernel, stride, dilation = conv.kernel_size, conv.stride, conv.dilation
    if isinstance(conv, nn.Conv1d):  # as an image of one row
        x = x.unsqueeze(2)
        kernel, stride, dilation = (1, *kernel), (1, *stride), (1, *dilation)
    return functional.unfold(x, kernel, dilation=dilation, stride=stride).mT


def _output_positions(layer: Layer, gradient: Tensor) -> Float[Tensor, "batch positions out"]:
    if isinstance(layer.module, nn.Linear | Conv1D):
        return gradient.reshape(len(gradient), -1, gradient.shape[-1])
    return gradient.flatten(2).mT


def _add_activations(found: _Sums, X: Tensor, mask: Tensor | None, wanted: set[str]) -> None:
    x = X.reshape(-1, X.shape[-1]).float()
    if mask is not None and mask.shape == X.shape[:2]:  # padding says nothing about the task
        x = x[mask.reshape(-1).bool()]
    found.positions += len(x)
    if "mean_abs" in wanted:
        found.add("mean_abs", x.abs().sum(0).cpu())
    if "mean_square" in wanted:
        found.add("mean_square", x.square().sum(0).cpu())
    if "moments" in wanted:
        found.add("moments", (x.mT @ x).cpu())


def _add_fisher(found: _Sums, wanted: set[str], kind: FisherKind) -> None:
    found.reached = True
    calls = range(len(found.inputs))
    # A layer that is called several times has the sum of its gradients: its calls are further positions.
    X = torch.cat([found.inputs[number] for number in calls], dim=1).float()
    D = torch.cat([found.gradients[number] for number in calls], dim=1).float()
    if not bool(D.isfinite().all()):
        raise RuntimeError(f"a gradient at {found.layer.name} is not finite: use float32, or a smaller loss")
    rows, columns = fisher_sums(X, D, kind)
    if "fisher_in" in wanted:
        found.add("fisher_in", columns.cpu())
    if "fisher_out" in wanted:
        found.add("fisher_out", rows.cpu())


def fisher_sums(
    X: Float[Tensor, "batch positions in"], D: Float[Tensor, "batch positions out"], kind: FisherKind = "per_sample"
) -> tuple[Float[Tensor, "out"], Float[Tensor, "in"]]:
    """Sums over samples of the squared gradient G = D^T X: over inputs, and over outputs.

    Args:
        X: inputs of the layer.
        D: gradients of the loss by its outputs.
        kind: see `collect_statistics`; "batch" takes D of the batch's mean loss.
    """
    if kind == "token":  # G = d x^T at every position
        return (
            (D.square() * X.square().sum(-1, keepdim=True)).sum((0, 1)),
            (X.square() * D.square().sum(-1, keepdim=True)).sum((0, 1)),
        )
    if kind == "batch":
        X, D = X.flatten(0, 1)[None], D.flatten(0, 1)[None]
    positions, inputs, outputs = X.shape[1], X.shape[2], D.shape[2]
    if positions * (inputs + outputs) < inputs * outputs:
        rows = ((X @ X.mT) @ D * D).sum((0, 1))
        columns = ((D @ D.mT) @ X * X).sum((0, 1))
        return rows.clamp_min(0), columns.clamp_min(0)
    rows, columns = D.new_zeros(outputs), X.new_zeros(inputs)
    for d, x in zip(D, X, strict=True):  # one weight-sized matrix at a time
        squares = (d.mT @ x).square()
        rows += squares.sum(1)
        columns += squares.sum(0)
    return rows, columns


def _means(found: _Sums, samples: int) -> LayerStatistics:
    counts = {name: samples if name.startswith("fisher") else found.positions for name in found.sums}
    means: dict[str, Any] = {name: value / max(counts[name], 1) for name, value in found.sums.items()}
    return LayerStatistics(samples, found.positions, **means)


def _check(wanted: set[str], kind: str) -> None:
    unknown = wanted - set(get_args(Wanted))
    if unknown or not wanted:
        raise ValueError(f"wanted={sorted(unknown)}: name some of {', '.join(get_args(Wanted))}")
    if kind not in get_args(FisherKind):
        raise ValueError(f"kind={kind!r} is not known; accepted: {', '.join(map(repr, get_args(FisherKind)))}")
