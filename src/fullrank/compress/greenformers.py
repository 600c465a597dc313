"""`auto_fact`: every linear layer and convolution of a model as two thin ones (Greenformers, arXiv 2108.10808).

Users of the library change the import: names and the order of arguments are the same. The default solver is the exact
SVD, not random factors, which destroy trained weights; `rank_rule="greenformer"` gives the library's integers.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from fullrank.compress.factor_solvers import SOLVERS, Factors, randomized
from fullrank.compress.layers import (
    CONVOLUTIONS,
    LINEAR,
    TIED,
    Layer,
    Targets,
    matches,
    quantised,
    replace_module,
    shared_weights,
)
from fullrank.compress.method import Job, Method, Replaced, Step, relative_error
from fullrank.compress.plain_numbers import Number, Whole, is_whole, plain
from fullrank.compress.rank_rules import LayerSpectrum, RankRule, rule_of
from fullrank.linalg import require_finite
from fullrank.nn import LowRankConv1d, LowRankConv2d, LowRankConv3d, LowRankEmbedding, LowRankLinear

RankLimit = Literal["params", "greenformer"]
LED = LowRankLinear
_CED: dict[type[nn.Module], Any] = {nn.Conv1d: LowRankConv1d, nn.Conv2d: LowRankConv2d, nn.Conv3d: LowRankConv3d}
_FACTORED = (LowRankLinear, LowRankConv1d, LowRankConv2d, LowRankConv3d, LowRankEmbedding)
_DENSE = (*LINEAR, *CONVOLUTIONS, nn.Embedding)
_ALL_SOLVERS = ("random", *SOLVERS)


def CED(
    in_channels: int,
    out_channels: int,
    r: int,
    kernel_size: int | Sequence[int],
    stride: int | tuple[int, ...] = 1,
    padding: int | str | tuple[int, ...] = 0,
    dilation: int | tuple[int, ...] = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    bias: bool = True,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> nn.Module:
    """A convolution to r channels and a 1 x 1 convolution, over as many axes as `kernel_size` has (a number: two).

    Args:
        in_channels: of the input.
        out_channels: of the output.
        r: channels between the two.
        kernel_size, stride, padding, dilation, groups, padding_mode: of the first convolution.
        bias: of the second.
        device, dtype: of the parameters.

    Raises:
        ValueError: a `kernel_size` of more than three axes, or see `LowRankConv2d`.
    """
    size = (kernel_size,) * 2 if isinstance(kernel_size, int) else tuple(kernel_size)
    kinds: dict[int, Any] = {1: LowRankConv1d, 2: LowRankConv2d, 3: LowRankConv3d}
    if len(size) not in kinds:
        raise ValueError(f"kernel_size={size!r}: a number, or one for each of one to three axes")
    return kinds[len(size)](
        in_channels, out_channels, r, size, stride, padding, dilation, groups, bias, padding_mode, device, dtype
    )


def factor_rank(
    in_features: int,
    out_features: int,
    rank: Number,
    kernel: int = 1,
    groups: int = 1,
    rank_rule: RankLimit = "params",
    rank_multiple_of: Whole = 1,
) -> int | None:
    """The rank that `auto_fact` gives a layer; None where it stays dense.

    Args:
        in_features: inputs, or input channels.
        out_features: outputs, or output channels.
        rank: a whole number, or a fraction of the rank at which factors stop saving parameters.
        kernel: entries of a convolution's kernel.
        groups: of a convolution; the rank is raised to a multiple of them.
        rank_rule: "params" counts the kernel; "greenformer" does not, as the library.
        rank_multiple_of: the rank of a fraction is rounded down to a multiple, for accelerators whose tiles like that;
            a smaller one stays as it is.

    Raises:
        ValueError: a rank that is neither, or a multiple below 1.
    """
    rank, rank_multiple_of = check_rank(rank), plain(rank_multiple_of)
    if rank_multiple_of < 1:
        raise ValueError(f"rank_multiple_of={rank_multiple_of}: 1 or more is accepted")
    inputs = in_features * kernel if rank_rule == "params" and groups == 1 else in_features
    outputs = out_features // groups
    limit = inputs * outputs // (inputs + outputs)
    chosen = int(limit * rank) if rank < 1 else int(rank)
    if rank < 1 and chosen > rank_multiple_of:
        chosen -= chosen % rank_multiple_of
    chosen = math.ceil(chosen / groups) * groups
    return chosen if 0 < chosen < limit else None


def check_rank(rank: Any) -> int | float:
    """The rank as a number of Python; a ValueError unless it is whole and at least 1, or a fraction between 0 and 1."""
    rank = plain(rank)
    number = isinstance(rank, int | float) and not isinstance(rank, bool) and math.isfinite(rank)
    if not number or rank <= 0 or (isinstance(rank, float) and (rank == 1 or (rank > 1 and rank != int(rank)))):
        raise ValueError(
            f"rank={rank!r}: a whole number is an absolute rank, a number between 0 and 1 a fraction of the break-even "
            "rank; for rank one write 1, not 1.0"
        )
    return rank


def auto_fact(
    module: nn.Module,
    rank: Number,
    solver: str = "svd",
    num_iter: Whole = 10,
    submodules: Sequence[nn.Module | str] | nn.Module | str | None = None,
    deepcopy: bool = False,
    fact_led_unit: bool = False,
    *,
    rank_rule: RankLimit = "params",
    rank_multiple_of: Whole = 1,
    target_modules: Targets | None = None,
    exclude_modules: Targets = (),
    embeddings: bool = False,
    oversample: int = 8,
    seed: int = 0,
) -> nn.Module:
    """Factor the linear layers and convolutions of a model, and its embeddings on request.

    Args:
        module: a model, changed in place unless `deepcopy`; or one layer, whose factored form is returned.
        rank: see `factor_rank`.
        solver: "svd" (exact), "randomized", "snmf" (semi-non-negative), "nmf" (for non-negative weights), or "random"
            (new weights: for training from scratch; it forgets trained ones).
        num_iter: rounds of the solvers that iterate.
        submodules: only layers that are these modules, lie inside them, or have these names; default all.
        deepcopy: leave `module` as it is and return a copy; `submodules` are those of `module`.
        fact_led_unit: factor the factors of layers that are factored already, too.
        rank_rule, rank_multiple_of: see `factor_rank`.
        target_modules: only layers of these names, see `select_layers`.
        exclude_modules: layers of these names stay dense.
        embeddings: factor embedding tables too, which the library leaves; code that reads `embedding.weight` meets the
            method `weight()` there.
        oversample: further directions of "randomized".
        seed: of the solvers that start at random.

    Returns:
        The module, its copy, or the factored layer. Layers of other types, subclasses among them, stay as they are.

    Raises:
        ValueError: a bad rank, an unknown solver, fewer than no rounds, a submodule that is not inside, weights on the
            meta device or that are not finite, or negative ones with "nmf".
        TypeError: quantised weights, with their layer's class.
    """
    rank = check_rank(rank)
    if solver not in _ALL_SOLVERS:
        raise ValueError(f"solver={solver!r} is not known; accepted: {', '.join(map(repr, _ALL_SOLVERS))}")
    if not is_whole(num_iter, 0):
        raise ValueError(f"num_iter={num_iter!r}: a whole number of rounds is accepted")
    chosen = _chosen(module, submodules)
    for name, part in module.named_modules():
        if quantised(part) and (chosen is None or name in chosen):
            raise TypeError(
                f"{name or 'the layer'} is quantised, a {type(part).__name__}: dequantise the model before factoring it"
            )
    root = copy.deepcopy(module) if deepcopy else module
    generator = torch.Generator().manual_seed(seed)
    rank_of = partial(factor_rank, rank_rule=rank_rule, rank_multiple_of=rank_multiple_of)
    factor = partial(_factored, rank=rank, rank_of=rank_of, solver=solver, num_iter=int(num_iter),
                     oversample=oversample, generator=generator)  # fmt: skip
    kinds = _DENSE if embeddings else LINEAR + CONVOLUTIONS
    if type(root) in kinds:
        replaced = factor("the layer", root, set())
        _tell(not isinstance(replaced, str), {} if not isinstance(replaced, str) else {"the layer": replaced})
        return root if isinstance(replaced, str) else replaced
    tied = shared_weights(root)
    left: dict[str, str] = {}
    done = 0
    for name, layer in list(_leaves(root, kinds, fact_led_unit)):
        if chosen is not None and name not in chosen:
            continue
        if (target_modules is not None and not matches(name, target_modules)) or matches(name, exclude_modules):
            continue
        replaced = factor(name, layer, tied)
        if isinstance(replaced, str):
            left[name] = replaced
        else:
            replace_module(root, name, replaced)
            done += 1
    _tell(done > 0, left)
    return root


class LayerFactors(NamedTuple):
    """One layer before and after; see `fact_report`.

    Attributes:
        name: of the layer.
        rank: of its factors.
        parameters_before, parameters_after: weights and biases.
        macs_before, macs_after: multiply-adds of one position.
        error: relative Frobenius error of the weight.
    """

    name: str
    rank: int
    parameters_before: int
    parameters_after: int
    macs_before: int
    macs_after: int
    error: float


def fact_report(dense: nn.Module, factored: nn.Module) -> list[LayerFactors]:
    """What factoring did, layer by layer.

    Args:
        dense: the model before.
        factored: the same after `auto_fact`.

    Raises:
        ValueError: no layer of one is a factored layer of the other.
    """
    before = dict(dense.named_modules())
    rows = []
    for name, layer in factored.named_modules():
        if not isinstance(layer, _FACTORED) or type(before.get(name)) not in _DENSE:
            continue
        matrix = Layer(name, before[name]).matrix
        outputs, inputs = matrix.shape
        rows.append(
            LayerFactors(
                name,
                layer.rank,
                sum(p.numel() for p in before[name].parameters()),
                sum(p.numel() for p in layer.parameters()),
                *_macs(inputs, outputs, layer),
                relative_error(matrix, _product(layer)),
            )
        )
    if not rows:
        raise ValueError(
            "no factored layer has a dense one of the same name: give the model before and after auto_fact"
        )
    return rows


@dataclass
class GreenformersMethod(Method):
    """`auto_fact` as a method of `compress`, with any rank rule.

    Args:
        rank_rule: how large a rank each layer gets; default half of its parameters.
        solver: see `auto_fact`.
        num_iter: see `auto_fact`.
        seed: see `auto_fact`.
    """

    rank_rule: RankRule | None = None
    solver: str = "snmf"
    num_iter: int = 50
    seed: int = 0

    name = "greenformers"
    kinds = _DENSE

    def __post_init__(self) -> None:
        self.rank_rule = rule_of(self.rank_rule)
        if self.solver not in SOLVERS:
            raise ValueError(f"solver={self.solver!r} is not known; accepted: {', '.join(map(repr, SOLVERS))}")

    def steps(self, job: Job) -> Iterator[Step]:
        """Ranks from the plain spectra where the rule needs them, then layer by layer."""
        assert self.rank_rule is not None
        spectra = [LayerSpectrum(layer.name, *layer.shape, self._values(layer)) for layer in job.layers]
        ranks = self.rank_rule.ranks(spectra)
        for layer, spectrum in zip(job.layers, spectra, strict=True):
            yield layer, partial(self._replace, layer, ranks[layer.name], spectrum.break_even)

    def options(self) -> dict[str, Any]:
        """Rule, solver, rounds and seed."""
        return {
            "rank_rule": repr(self.rank_rule),
            "solver": self.solver,
            "num_iter": self.num_iter,
            "seed": self.seed,
        }

    def _values(self, layer: Layer) -> Tensor | None:
        from fullrank.linalg import singular_values

        return singular_values(layer.matrix) if self.rank_rule and self.rank_rule.needs_spectra else None

    def _replace(self, layer: Layer, rank: int, break_even: int) -> Replaced:
        if rank > break_even:
            return Replaced(layer.module, reason=f"rank {rank} saves nothing, the break-even rank is {break_even}")
        require_finite(layer.matrix, layer.name)
        generator = torch.Generator().manual_seed(self.seed)
        factors = SOLVERS[self.solver](layer.matrix, rank, self.num_iter, generator)
        module = _with_factors(layer.module, factors)
        lost = (layer.matrix.double() - factors.B.double() @ factors.A.double()).square().sum()
        return Replaced(module, rank, float(lost))


def _factored(
    name: str, layer: Any, tied: set[int], *, rank: int | float, rank_of: Callable[..., int | None], solver: str,
    num_iter: int, oversample: int, generator: torch.Generator,
) -> nn.Module | str:  # fmt: skip
    """The factored layer, or why it stays dense."""
    if not layer.weight.is_floating_point():
        raise TypeError(f"{name} has {layer.weight.dtype} weights: dequantise the model before factoring it")
    if layer.weight.is_meta and solver != "random":
        raise ValueError(f"{name} is on the meta device: load the model's weights first")
    if id(layer.weight) in tied:
        return TIED
    if getattr(layer, "max_norm", None) is not None:
        return f"it rescales its rows to max_norm={layer.max_norm}"
    groups = getattr(layer, "groups", 1)
    inputs, outputs, kernel = _sizes(layer)
    found = rank_of(inputs, outputs, rank, kernel, groups)
    if found is None:
        return f"rank {rank} of {inputs} to {outputs} saves nothing"
    if solver == "random":
        return _empty(layer, found)
    if groups > 1:
        return f"it has groups={groups}, which one factorisation would mix"
    require_finite(layer.weight.detach(), name)
    solve = partial(randomized, oversample=oversample) if solver == "randomized" else SOLVERS[solver]
    try:
        return _with_factors(layer, solve(Layer(name, layer).matrix, found, num_iter, generator))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _product(layer: Any) -> Tensor:
    """The factors' product as (out, in)."""
    weight = layer.weight().detach()
    return weight.mT if isinstance(layer, LowRankEmbedding) else weight.flatten(1)


