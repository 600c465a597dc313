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
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple, cast, get_args

import torch
from jaxtyping import Float, Int
from peft.utils import TRANSFORMERS_MODELS_TO_FOURIERFT_TARGET_MODULES_MAPPING
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from fullrank.adapt.autocast import autocast_dtype, without_autocast
from fullrank.adapt.config import DeltaConfig
from fullrank.adapt.delta import FrozenLayer
from fullrank.adapt.loca_schedule import AlternatingDelta, AlternatingModel, alternating_deltas
from fullrank.adapt.loca_series import CLAMP_MAX, ApplySeries, CosineSeries, Transform, grid_steps, locate
from fullrank.adapt.registration import register
from fullrank.adapt.sharding import whole

Placement = Literal["uniform", "distinct", "low_frequency", "grid"]

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
    clamp_max: float = CLAMP_MAX
    init_locations: Placement = "uniform"
    random_loc_seed: int | None = 777
    transform: Transform = "auto"
    schedule_mode: Literal["mask", "requires_grad"] = "mask"
    count: Literal["steps", "forward"] = "steps"
    n_frequency_pattern: dict[str, int] | None = field(default_factory=dict)
    scale_pattern: dict[str, float] | None = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._check_numbers()
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


class LocaDelta(AlternatingDelta):
    """Amplitudes at learned places of the cosine spectrum of one layer's change."""

    supports: ClassVar[tuple[type[nn.Module], ...]] = (nn.Linear, Conv1D, nn.Conv2d)
    shown = ("spectrum", "locations", "indices")

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
        shape, theta = self.series.shape, self._places(len(self.spectrum))
        cells = locate(theta, shape, self.series.clamp_max)
        self.indices.copy_(cells)
        self.locations.copy_(theta if self.schedule.learn else _normalised(cells, shape))
        self.restart()

    def weight(self) -> Float[Tensor, "out in"]:
        """s C_p^T S C_q."""
        return self._apply_to(None)

    def forward(self, x: Float[Tensor, "*batch in"], y: Float[Tensor, "*batch out"]) -> Float[Tensor, "*batch out"]:
        """dropout(x) dW^T. For many calls in evaluation merge the adapter: the change is computed at every call."""
        self._watch_training()
        if (dtype := autocast_dtype(x)) is not None:
            x = x.to(dtype)
        with without_autocast(x):
            return self._apply_to(self.dropout(x))

    def in_one_product(self, x: Tensor, W0: Tensor, b0: Tensor | None) -> Tensor | None:
        """x (W0 + dW)^T + b0, unless thin products are cheaper or dropout tells the two inputs apart."""
        drops = self.training and self.dropout.p > 0
        if drops or self.series.factored(x[..., 0].numel(), len(self.spectrum), beside_W0=False):
            return None
        self._watch_training()
        return self._apply_to(x, W0, b0)

    def cells(self) -> Int[Tensor, "2 k"]:
        """(u, v), the integer places that the change has now."""
        if self.phase == "frozen":
            return self.indices
        return locate(whole(self.locations), self.series.shape, self.series.clamp_max)

    def _watch_training(self) -> None:
        if self.training and torch.is_grad_enabled():
            self.watch()

    def _apply_to(self, x: Tensor | None, *base: Tensor | None) -> Tensor:
        series = self.series._replace(trained=(self.phase != "locations", self.phase == "locations"))
        a = self.spectrum
        if self.phase != "frozen":
            a = a + 0 * whole(self.locations).sum(0)  # nor is an amplitude a number whose place is none
        return cast(Tensor, ApplySeries.apply(x, a, self.locations, self.cells(), series, *base))

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

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """Add an adapter to the layers, and warn of layers that its places crowd; called by PEFT."""
        super().inject_adapter(model, adapter_name, *args, **kwargs)
        crowded = [d for d in self._loca(adapter_name) if len(d.spectrum) > _CROWDED * math.prod(d.series.shape)]
        if crowded and crowded[0].placement == "uniform":
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
    return cells.float() / grid_steps(cells, shape).clamp(min=1).float()
