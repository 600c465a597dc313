"""LoCA: a change of few cosines whose places are learned (Du et al. 2025, arXiv 2502.06820).

    dW = s C_p^T S C_q,   S[u_i, v_i] += a_i,   (u, v) = round(clamp(theta) * (p - 1, q - 1))

C_n is the orthonormal DCT-II matrix, a the k amplitudes and theta their places in [0, 1]. An amplitude's gradient is a
cell of K = C_p (dL/d C_p^T S C_q) C_q^T; a place gets half the difference of the neighbouring cells, times its
amplitude, which is what moving the amplitude by one cell would do to the loss.
"""

from __future__ import annotations

import math
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar, Literal, NamedTuple, cast, get_args

import torch
from jaxtyping import Float, Int
from peft import PeftConfig
from peft.utils import TRANSFORMERS_MODELS_TO_FOURIERFT_TARGET_MODULES_MAPPING
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from fullrank.adapt.config import DeltaConfig
from fullrank.adapt.delta import FrozenLayer
from fullrank.adapt.loca_schedule import AlternatingDelta, AlternatingModel, alternating_deltas
from fullrank.adapt.registration import register
from fullrank.linalg import cosine_rows, dct2, idct2

Transform = Literal["auto", "fft", "gemm", "sparse", "factored"]
Placement = Literal["uniform", "distinct", "low_frequency", "grid"]

_CLAMP = 0.999
_TABLE = 4096  # the largest basis that is kept as a matrix
_BUILD = 2000  # flops of matrix products in the time that the fast transform takes for one cell
_CROWDED = 0.1  # share of occupied cells from which uniform places often coincide


@dataclass
class LocaConfig(DeltaConfig):
    """Configuration of LoCA; the fields that it shares with every adapter are those of `DeltaConfig`.

    Args:
        n_frequency: k, amplitudes per layer. Default 1000.
        scale: s, applied as it is. Default 1.
        loca_dropout: probability of dropout on the input of the change. Default 0.
        learn_location_steps: B_s, steps after which the places are frozen; a float is a share of all steps, which
            `LocaCallback` or `update_schedule` make known. 0 never learns them. Default 0.1.
        coefficient_steps: B_a, steps on the amplitudes in every cycle. Default 10.
        location_steps: B_l, steps on the places in every cycle. Default 20.
        location_grad_clip: bound of a place's gradient per cell; None for none, as the paper has it. Default 1, as the
            authors' code has it.
        clamp_max: largest place. Default 0.999, as the authors' code has it, which never reaches the last frequencies
            of sides above 500; 1 reaches all.
        init_locations: "uniform" (independent, so cells may coincide), "distinct" (cells drawn without replacement),
            "low_frequency" (the k cells nearest to the constant one), "grid" (evenly spread). Default "uniform".
        random_loc_seed: seed of the drawn places, different in every layer; None draws from the global generator.
        transform: how the change is computed, all exact: "fft", "gemm" (dense bases), "sparse" (k rank-one terms),
            "factored" (applied without building it), or "auto", the cheapest of "fft" and "factored".
        schedule_mode: how a parameter rests: "mask" (its gradient is dropped; right under DDP and torch.compile) or
            "requires_grad". Default "mask".
        count: "steps" of the optimiser, or "forward" passes in training, as the authors' code counts. Default "steps".
        n_frequency_pattern: layer name or regular expression -> another `n_frequency`.
        scale_pattern: layer name or regular expression -> another `scale`.
        init_weights: True starts from amplitudes of zero, False from standard normal ones.

    Raises:
        ValueError: naming the field, the value and what is accepted.
    """

    method: ClassVar[str] = "loca"
    patterns: ClassVar[dict[str, str]] = {"n_frequency_pattern": "n_frequency", "scale_pattern": "scale"}

    n_frequency: int = 1000
    scale: float = 1.0
    loca_dropout: float = 0.0
    learn_location_steps: int | float = 0.1
    coefficient_steps: int = 10
    location_steps: int = 20
    location_grad_clip: float | None = 1.0
    clamp_max: float = _CLAMP
    init_locations: Placement = "uniform"
    random_loc_seed: int | None = 777
    transform: Transform = "auto"
    schedule_mode: Literal["mask", "requires_grad"] = "mask"
    count: Literal["steps", "forward"] = "steps"
    n_frequency_pattern: dict[str, int] = field(default_factory=dict)
    scale_pattern: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("n_frequency", "coefficient_steps", "location_steps"):
            _check_count(name, getattr(self, name), at_least=1)
        if isinstance(self.learn_location_steps, float):
            if not 0 <= self.learn_location_steps <= 1:
                raise ValueError(
                    f"learn_location_steps={self.learn_location_steps}: use a share of all steps between 0.0 and 1.0, "
                    "or an integer number of steps"
                )
        else:
            _check_count("learn_location_steps", self.learn_location_steps, at_least=0)
        if not math.isfinite(self.scale):
            raise ValueError(f"scale={self.scale}: use a finite number")
        if not 0 <= self.loca_dropout < 1:
            raise ValueError(f"loca_dropout={self.loca_dropout}: use a probability in [0, 1)")
        if self.location_grad_clip is not None and not self.location_grad_clip > 0:
            raise ValueError(f"location_grad_clip={self.location_grad_clip}: use a positive number, or None for none")
        if not 0 < self.clamp_max <= 1:
            raise ValueError(f"clamp_max={self.clamp_max}: use a number in (0, 1]")
        for name, kind in (("init_locations", Placement), ("transform", Transform)):
            _check_choice(name, getattr(self, name), get_args(kind))
        _check_choice("schedule_mode", self.schedule_mode, ("mask", "requires_grad"))
        _check_choice("count", self.count, ("steps", "forward"))
        _check_choice("init_weights", self.init_weights, (True, False))
        super().__post_init__()