def _macs(inputs: int, outputs: int, layer: Any) -> tuple[int, int]:
    """Multiply-adds of one position, dense and factored; looking up a row costs none."""
    if isinstance(layer, LowRankEmbedding):
        return 0, layer.rank * outputs
    return inputs * outputs, layer.rank * (inputs + outputs)


def _sizes(layer: Any) -> tuple[int, int, int]:
    """Inputs, outputs and entries of the kernel."""
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features, 1
    if isinstance(layer, Conv1D):
        return layer.weight.shape[0], layer.weight.shape[1], 1
    if isinstance(layer, nn.Embedding):
        return layer.num_embeddings, layer.embedding_dim, 1
    return layer.in_channels, layer.out_channels, math.prod(layer.kernel_size)


def _empty(layer: Any, rank: int) -> nn.Module:
    """A factored layer with new weights, like a dense one."""
    place = {"device": layer.weight.device, "dtype": layer.weight.dtype}
    inputs, outputs, _ = _sizes(layer)
    if isinstance(layer, nn.Embedding):
        return LowRankEmbedding(
            inputs, outputs, rank, layer.padding_idx, layer.scale_grad_by_freq, layer.sparse, **place
        ).train(layer.training)
    place["bias"] = layer.bias is not None
    if type(layer) in LINEAR:
        return LowRankLinear(inputs, outputs, rank, **place).train(layer.training)
    return _CED[type(layer)](
        inputs, outputs, rank, layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.groups,
        padding_mode=layer.padding_mode, **place,
    ).train(layer.training)  # fmt: skip


