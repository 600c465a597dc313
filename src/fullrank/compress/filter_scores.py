"""Scores of convolution filters: HRank, L1, random; and how a model's layers are watched while data pass through."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fullrank.compress.layers import CONVOLUTIONS
from fullrank.compress.statistics import batch_size
from fullrank.spectra import Spectrum
from fullrank.tasks.losses import call

#: A batch, or batches; see `forward_batches`.
Batches = Any
Scores = dict[str, Float[Tensor, "filters"]]
Watch = Callable[[str, Any, Tensor, Tensor], None]

_ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish)
_MAPS_AT_ONCE = 1 << 22  # entries of feature maps whose ranks are computed together


def scored_layers(model: nn.Module, layers: Sequence[str] | None = None) -> dict[str, Any]:
    """The layers whose filters are scored, by name.

    Args:
        model: the network.
        layers: names of convolutions and linear layers; default every convolution.

    Raises:
        ValueError: there is none, a name that is no such layer, or weights on the meta device.
    """
    modules = dict(model.named_modules())
    kinds = (*CONVOLUTIONS, nn.Linear)
    names = [name for name, module in modules.items() if isinstance(module, CONVOLUTIONS)] if layers is None else layers
    for name in names:
        if not isinstance(modules.get(name), kinds):
            raise ValueError(
                f"layers names {name!r}, which is no convolution or linear layer of {type(model).__name__}"
            )
        if modules[name].weight.is_meta:
            raise ValueError(f"{name} is on the meta device: load the model's weights first")
    if not names:
        raise ValueError(f"{type(model).__name__} has no convolution: filters are scored and pruned in convolutions")
    return {name: modules[name] for name in names}


def forward_batches(model: nn.Module, batches: Batches, layers: Mapping[str, nn.Module], watch: Watch) -> int:
    """Call the model once with every batch, in evaluation mode and without gradients, and watch its layers.

    Args:
        model: it is put back into its mode.
        batches: a batch, or an iterable of batches, see `listed`. A batch is a tensor, a mapping of keyword arguments,
            or a tuple or list of positional ones; of (inputs, labels) the labels are left out where the model takes one
            argument.
        layers: what is watched, by name.
        watch: called with name, layer, its input and its output, as soon as the layer has run.

    Returns:
        How many samples were seen.

    Raises:
        ValueError: no batch, or one without samples.
    """

    def hook(name: str) -> Callable[..., None]:
        return lambda module, inputs, output: watch(name, module, inputs[0].detach(), output.detach())

    handles = [module.register_forward_hook(hook(name)) for name, module in layers.items()]
    seen = 0
    try:
        with evaluating(model), torch.no_grad():
            for batch in listed(model, batches):
                batch = without_labels(model, batch)
                if not (size := batch_size(batch)):
                    raise ValueError("data holds a batch without samples: leave it out")
                call(model, batch)
                seen += size
    finally:
        for handle in handles:
            handle.remove()
    if not seen:
        raise ValueError("data holds no batch: scores need at least one")
    return seen


def listed(model: nn.Module, batches: Batches) -> Iterable[Any]:
    """Batches from a batch or batches.

    A tensor or a mapping is one batch. So is a tuple or list of tensors, such as (images, labels), that have one length
    but not all as many axes and one dtype, or of which the model cannot take one alone. Any other tuple or list, and
    any other iterable, holds batches: [(inputs, labels)] is one batch whatever its tensors are.

    Raises:
        ValueError: None.
    """
    if batches is None:
        raise ValueError("data is missing: give a batch of inputs, or batches, to score filters with")
    return [batches] if isinstance(batches, Tensor | Mapping) or _is_batch(model, batches) else batches


def without_labels(model: nn.Module, batch: Any) -> Any:
    """A batch as the model takes it: of (inputs, labels) the inputs, where it takes one argument."""
    if not isinstance(batch, tuple | list):
        return batch
    return batch if _takes(model, batch) else batch[0]


def _is_batch(model: nn.Module, given: Any) -> bool:
    """Whether a tuple or list holds the tensors of one batch."""
    if not isinstance(given, tuple | list) or len(given) < 2 or not all(isinstance(part, Tensor) for part in given):
        return False
    if not _takes(model, given[:1]):
        return _takes(model, given)
    alike = len({(part.ndim, part.dtype) for part in given}) == 1
    return not alike and len({part.shape[:1] for part in given}) == 1


def _takes(model: nn.Module, arguments: Sequence[Any]) -> bool:
    try:
        inspect.signature(model.forward).bind(*arguments)
    except TypeError:
        return False
    return True


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode; afterwards every module is in the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def filter_l1(model: nn.Module, batches: Batches, layers: Sequence[str] | None = None) -> Scores:
    """mean |w_k| times the number of output positions: the L1 baseline of Beta-Rank's code.

    The data only show how many positions there are; the order of the filters of a layer is that of their L1 norms.

    Returns:
        Scores of every layer, float64, on the CPU.

    Raises:
        ValueError: see `scored_layers` and `forward_batches`, or a layer that was not reached.
    """
    positions: dict[str, int] = {}

    def watch(name: str, module: Any, x: Tensor, y: Tensor) -> None:
        positions[name] = y[0].numel() // len(module.weight)

    watched = scored_layers(model, layers)
    forward_batches(model, batches, watched, watch)
    require_reached(watched, positions)
    return {name: mean_abs(module) * positions[name] for name, module in watched.items()}


def mean_abs(module: Any) -> Float[Tensor, "filters"]:
    """mean |w_k| of every filter, float64, on the CPU."""
    return module.weight.detach().double().abs().flatten(1).mean(1).cpu()


def hrank(model: nn.Module, batches: Batches, layers: Sequence[str] | None = None) -> Scores:
    """HRank (Lin et al. 2020, arXiv 2002.10179): the mean rank of the map that the activation makes of a filter.

    The map is the output of the next activation module that keeps the layer's number of channels (in a residual block,
    that behind the addition); where none follows, the layer's own output without its negative part.

    Returns:
        Mean ranks of every layer, float64, on the CPU.

    Raises:
        ValueError: see `scored_layers` and `forward_batches`, maps without two axes, NaN activations, or a layer that
            was not reached.
    """
    watched = scored_layers(model, layers)
    acts = {name: module for name, module in model.named_modules() if isinstance(module, _ACTIVATIONS)}
    sums: dict[str, Tensor] = {}
    counts = dict.fromkeys(watched, 0)
    waiting: dict[str, Tensor] = {}

    def add(name: str, maps: Tensor) -> None:
        sums[name] = sums.get(name, 0) + map_ranks(maps, name).sum(0)
        counts[name] += len(maps)

    def watch(name: str, module: Any, x: Tensor, y: Tensor) -> None:
        if name in watched:
            if name in waiting:  # no activation since its last call
                add(name, waiting.pop(name))
            waiting[name] = y.clamp_min(0)
            return
        for ready in [layer for layer, maps in waiting.items() if maps.shape[1] == y.shape[1]]:
            del waiting[ready]
            add(ready, y)

    forward_batches(model, batches, watched | acts, watch)
    for name, maps in waiting.items():
        add(name, maps)
    require_reached(watched, sums)
    return {name: (sums[name] / counts[name]).cpu() for name in watched}


def map_ranks(maps: Float[Tensor, "batch filters *positions"], name: str = "maps") -> Float[Tensor, "batch filters"]:
    """The numerical rank of every feature map, as `torch.linalg.matrix_rank` counts it, float64.

    Raises:
        ValueError: maps that are no matrices, or NaN.
    """
    if maps.ndim < 4:
        raise ValueError(f"{name}: HRank needs maps of two axes or more, these have {maps.ndim - 2}")
    matrices = maps.flatten(0, 1).flatten(1, -3) if maps.ndim > 4 else maps.flatten(0, 1)
    if not bool(matrices.isfinite().all()):
        raise ValueError(f"{name}: its activations are not finite")
    at_once = max(1, _MAPS_AT_ONCE // matrices[0].numel())
    ranks = [Spectrum.of(part, method="gram").numerical_rank for part in matrices.split(at_once)]
    return torch.cat(ranks).view(maps.shape[:2]).double()


def random_scores(model: nn.Module, layers: Sequence[str] | None = None, seed: int = 0) -> Scores:
    """Uniform scores: filters are removed at random."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.rand(len(module.weight), generator=generator, dtype=torch.float64)
        for name, module in scored_layers(model, layers).items()
    }


def require_reached(layers: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Every layer was called.

    Raises:
        ValueError: the first that was not.
    """
    for name in layers:
        if name not in found:
            raise ValueError(
                f"{name} was not reached: the model does not use it for these data; leave it out of layers"
            )