def locate(theta: Float[Tensor, "2 k"], shape: tuple[int, int], clamp_max: float = _CLAMP) -> Int[Tensor, "2 k"]:
    """The cells of normalised places: round(clamp(theta, 0, clamp_max) * (p - 1, q - 1)), halves to even.

    Args:
        theta: row 0 along the outputs, row 1 along the inputs.
        shape: (p, q).
        clamp_max: largest place; default 0.999.

    Source: the authors' code.
    """
    return (theta.clamp(0, clamp_max) * _steps(theta, shape)).round().to(torch.int32)


class CosineSeries(NamedTuple):
    """A sparse cosine series on a (p, q) grid, as a matrix and as a linear map; every way of computing it is exact.

    Attributes:
        shape: (p, q).
        scale: s.
        transform: see `LocaConfig`.
        clip: bound of a place's gradient per cell, or None.
        clamp_max: largest place.
        trained: whether amplitudes and places get their gradients; zeros otherwise.
    """

    shape: tuple[int, int]
    scale: float = 1.0
    transform: Transform = "auto"
    clip: float | None = 1.0
    clamp_max: float = _CLAMP
    trained: tuple[bool, bool] = (True, True)

    def build(self, a: Tensor, indices: Tensor) -> Tensor:
        """dW = s C_p^T S C_q."""
        (p, q), (u, v) = self.shape, indices.long()
        if self.transform == "sparse":
            return self.scale * (_rows(u, p, a.dtype).mT * a) @ _rows(v, q, a.dtype)
        S = a.new_zeros(p, q).index_put_((u, v), a, accumulate=True)  # cells that coincide add up
        if self.transform == "gemm":
            return self.scale * _basis(p, a.dtype, a.device).mT @ S @ _basis(q, a.dtype, a.device)
        return self.scale * idct2(S)

    def factored(self, tokens: int, k: int, products: int = 1) -> bool:
        """Whether `products` pairs of thin products are cheaper than building the matrix."""
        if self.transform != "auto":
            return self.transform == "factored"
        p, q = self.shape
        return max(p, q) <= _TABLE and 2 * tokens * k * (p + q) * products < (2 * tokens + _BUILD) * p * q

    def spectrum_of(self, gradient: Tensor) -> Tensor:
        """K = C_p G C_q^T."""
        if self.transform != "gemm":
            return dct2(gradient)
        p, q = self.shape
        left, right = (_basis(n, gradient.dtype, gradient.device) for n in (p, q))
        return left @ gradient @ right.mT