def _with_factors(layer: Any, factors: Factors) -> nn.Module:
    made: Any = _empty(layer, factors.A.shape[0])
    with torch.no_grad():
        A = factors.A.mT if isinstance(layer, nn.Embedding) else factors.A
        made.first.weight.copy_(A.reshape(made.first.weight.shape))
        made.second.weight.copy_(factors.B.view_as(made.second.weight))
        if getattr(layer, "bias", None) is not None:
            made.second.bias.copy_(layer.bias)
    return made.requires_grad_(layer.weight.requires_grad)


def _leaves(
    root: nn.Module, kinds: tuple[type[nn.Module], ...], fact_led_unit: bool
) -> Iterator[tuple[str, nn.Module]]:
    """Every layer that can be factored, once, by name."""
    factors = {id(part) for unit in root.modules() if isinstance(unit, _FACTORED) for part in unit.children()}
    for name, layer in root.named_modules():
        if type(layer) in kinds and (fact_led_unit or id(layer) not in factors):
            yield name, layer


def _chosen(module: nn.Module, submodules: Sequence[nn.Module | str] | nn.Module | str | None) -> set[str] | None:
    """Names of the layers that are submodules, or lie in one."""
    if submodules is None:
        return None
    if isinstance(submodules, nn.Module | str):
        submodules = [submodules]
    names = {id(part): name for name, part in module.named_modules()}
    known = set(names.values())
    roots: list[str] = []
    for part in submodules:
        found = [name for name in known if matches(name, [part])] if isinstance(part, str) else None
        if found is None and id(part) not in names:
            raise ValueError(f"submodules holds a {type(part).__name__} that is not inside the {type(module).__name__}")
        if found == []:
            raise ValueError(f"submodules names {part!r}, which the {type(module).__name__} does not have")
        roots += [names[id(part)]] if found is None else found
    return {name for name in known if any(f"{name}.".startswith(f"{root}." if root else "") for root in roots)}


def _tell(done: bool, left: dict[str, str]) -> None:
    if done:
        return
    reasons = "; ".join(f"{name}: {reason}" for name, reason in list(left.items())[:5])
    warnings.warn(
        f"no layer was factored ({reasons or 'none was asked for, or is of a type that can be'})", stacklevel=3
    )
