"""Beta-Rank: the importance of a filter is its size times the change it makes to the data (arXiv 2304.07461).

    R_k = mean |w_k| * sum over positions q of  sigma_out(k, q) / sigma_in(q)

sigma_in is the deviation of the patch under q over batch, channels and kernel positions together, sigma_out that of the
output over the batch. Sums of x, x^2, y and y^2 in float64 are all that is kept: a patch's mean is the box filter of
the means, so batches of any number give what one large batch gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from fullrank.compress.filter_scores import Batches, Scores, forward_batches, mean_abs, require_reached, scored_layers

Ratio = Literal["out_over_in", "in_over_out"]
Variant = Literal["fixed", "upstream"]

_CONVOLVE = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
# A variance below this share of the mean square is what rounding leaves of a constant.
_ROUNDING = 1e-13
# Positions whose input deviation is below this share of the layer's median are left out: their ratio explodes.
_FLAT = 1e-6
# Scores of a layer that differ by a smaller share are equal: rounding in float32 must not be stretched to [0, 1].
_EQUAL = 1e-6
# Entries whose sums are taken at a time, and the shortest stretch of memory that is read in one go.
_AT_ONCE, _ROW = 1 << 18, 256


@dataclass(frozen=True)
class Deviations:
    """Standard deviations around one layer, population form, float64, on the CPU.

    Attributes:
        input: of the patch at each output position, (groups, *positions); one group for `variant="upstream"`, NaN
            where its patch is empty.
        output: of each filter over the batch, (filters, *positions).
    """

    input: Float[Tensor, "groups *positions"]
    output: Float[Tensor, "filters *positions"]


def beta_rank(
    model: nn.Module,
    batches: Batches,
    layers: Sequence[str] | None = None,
    ratio: Ratio = "out_over_in",
    variant: Variant = "fixed",
    normalize: Literal["minmax"] | None = "minmax",
    fallback: Literal["l1"] | None = None,
) -> Scores:
    """Scores of the filters of every layer, from one forward pass over the data; high is important.

    Args:
        model: it is run in evaluation mode and put back into its own.
        batches: a batch, such as images or (images, labels), or an iterable of batches; see `forward_batches`. 64
            samples or more make stable ranks.
        layers: names of convolutions (any number of axes, groups, stride, dilation) or linear layers; default every
            convolution.
        ratio: "out_over_in" as in the official code, or "in_over_out" as in the printed equation.
        variant: "fixed" takes the patch under each output position; "upstream" repeats the official code, which takes
            channels for rows and rows for columns, and ignores padding.
        normalize: "minmax" maps the scores of a layer to [0, 1] (all equal: 1); None leaves them.
        fallback: "l1" scores a layer with constant inputs by mean |w|; None raises.

    Returns:
        (filters,) for every layer, float64, on the CPU.

    Raises:
        ValueError: an unknown option, no layer, fewer than two samples, inputs whose size changes between batches, or,
            naming the layer, constant inputs and activations that are not finite.
    """
    _check(ratio, variant, normalize, fallback)
    found = collect_deviations(model, batches, layers, variant)
    scores = {}
    for name, module in scored_layers(model, layers).items():
        sums = _ratios(found[name], ratio, variant)
        if sums is None and fallback is None:
            raise ValueError(
                f"{name}: its inputs are constant, so no ratio of deviations exists; give other data, leave it out of "
                "layers, or pass fallback='l1'"
            )
        raw = mean_abs(module) * (1 if sums is None else sums)
        if not bool(raw.isfinite().all()):
            raise ValueError(f"{name}: its scores are not finite; variant='fixed' leaves flat positions out")
        scores[name] = _minmax(raw) if normalize else raw
    return scores


def collect_deviations(
    model: nn.Module, batches: Batches, layers: Sequence[str] | None = None, variant: Variant = "fixed"
) -> dict[str, Deviations]:
    """sigma_in and sigma_out of every layer; arguments and errors as of `beta_rank`."""
    watched = scored_layers(model, layers)
    sums: dict[str, _Sums] = {}

    def watch(name: str, module: Any, x: Tensor, y: Tensor) -> None:
        if isinstance(module, nn.Linear):  # a convolution of kernel 1 over the axes between batch and features
            x, y = x.movedim(-1, 1), y.movedim(-1, 1)
        if name not in sums:
            sums[name] = _Sums(name, module, variant)
        sums[name].add(x, y)

    seen = forward_batches(model, batches, watched, watch)
    require_reached(watched, sums)
    if seen < 2:
        raise ValueError(
            "data has one sample, over which an output does not vary: Beta-Rank needs at least 2 samples; 64 or more "
            "are recommended"
        )
    return {name: sums[name].deviations() for name in watched}


def stability_fraction(
    rankings: Sequence[Float[Tensor, "filters"]],
    fraction: float = 0.25,
    which: Literal["top", "bottom"] = "top",
    normalizer: int | None = None,
) -> float:
    """How much the filters chosen in repeated experiments differ: |union of the chosen sets| / normalizer.

    Args:
        rankings: the scores of one layer in each experiment.
        fraction: share of the filters that each experiment chooses, at least one.
        which: those of the highest or of the lowest scores; of equal ones the lower index.
        normalizer: default the number of filters chosen by all experiments together, so that the same choice in each
            of E gives 1/E and E choices without overlap 1.

    Raises:
        ValueError: no ranking, rankings of different lengths, a fraction outside (0, 1], an unknown `which`, or a
            normalizer below 1.
    """
    if not rankings or len({len(scores) for scores in rankings}) > 1:
        raise ValueError(
            f"rankings of {[len(scores) for scores in rankings]} filters: one or more of equal length are needed"
        )
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction={fraction}: a share in (0, 1] is accepted")
    if which not in ("top", "bottom"):
        raise ValueError(f"which={which!r} is not known; accepted: 'top', 'bottom'")
    if normalizer is not None and normalizer < 1:
        raise ValueError(f"normalizer={normalizer}: the number of filters of all methods is at least 1")
    count = max(1, int(fraction * len(rankings[0])))
    chosen = [set(scores.argsort(stable=True, descending=which == "top")[:count].tolist()) for scores in rankings]
    return len(set.union(*chosen)) / (normalizer or count * len(chosen))


class _Sums:
    """Running sums of one layer."""

    def __init__(self, name: str, module: Any, variant: Variant) -> None:
        if variant == "upstream" and not isinstance(module, nn.Conv2d):
            raise ValueError(f"{name} is a {type(module).__name__}: variant='upstream' knows Conv2d only; use 'fixed'")
        self.name, self.module, self.variant = name, module, variant
        self.groups: int = 1 if variant == "upstream" else getattr(module, "groups", 1)
        self.shapes: tuple[torch.Size, torch.Size] | None = None
        self.samples = self.summands = 0
        self.x1 = self.x2 = self.y1 = self.y2 = torch.zeros(())

    def add(self, x: Float[Tensor, "batch channels *size"], y: Float[Tensor, "batch filters *positions"]) -> None:
        shapes = (x.shape[1:], y.shape[1:])
        if self.shapes not in (None, shapes):
            raise ValueError(
                f"{self.name} had inputs of shape {tuple(self.shapes[0])} and now of {tuple(shapes[0])}: positions are "
                "compared one by one, so give inputs of one size"
            )
        self.shapes = shapes
        # The official code sums over batch and columns, which it takes for channels.
        x = x.movedim(3, 1).unsqueeze(1) if self.variant == "upstream" else x.unflatten(1, (self.groups, -1))
        x1, x2 = _sums(x)
        y1, y2 = _sums(y[:, None, None])
        if self.variant == "upstream":
            x1, x2 = x1[0], x2[0]
        self.x1, self.x2, self.y1, self.y2 = self.x1 + x1, self.x2 + x2, self.y1 + y1[0], self.y2 + y2[0]
        self.samples += len(x)
        self.summands += x.shape[0] * x.shape[2]

    def deviations(self) -> Deviations:
        inputs = self._upstream_inputs() if self.variant == "upstream" else self._patch_inputs()
        outputs = _deviation(self.y1 / self.samples, self.y2 / self.samples)
        if not bool(self.x2.isfinite().all() and self.y2.isfinite().all()):
            raise ValueError(f"{self.name}: its activations are not finite")
        return Deviations(inputs, outputs)

    def _patch_inputs(self) -> Tensor:
        """sigma_in^2 = box(mean x^2) - box(mean x)^2 over padded maps."""
        x1, x2 = self.x1 / self.summands, self.x2 / self.summands
        if isinstance(self.module, nn.Linear):
            return _deviation(x1, x2)
        padding, mode = self.module._reversed_padding_repeated_twice, self.module.padding_mode
        return _deviation(*(self._box(_pad(means, padding, mode)) for means in (x1, x2)))

    def _box(self, means: Float[Tensor, "groups *size"]) -> Float[Tensor, "groups *positions"]:
        kernel = self.module.kernel_size
        box = means.new_full((1, 1, *kernel), 1 / torch.Size(kernel).numel())
        convolve = _CONVOLVE[len(kernel)]
        return convolve(means[:, None], box, stride=self.module.stride, dilation=self.module.dilation)[:, 0]

    def _upstream_inputs(self) -> Tensor:
        """inp[:, a s : a s + kh, b s : b s + kw, :] of an NCHW tensor, cut off at its borders; empty slices are NaN."""
        kernel, stride = self.module.kernel_size, self.module.stride
        rows, columns = self.y1.shape[1:]
        needed = [(count - 1) * step + size for count, step, size in zip((rows, columns), stride, kernel, strict=True)]
        ones = torch.full_like(self.x1, self.summands)
        windows = []
        for sums in (ones, self.x1, self.x2):
            missing = [max(0, length - have) for length, have in zip(needed, sums.shape, strict=True)]
            padded = functional.pad(sums, (0, missing[1], 0, missing[0]))[None, None]
            windows.append(
                functional.conv2d(padded, padded.new_ones(1, 1, *kernel), stride=stride)[0, :, :rows, :columns]
            )
        count, x1, x2 = windows
        return _deviation(x1 / count, x2 / count)


def _sums(x: Float[Tensor, "batch groups members *size"]) -> tuple[Tensor, Tensor]:
    """Sums of x and x^2 over batch and members, (groups, *size), in float64, on the CPU.

    A block at a time goes through one buffer that fits into the processor's cache: fresh memory for every block costs
    more than the sums.
    """
    flat = x.flatten(3) if x.ndim > 3 else x[..., None]
    samples, groups, members, places = flat.shape
    sums = x.new_zeros(2, groups, places, dtype=torch.float64)
    wide = min(places, max(_ROW, _AT_ONCE // (samples * groups * members)))
    high = min(samples, max(1, _AT_ONCE // (groups * members * wide)))
    buffer = x.new_empty(high * groups * members * wide, dtype=torch.float64)
    for start in range(0, places, wide):
        columns = flat[..., start : start + wide]
        for part in columns.split(high):
            block = buffer[: part.numel()].view(part.shape).copy_(part)
            sums[0, :, start : start + wide] += block.sum((0, 2))
            sums[1, :, start : start + wide] += block.mul_(block).sum((0, 2))
    first, second = sums.cpu().view(2, groups, *x.shape[3:])
    return first, second


def _pad(means: Tensor, padding: Sequence[int], mode: str) -> Tensor:
    return functional.pad(means[:, None], padding, mode="constant" if mode == "zeros" else mode)[:, 0]


def _deviation(mean: Tensor, mean_square: Tensor) -> Tensor:
    variance = mean_square - mean.square()
    return torch.where(variance <= _ROUNDING * mean_square, torch.zeros_like(variance), variance).sqrt()


def _ratios(found: Deviations, ratio: Ratio, variant: Variant) -> Float[Tensor, "filters"] | None:
    """The sum over positions of the ratio of deviations, or None where the inputs are constant."""
    per_group = len(found.output) // len(found.input)
    inputs = found.input.repeat_interleave(per_group, 0).reshape(len(found.output), -1)
    outputs = found.output.reshape(len(found.output), -1)
    if variant == "upstream":  # inf stays, as in the official code
        quotient = outputs / inputs if ratio == "out_over_in" else inputs / outputs
        return torch.where(quotient.isnan(), torch.zeros_like(quotient), quotient).sum(1)
    if not bool((found.input > 0).any()):
        return None
    valid = inputs > _FLAT * found.input.median()
    if ratio == "out_over_in":
        return torch.where(valid, outputs / inputs, torch.zeros_like(outputs)).sum(1)
    return torch.where(valid & (outputs > 0), inputs / outputs, torch.zeros_like(outputs)).sum(1)


def _minmax(scores: Tensor) -> Tensor:
    low, high = scores.min(), scores.max()
    return (scores - low) / (high - low) if high - low > _EQUAL * high else torch.ones_like(scores)


def _check(ratio: str, variant: str, normalize: str | None, fallback: str | None) -> None:
    for name, value, accepted in (
        ("ratio", ratio, get_args(Ratio)),
        ("variant", variant, get_args(Variant)),
        ("normalize", normalize, ("minmax", None)),
        ("fallback", fallback, ("l1", None)),
    ):
        if value not in accepted:
            raise ValueError(f"{name}={value!r} is not known; accepted: {', '.join(map(repr, accepted))}")