class _Apply(torch.autograd.Function):
    """x dW^T, or dW itself without x. Keeps x, a and the places for the backward pass, and no (p, q) matrix."""

    @staticmethod
    def forward(ctx: Any, x: Tensor | None, a: Tensor, theta: Tensor, indices: Tensor, series: CosineSeries) -> Tensor:
        ctx.save_for_backward(x, a, theta, indices)
        ctx.series = series
        wide = _wide(a)
        if x is None:
            return series.build(wide, indices).to(a.dtype)
        if series.factored(x[..., 0].numel(), len(a)):
            (p, q), (u, v) = series.shape, indices.long()
            C, D = _rows(u, p, wide.dtype), _rows(v, q, wide.dtype)
            return (((x @ D.to(x.dtype).mT) * (series.scale * wide).to(x.dtype)) @ C.to(x.dtype)).to(x.dtype)
        return x @ series.build(wide, indices).to(x.dtype).mT

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, a, theta, indices = ctx.saved_tensors
        series: CosineSeries = ctx.series
        for_x, for_a, for_theta = ctx.needs_input_grad[:3]
        moving = for_theta and series.trained[1]
        if x is None:
            grad_x, cell = None, _cells(series.scale * series.spectrum_of(_wide(g)), indices)
        elif series.factored(x[..., 0].numel(), len(a), products=3 if moving else 1):
            grad_x, cell = _thin(x, a, indices, g, series, for_x)
        else:
            grad_x = g @ series.build(_wide(a), indices).to(g.dtype) if for_x else None
            Gamma = series.scale * _wide(g.flatten(0, -2).mT @ x.flatten(0, -2))
            cell = _cells(series.spectrum_of(Gamma), indices) if moving or series.trained[0] else _none
        grad_a = grad_theta = None
        if for_a:
            grad_a = cell(0, 0).to(a.dtype) if series.trained[0] else torch.zeros_like(a)
        if for_theta:
            grad_theta = _move(cell, _wide(a), theta, series).to(theta.dtype) if moving else torch.zeros_like(theta)
        return grad_x, grad_a, grad_theta, None, None


Cells = Callable[[int, int], Tensor]


def _move(cell: Cells, a: Tensor, theta: Tensor, series: CosineSeries) -> Tensor:
    """dL/dtheta: the central difference between neighbouring cells, clamped, times d cell / d theta."""
    along = torch.stack([cell(1, 0) - cell(-1, 0), cell(0, 1) - cell(0, -1)]) * (a / 2)
    if series.clip is not None:
        along = along.clamp(-series.clip, series.clip)
    inside = (theta >= 0) & (theta <= series.clamp_max)
    return torch.where(inside, along * _steps(theta, series.shape), 0)


def _cells(K: Tensor, indices: Tensor) -> Cells:
    """K at the places and beside them; the border stands for what lies behind it."""
    (p, q), (u, v) = K.shape, indices.long()
    return lambda du, dv: K[(u + du).clamp(0, p - 1), (v + dv).clamp(0, q - 1)]


def _none(du: int, dv: int) -> Tensor:
    raise RuntimeError("no parameter of the series is trained")


def _thin(
    x: Tensor, a: Tensor, indices: Tensor, g: Tensor, series: CosineSeries, for_x: bool
) -> tuple[Tensor | None, Cells]:
    """The gradient of x and K at the places, K[u, v] = s sum_t (g_t . c_u) (x_t . d_v), without a (p, q) matrix."""
    (p, q), (u, v) = series.shape, indices.long()
    tokens, slopes = x.flatten(0, -2), g.flatten(0, -2)

    @lru_cache
    def left(du: int) -> Tensor:
        return slopes @ _rows((u + du).clamp(0, p - 1), p, torch.promote_types(a.dtype, torch.float32)).to(g.dtype).mT

    @lru_cache
    def right(dv: int) -> Tensor:
        return tokens @ _rows((v + dv).clamp(0, q - 1), q, torch.promote_types(a.dtype, torch.float32)).to(x.dtype).mT

    def cell(du: int, dv: int) -> Tensor:
        return series.scale * (_wide(left(du)) * _wide(right(dv))).sum(0)

    if not for_x:
        return None, cell
    D = _rows(v, q, _wide(a).dtype).to(g.dtype)
    return ((left(0) * (series.scale * _wide(a)).to(g.dtype)) @ D).reshape(x.shape), cell


def loca_delta(
    spectrum: Float[Tensor, "k"],
    locations: Float[Tensor, "2 k"],
    shape: tuple[int, int],
    *,
    scale: float = 1.0,
    transform: Transform = "auto",
    location_grad_clip: float | None = 1.0,
    clamp_max: float = _CLAMP,
) -> Float[Tensor, "p q"]:
    """The change dW = s C_p^T S C_q of amplitudes at normalised places, differentiable in both.

    Args:
        spectrum: a.
        locations: theta; its gradient is the surrogate described at the top of the module.
        shape: (p, q).
        scale, transform, location_grad_clip, clamp_max: see `LocaConfig`; "auto" and "factored" build by "fft".

    Source: the authors' code, with an exact basis.
    """
    series = CosineSeries(shape, scale, transform, location_grad_clip, clamp_max)
    return cast(Tensor, _Apply.apply(None, spectrum, locations, locate(locations.detach(), shape, clamp_max), series))


class LocaDelta(AlternatingDelta):
    """Amplitudes at learned places of the cosine spectrum of one layer's change."""

    supports: ClassVar[tuple[type[nn.Module], ...]] = (nn.Linear, Conv1D, nn.Conv2d)

    def __init__(self, base: FrozenLayer, config: LocaConfig) -> None:
        super().__init__(base, config)
        self.series = CosineSeries(
            (base.out_features, base.in_features),
            config.scale,
            config.transform,
            config.location_grad_clip,
            config.clamp_max,
        )
        self.placement, self.seed, self.init = config.init_locations, config.random_loc_seed, config.init_weights
        self.dropout = nn.Dropout(config.loca_dropout)
        k = config.n_frequency
        _check_room(base, k, self.placement, self.reach)
        self.spectrum = nn.Parameter(torch.empty(k))
        locations = torch.empty(2, k, dtype=torch.float32)
        if self.schedule.learn == 0:
            self.register_buffer("locations", locations)
        else:
            self.locations = nn.Parameter(locations)
        self.register_buffer("indices", torch.zeros(2, k, dtype=torch.int32))

    @property
    def reach(self) -> tuple[int, int]:
        """Rows and columns of the grid that places can reach."""
        rows, columns = locate(torch.ones(2, 1), self.series.shape, self.series.clamp_max).flatten().tolist()
        return rows + 1, columns + 1

    def reset(self) -> None:
        """Amplitudes of zero at the places of `init_locations`, step 0."""
        if self.init:
            nn.init.zeros_(self.spectrum)
        else:
            nn.init.normal_(self.spectrum)
        theta = self._places(len(self.spectrum))
        self.locations.copy_(theta)
        self.indices.copy_(locate(theta, self.series.shape, self.series.clamp_max))
        self.restart()

    def weight(self) -> Float[Tensor, "out in"]:
        """s C_p^T S C_q."""
        return self._apply_to(None)

    def forward(self, x: Float[Tensor, "*batch in"], y: Float[Tensor, "*batch out"]) -> Float[Tensor, "*batch out"]:
        """dropout(x) dW^T. For many calls in evaluation merge the adapter: the change is computed at every call."""
        if self.training and torch.is_grad_enabled():
            self.watch()
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        with torch.autocast(x.device.type, enabled=False):
            return self._apply_to(self.dropout(x))

    def cells(self) -> Int[Tensor, "2 k"]:
        """(u, v), the integer places that the change has now."""
        if self.phase == "frozen":
            return self.indices
        return locate(self.locations.detach(), self.series.shape, self.series.clamp_max)

    def _apply_to(self, x: Tensor | None) -> Tensor:
        series = self.series._replace(trained=(self.phase != "locations", self.phase == "locations"))
        return cast(Tensor, _Apply.apply(x, self.spectrum, self.locations, self.cells(), series))

    def _places(self, k: int) -> Tensor:
        (p, q), (rows, columns) = self.series.shape, self.reach
        generator = None
        if self.seed is not None:
            # the same seed would draw the same places in every layer
            generator = torch.Generator().manual_seed(self.seed ^ zlib.crc32(self.base.name.encode()))
        if self.placement == "uniform":
            return torch.rand(2, k, generator=generator)
        if self.placement == "distinct":
            chosen = torch.randperm(rows * columns, generator=generator)[:k]
        elif self.placement == "low_frequency":
            frequency = (torch.arange(rows)[:, None] / p) ** 2 + (torch.arange(columns) / q) ** 2
            chosen = frequency.flatten().argsort(stable=True)[:k]
        else:
            chosen = _grid(k, rows, columns)
        return _normalised(torch.stack([chosen // columns, chosen % columns]), (p, q))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        shape, theta = self.series.shape, state_dict.get(f"{prefix}locations")
        indices = state_dict.get(f"{prefix}indices")
        if indices is not None:
            self._check_indices(indices)
        # a checkpoint holds the places either frozen or continuous
        if theta is None and indices is not None:
            state_dict[f"{prefix}locations"] = _normalised(indices, shape)
            state_dict[f"{prefix}step"] = torch.full_like(self.step, -1)
        if indices is None and theta is not None:
            state_dict[f"{prefix}indices"] = locate(theta, shape, self.series.clamp_max)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _check_indices(self, indices: Tensor) -> None:
        last = torch.tensor(self.series.shape)[:, None] - 1
        if bool(((indices.cpu() < 0) | (indices.cpu() > last)).any()):
            raise ValueError(
                f"the checkpoint puts amplitudes of {self.base.name!r} at cells up to {indices.amax(1).tolist()}, and "
                f"the layer is {self.series.shape[0]} x {self.series.shape[1]}: load it into the model that it was "
                "trained on"
            )


class LocaReport(NamedTuple):
    """What LoCA does in one layer.

    Attributes:
        n_frequency: k, the amplitudes, which is the number that papers report.
        n_optimized: parameters that are trained while places are learned: 3 k, or k if they never are.
        duplicates: amplitudes that share their cell with an earlier one.
        moved: amplitudes that are in another cell than at the start; None if places were drawn without a seed.
        relative_norm: ||dW||_F / ||W0||_F.
    """

    n_frequency: int
    n_optimized: int
    duplicates: int
    moved: int | None
    relative_norm: float


class LocaTuner(AlternatingModel):
    """What LoCA's tuner can do beyond every other: its schedule, and a look at spectra."""

    @torch.no_grad()
    def loca_spectrum_map(self, layer: str, adapter_name: str | None = None) -> Float[Tensor, "p q"]:
        """S, the sparse cosine spectrum of a layer's change, of the active adapter by default.

        Raises:
            ValueError: no such layer or adapter.
        """
        known = {delta.base.name: delta for delta in self._loca(adapter_name)}
        if layer not in known:
            raise ValueError(f"layer={layer!r}: the adapter changes {', '.join(known) or 'none'}")
        delta = known[layer]
        u, v = delta.cells().long()
        return delta.spectrum.new_zeros(delta.series.shape).index_put_((u, v), delta.spectrum, accumulate=True)

    @torch.no_grad()
    def loca_report(self, adapter_name: str | None = None) -> dict[str, LocaReport]:
        """Layer name -> what the adapter does there; of the active adapter by default."""
        return {delta.base.name: _report(delta) for delta in self._loca(adapter_name)}

    def _loca(self, adapter_name: str | None) -> list[LocaDelta]:
        return [delta for delta in alternating_deltas(self.model, adapter_name) if isinstance(delta, LocaDelta)]

    def _post_injection_hook(self, model: nn.Module, config: PeftConfig, adapter_name: str) -> None:
        super()._post_injection_hook(model, config, adapter_name)
        deltas = [d for d in alternating_deltas(model, adapter_name) if isinstance(d, LocaDelta)]
        crowded = [d for d in deltas if len(d.spectrum) > _CROWDED * math.prod(d.series.shape)]
        if crowded and cast(LocaConfig, config).init_locations == "uniform":
            warnings.warn(
                f"n_frequency={len(crowded[0].spectrum)} places, drawn independently, often coincide among the "
                f"{math.prod(crowded[0].series.shape)} cells of {crowded[0].base.name!r} ({len(crowded)} such layers): "
                'use init_locations="distinct", or fewer by n_frequency_pattern',
                stacklevel=2,
            )


LocaModel = register(LocaConfig, LocaDelta, TRANSFORMERS_MODELS_TO_FOURIERFT_TARGET_MODULES_MAPPING, LocaTuner)
LocaLayer = LocaModel.tuner_layer_cls
LocaLinear = LocaModel.layer_types[nn.Linear]


def _report(delta: LocaDelta) -> LocaReport:
    k, cells = len(delta.spectrum), delta.cells().cpu()
    moved = None
    if delta.seed is not None or delta.placement in ("low_frequency", "grid"):
        start = locate(delta._places(k), delta.series.shape, delta.series.clamp_max)
        moved = int((start != cells).any(0).sum())
    return LocaReport(
        n_frequency=k,
        n_optimized=k if delta.schedule.learn == 0 else 3 * k,
        duplicates=k - cells.unique(dim=1).shape[1],
        moved=moved,
        relative_norm=float(delta.weight().float().norm() / delta.base.weight.float().norm()),
    )


def _check_room(base: FrozenLayer, k: int, placement: Placement, reach: tuple[int, int]) -> None:
    cells = math.prod(reach)
    if k > cells and placement != "uniform":
        raise ValueError(
            f"n_frequency={k} cannot be placed {placement!r} in {base.name!r}: of its {base.out_features} x "
            f"{base.in_features} = {base.out_features * base.in_features} cells {cells} can be reached; lower it there "
            "with n_frequency_pattern"
        )


def _check_count(name: str, value: Any, at_least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < at_least:
        raise ValueError(f"{name}={value!r}: use an integer of at least {at_least}")


def _check_choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name}={value!r}: use one of {', '.join(map(repr, choices))}")


def _grid(k: int, rows: int, columns: int) -> Tensor:
    """k cells of an even lattice over rows x columns."""
    r = min(max(round(math.sqrt(k * rows / columns)), math.ceil(k / columns)), rows)
    c = math.ceil(k / r)
    lattice = (_even(r, rows)[:, None] * columns + _even(c, columns)).flatten()
    return lattice[torch.arange(k) * (r * c) // k]


def _even(points: int, size: int) -> Tensor:
    return torch.linspace(0, size - 1, points, dtype=torch.float64).round().long()


def _normalised(cells: Tensor, shape: tuple[int, int]) -> Tensor:
    return cells.float() / _steps(cells, shape).clamp(min=1).float()


def _steps(places: Tensor, shape: tuple[int, int]) -> Tensor:
    return torch.tensor(shape, device=places.device)[:, None] - 1


def _wide(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()


def _rows(frequencies: Tensor, n: int, dtype: torch.dtype) -> Tensor:
    if n > _TABLE:
        return cosine_rows(frequencies, n, dtype)
    return _basis(n, dtype, frequencies.device)[frequencies]


@lru_cache(8)
def _basis(n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return cosine_rows(torch.arange(n, device=device), n, dtype)
