"""WaRA: low-rank factors of the bands of a wavelet transform (Heidari et al. 2025, arXiv 2506.24092).

    dW = s T_o^T C T_i,  C made of blocks B_b A_b

T_n is the orthonormal analysis matrix of one axis. "subband2d" has a pair for each band of the update (v1, abstract),
"per_band" only those on the diagonal, "shared" one pair for both diagonal bands (v1, figure), and "grid" one pair for
the bands of the patch grid (v2). The transform is applied to the factors and not to the activations:

    dW = s (T_o^T B) (A T_i) = s B' A',  y = y0 + s B' (A' x)

so a token costs what it costs in a LoRA of rank R, the sum of the bands' ranks. "tiny" freezes singular vectors of the
bands of W0 and trains a few coefficients.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, cast

import torch
from jaxtyping import Float
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from torch import Tensor, nn

from fullrank._optional import require
from fullrank.adapt.autocast import without_autocast
from fullrank.adapt.config import DeltaConfig
from fullrank.adapt.delta import Delta, FrozenLayer
from fullrank.adapt.registration import register
from fullrank.adapt.wara_grid import (
    ACTIVATIONS,
    PREFIX_TOKENS,
    PrefixAwareModel,
    band_names,
    dwt2_grid,
    grid_of,
    on_grid,
)
from fullrank.linalg import band_sizes, dwt, idwt, svd

_FORMS = ("subband2d", "per_band", "shared", "grid")
_ROUTES = ("auto", "activation", "weight")


@dataclass
class WaraConfig(DeltaConfig):
    """Configuration of WaRA; the fields that it shares with every adapter are those of `DeltaConfig`.

    A configuration that is algebraically another adapter gives a warning, see `is_degenerate`.

    Args:
        r: rank of every band, or band name -> rank, where bands that are not named are dropped. Default 8.
        mode: "subband2d" (default), "per_band", "shared", "grid" (recommended for vision transformers) or "tiny".
        wavelet: an orthogonal wavelet of PyWavelets. Default "haar".
        levels: levels of the transform. Default 1, the only one of "shared".
        wara_alpha: s = wara_alpha / r. Default r, that is s = 1.
        wara_dropout: probability of dropout of the adapter's input. Default 0.
        band_ranks: band name -> rank, where it is not `r`; zero drops the band. Names are those of `band_names`: "LL",
            then "LH1", "HL1", "HH1" for every level, the first letter for the input axis (along the rows of the grid),
            the second for the output axis (down its columns). "per_band" and "shared" have "LL" and "HH" only, of equal
            rank in "shared". The one pair of "grid" serves all bands: zero is the only other rank there.
        grid_size: (height, width) of the patch grid; default square.
        num_prefix_tokens: tokens before the patches; default the number that the model's type is known to have.
        band_gates: train a gate for each band and rank of the grid. Default True.
        activation: "relu", "gelu", "silu" or "tanh" in the wavelet domain of the grid; default none.
        svd_rank: "tiny": number of singular vectors per band. Default r.
        tiny_form: "tiny": the form whose pairs are replaced, "subband2d" (default), "per_band", "shared" (singular
            vectors of the band LL) or "grid" (of W0).
        tiny_projections: "tiny": 0 trains U diag(c) V^T, r numbers per band (default); K trains U (sum c_k P_k) V^T
            with K fixed random matrices, the same in all layers.
        tiny_sqrt_singular_values: "tiny": multiply U and V by the roots of the singular values. Default False.
        tiny_seed: "tiny": seed of the random matrices. Default 0.
        compute: "activation" (B' (A' x)), "weight" (dW x), or "auto" (default), the one with fewer multiplications.
        rank_pattern: layer name or regular expression -> another `r`.

    Raises:
        ValueError: a value out of range, an option that the mode does not have, or no band left.
    """

    method: ClassVar[str] = "wara"
    patterns: ClassVar[dict[str, str]] = {"rank_pattern": "r"}

    r: int | dict[str, int] = 8
    mode: str = "subband2d"
    wavelet: str = "haar"
    levels: int = 1
    wara_alpha: float | None = None
    wara_dropout: float = 0.0
    band_ranks: dict[str, int] | None = None
    grid_size: tuple[int, int] | list[int] | None = None
    num_prefix_tokens: int | None = None
    band_gates: bool = True
    activation: str | None = None
    svd_rank: int | None = None
    tiny_form: str = "subband2d"
    tiny_projections: int = 0
    tiny_sqrt_singular_values: bool = False
    tiny_seed: int = 0
    compute: str = "auto"
    rank_pattern: dict[str, int | dict[str, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.grid_size, list):
            self.grid_size = cast(tuple[int, int], tuple(self.grid_size))
        self._check()
        super().__post_init__()
        reason = is_degenerate(self)
        if reason is not None:
            warnings.warn(f"this WaRA is {reason}", stacklevel=3)

    @property
    def form(self) -> str:
        """Where the pairs lie: the mode, or the form that "tiny" takes the pairs of."""
        return self.tiny_form if self.mode == "tiny" else self.mode

    @property
    def rank(self) -> int:
        """The rank that bands have unless told otherwise; the largest one if every band was told its own."""
        if self.mode == "tiny" and self.svd_rank is not None:
            return self.svd_rank
        return self.r if isinstance(self.r, int) else max(self.r.values())

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the bands that the form has, dropped ones included."""
        names = band_names(self.levels)
        if self.form in ("per_band", "shared"):
            return tuple(name for name in names if name == "LL" or name.startswith("HH"))
        return names

    @property
    def ranks(self) -> dict[str, int]:
        """Band -> rank, zero for a dropped band, in the order of `band_names`."""
        if isinstance(self.r, dict):
            return {name: self.r.get(name, 0) for name in self.bands}
        return {name: (self.band_ranks or {}).get(name, self.rank) for name in self.bands}

    @property
    def scaling(self) -> float:
        """s = wara_alpha / r."""
        return 1.0 if self.wara_alpha is None else self.wara_alpha / self.rank

    def override(self, pattern: str, value: Any) -> dict[str, Any]:
        """A number sets the rank that bands have unless told otherwise, a dictionary the rank of every band."""
        return {"r": value, "svd_rank": None} | ({"band_ranks": None} if isinstance(value, dict) else {})

    def _with(self, changes: dict[str, Any]) -> WaraConfig:
        changed = copy.copy(self)  # not built anew: a degenerate configuration warns once, not once a layer
        for name, value in {"rank_pattern": {}, **changes}.items():
            setattr(changed, name, value)
        changed._check()
        return changed

    def _check(self) -> None:
        self._check_numbers()
        _check_choice("mode", self.mode, (*_FORMS, "tiny"))
        _check_choice("tiny_form", self.tiny_form, _FORMS)
        _check_choice("compute", self.compute, _ROUTES)
        _check_choice("init_weights", self.init_weights, (True, False))
        _check_choice("activation", self.activation, (None, *ACTIVATIONS))
        _check_count("levels", self.levels, 1)
        _check_count("tiny_projections", self.tiny_projections, 0)
        _check_count("tiny_seed", self.tiny_seed, 0)
        dwt(torch.zeros(2), self.wavelet)  # an unknown wavelet, or one that is not orthogonal
        if self.wara_alpha is not None and not math.isfinite(self.wara_alpha):
            raise ValueError(f"wara_alpha={self.wara_alpha}: use a finite number")
        if not 0 <= self.wara_dropout < 1:
            raise ValueError(f"wara_dropout={self.wara_dropout}: use a probability in [0, 1)")
        self._check_mode()
        self._check_ranks()

    def _check_mode(self) -> None:
        if self.form == "shared" and self.levels != 1:
            raise ValueError(
                f"levels={self.levels}: one pair is shared by bands of one size, which only levels=1 has; use mode="
                "'per_band' for more"
            )
        options = ("grid_size", "num_prefix_tokens", "activation")
        given = [name for name in options if getattr(self, name) is not None]
        if given and self.form != "grid":
            raise ValueError(f"{given[0]}={getattr(self, given[0])!r} belongs to mode='grid', not to {self.form!r}")
        if self.svd_rank is not None and self.mode != "tiny":
            raise ValueError(f"svd_rank={self.svd_rank!r} belongs to mode='tiny', not to {self.mode!r}")
        if self.compute == "weight" and self.form == "grid":
            raise ValueError(
                "compute='weight' needs a change that is a matrix, and that of the grid is none: use 'auto'"
            )
        if self.num_prefix_tokens is not None:
            _check_count("num_prefix_tokens", self.num_prefix_tokens, 0)
        if self.grid_size is not None:
            if not isinstance(self.grid_size, tuple) or len(self.grid_size) != 2:
                raise ValueError(f"grid_size={self.grid_size!r}: use (height, width)")
            for side in self.grid_size:
                _check_count("grid_size", side, 1)

    def _check_ranks(self) -> None:
        if isinstance(self.r, dict):
            if self.band_ranks is not None or self.svd_rank is not None:
                raise ValueError(f"r={self.r!r} names every band: leave out band_ranks and svd_rank")
        else:
            _check_count("r", self.r, 1)
        if self.svd_rank is not None:
            _check_count("svd_rank", self.svd_rank, 1)
        argument, given = ("r", self.r) if isinstance(self.r, dict) else ("band_ranks", self.band_ranks or {})
        if not isinstance(given, dict):
            raise TypeError(f"band_ranks={given!r}: use a dictionary, band name -> rank")
        for name, rank in given.items():
            if name not in self.bands:
                raise ValueError(f"{argument} names the band {name!r}: {self.form!r} has {', '.join(self.bands)}")
            _check_count(f"{argument}[{name!r}]", rank, 0)
        kept = {rank for rank in self.ranks.values() if rank}
        if not kept:
            raise ValueError(f"{argument}={given!r} drops every band: give one of {', '.join(self.bands)} a rank")
        if self.form == "shared" and len(set(self.ranks.values())) > 1:
            raise ValueError(f"{argument}={given!r}: the bands of 'shared' have one pair, so give them one rank")
        if self.form == "grid" and kept != {self.rank}:
            raise ValueError(
                f"{argument}={given!r}: the bands of 'grid' have one pair of rank {self.rank}; drop a band with 0, or "
                "leave it out"
            )


def is_degenerate(config: WaraConfig) -> str | None:
    """What a configuration is algebraically, if the wavelet disappears from it; None if it does not."""
    haar = len(require("pywt", "adapt").Wavelet(config.wavelet).dec_lo) == 2
    if config.mode == "shared" and haar:
        return (
            "algebraically a Kronecker product: with the two taps of Haar, dW = (B A) kron I_2, and the wavelet "
            "disappears; take a longer filter such as wavelet='db4', or mode='subband2d'"
        )
    if config.form == "grid" and not config.band_gates and config.activation is None and all(config.ranks.values()):
        what = "a LoRA" if config.mode == "grid" else "a map between singular vectors of W0"
        return (
            f"algebraically {what}: without gates, activation or dropped bands the two transforms of the grid cancel; "
            "set band_gates=True"
        )
    return None


class _Pair(NamedTuple):
    """One pair B A and the bands that it serves."""

    bands: tuple[str, ...]
    out: int
    rank: int
    width: int


class WaraDelta(Delta):
    """The pairs of WaRA on one linear layer, packed into the two vectors A and B in the order of the bands."""

    shown = ("A", "B", "gate", "c")

    gate: nn.Parameter | None

    def __init__(self, base: FrozenLayer, config: WaraConfig) -> None:
        super().__init__(base, config)
        self.config = config
        self.pairs = _pairs(base, config)
        self.scaling, self.dropout = config.scaling, nn.Dropout(config.wara_dropout)
        if config.mode == "tiny":
            self._add_coefficients()
        else:
            self.A = nn.Parameter(torch.empty(sum(pair.rank * pair.width for pair in self.pairs)))
            self.B = nn.Parameter(torch.empty(sum(pair.out * pair.rank for pair in self.pairs)))
        gated = config.form == "grid" and config.band_gates
        kept = sum(rank > 0 for rank in config.ranks.values())
        self.register_parameter("gate", nn.Parameter(torch.empty(kept, config.rank)) if gated else None)

    def reset(self) -> None:
        """A Kaiming-uniform over the width of its band, B (or c) zero, gates one: y = y0."""
        random = not self.config.init_weights
        if self.config.mode == "tiny":
            self._freeze_singular_vectors()
        else:
            for A in _unpack(self.A, [(pair.rank, pair.width) for pair in self.pairs]):
                nn.init.kaiming_uniform_(A, a=math.sqrt(5))
        trained = self.c if self.config.mode == "tiny" else self.B
        nn.init.uniform_(trained, -0.3, 0.3) if random else nn.init.zeros_(trained)
        if self.gate is not None:
            nn.init.uniform_(self.gate, 0.5, 1.5) if random else nn.init.ones_(self.gate)

    def weight(self) -> Float[Tensor, "out in"]:
        """s B' A'.

        Raises:
            ValueError: the change is no matrix, see `unmergeable`.
        """
        if self.unmergeable is not None:
            raise ValueError(f"the change of {self.base.name!r} is no matrix: {self.unmergeable}")
        A, B = self._factors()
        B = B if self.gate is None else B * self.gate[0]
        return self.scaling * B @ A

    def forward(self, x: Float[Tensor, "*batch in"], y: Float[Tensor, "*batch out"]) -> Float[Tensor, "*batch out"]:
        """s B' (A' x), with gates and activation between the two on a grid."""
        with without_autocast(x):
            A, B = self._factors()
        x = self.dropout(x)
        if self.config.form != "grid":
            if self._through_weight(x.numel() // x.shape[-1], len(A)):
                return nn.functional.linear(x, self.scaling * B @ A)
            return nn.functional.linear(nn.functional.linear(x, A), self.scaling * B)
        config = self.config
        prefix = cast(int, config.num_prefix_tokens)
        grid = grid_of(x.shape, cast(Any, config.grid_size), prefix, config.levels, self.base.name)
        u = nn.functional.linear(x, A)
        with without_autocast(x):
            u = on_grid(u, grid, self._gates(), config.activation, config.wavelet)
        return nn.functional.linear(u, self.scaling * B)

    @property
    def unmergeable(self) -> str | None:
        """Gates that differ, dropped bands and an activation mix neighbouring tokens, which no matrix does."""
        config = self.config
        if config.form != "grid":
            return None
        if config.activation is not None:
            return f"activation={config.activation!r} acts on the wavelet bands of the grid; use the adapter unmerged"
        if not all(config.ranks.values()):
            return "dropped bands of the grid mix neighbouring tokens; use the adapter unmerged"
        if self.gate is None:
            return None
        # Tokens before the grid have gate 1.
        same = torch.ones_like(self.gate) if config.num_prefix_tokens else self.gate[:1].expand_as(self.gate)
        if torch.equal(self.gate, same):
            return None
        return "the gates of its bands differ, so it mixes neighbouring tokens; use the adapter unmerged"

    def loaded(self) -> None:
        """Check that the singular vectors are those that the coefficients were trained with.

        Raises:
            ValueError: the frozen weight has other singular values than the one that was trained.
        """
        if self.config.mode != "tiny":
            return
        saved, now = self.S.float().cpu(), self._S
        if not torch.allclose(saved, now, rtol=0, atol=0.01 * float(now.max())):
            raise ValueError(
                f"the checkpoint belongs to another frozen weight: {self.base.name!r} has the singular values "
                f"{now[:3].tolist()} ... in its bands, the checkpoint {saved[:3].tolist()} ...; load it onto the model "
                "that it was trained on"
            )

    def _add_coefficients(self) -> None:
        K = self.config.tiny_projections
        size = sum(K or pair.rank for pair in self.pairs)
        self.c = nn.Parameter(torch.empty(size))
        served = sum(pair.rank * len(pair.bands) for pair in self.pairs)
        self.register_buffer("V", torch.zeros(served, self.base.in_features), persistent=False)
        self.register_buffer("U", torch.zeros(self.base.out_features, served), persistent=False)
        self.register_buffer("S", torch.zeros(sum(pair.rank for pair in self.pairs)))  # tells W0 from another weight
        drawn = torch.Generator().manual_seed(self.config.tiny_seed)
        for index, pair in enumerate(self.pairs if K else ()):
            P = torch.randn(K, pair.rank, pair.rank, generator=drawn) / math.sqrt(pair.rank)
            self.register_buffer(f"P{index}", P, persistent=False)

    def _freeze_singular_vectors(self) -> None:
        W0, config = self.base.weight, self.config
        blocks = {"LL": W0}
        if config.form != "grid":
            blocks = dict(zip(band_names(config.levels), dwt2_grid(W0, config.wavelet, config.levels), strict=True))
        found = [
            svd(blocks[pair.bands[0]], rank=pair.rank, name=f"band {pair.bands[0]} of the weight of {self.base.name!r}")
            for pair in self.pairs
        ]
        roots = [part.S.sqrt() if config.tiny_sqrt_singular_values else torch.ones_like(part.S) for part in found]
        self.V = self._inputs([root[:, None] * part.Vh for root, part in zip(roots, found, strict=True)])
        self.U = self._outputs([part.U * root for root, part in zip(roots, found, strict=True)])
        self.S = torch.cat([part.S for part in found])
        self._S = self.S.float().cpu().clone()  # what is loaded is written into S itself

    def _factors(self) -> tuple[Tensor, Tensor]:
        """(A', B'), (R, in) and (out, R), with R the sum of the ranks of all bands."""
        if self.config.mode == "tiny":
            return self.V, self._mixed_singular_vectors()
        A = _unpack(self.A, [(pair.rank, pair.width) for pair in self.pairs])
        B = _unpack(self.B, [(pair.out, pair.rank) for pair in self.pairs])
        return self._inputs(A).to(self.A.dtype), self._outputs(B).to(self.B.dtype)

    def _mixed_singular_vectors(self) -> Tensor:
        """U diag(c) or U (sum_k c_k P_k), band by band."""
        K = self.config.tiny_projections
        coefficients = self.c.split([K or pair.rank for pair in self.pairs])
        if not K:
            repeated = [c.repeat(len(pair.bands)) for c, pair in zip(coefficients, self.pairs, strict=True)]
            return self.U * torch.cat(repeated)
        U = self.U.split([pair.rank for pair in self.pairs for _ in pair.bands], 1)
        mixers = [
            torch.einsum("k,krs->rs", c, self.get_buffer(f"P{index}"))
            for index, (c, pair) in enumerate(zip(coefficients, self.pairs, strict=True))
            for _ in pair.bands
        ]
        return torch.cat([u @ mixer for u, mixer in zip(U, mixers, strict=True)], 1)

    def _inputs(self, A: Sequence[Tensor]) -> Tensor:
        """A' = A T_i of all bands, (R, in)."""
        return self._synthesis(A, self.base.in_features, letter=0)

    def _outputs(self, B: Sequence[Tensor]) -> Tensor:
        """B' = T_o^T B of all bands, (out, R)."""
        return self._synthesis([b.mT for b in B], self.base.out_features, letter=1).mT

    def _synthesis(self, rows: Sequence[Tensor], size: int, letter: int) -> Tensor:
        """The rows of every band, given in its coefficients, as signals of `size`; one transform a level."""
        if self.config.form == "grid":
            return rows[0]
        padded = sum(band_sizes(size, self.config.levels))
        by_level: dict[int, list[Tensor]] = {}
        for pair, row in zip(self.pairs, rows, strict=True):
            for band in pair.bands:
                level = self.config.levels if band == "LL" else int(band[2:])
                before = row.shape[1] if band[letter] == "H" else 0
                placed = nn.functional.pad(row, (before, padded - before - row.shape[1]))
                by_level.setdefault(level, []).append(placed)
        signals = [idwt(torch.cat(placed), padded, self.config.wavelet, level) for level, placed in by_level.items()]
        return torch.cat(signals)[:, :size]

    def _gates(self) -> list[Tensor | None]:
        if self.gate is None:
            one = torch.ones(1, dtype=self.dtype, device=next(self.parameters()).device)
            return [one if rank else None for rank in self.config.ranks.values()]
        kept = iter(self.gate)
        return [next(kept) if rank else None for rank in self.config.ranks.values()]

    def _through_weight(self, tokens: int, rank: int) -> bool:
        if self.config.compute != "auto":
            return self.config.compute == "weight"
        out, width = self.base.out_features, self.base.in_features
        return tokens * rank * (out + width) > (tokens + rank) * out * width


WaraModel = register(
    WaraConfig,
    WaraDelta,
    targets={
        **TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING,
        **{kind: ["q_proj", "v_proj", "query", "value"] for kind in PREFIX_TOKENS},
    },
    model=PrefixAwareModel,
)
WaraLayer = WaraModel.tuner_layer_cls
WaraLinear = WaraModel.layer_types[nn.Linear]


def _pairs(base: FrozenLayer, config: WaraConfig) -> list[_Pair]:
    out, width = base.out_features, base.in_features
    if config.form == "grid":
        return [_checked(_Pair(("LL",), out, config.rank, width), base, config)]
    if 2**config.levels > min(out, width):
        possible = int(math.log2(min(out, width)))
        advice = f"use at most {possible}" if possible else "exclude it with exclude_modules, or use mode='grid'"
        raise ValueError(
            f"levels={config.levels} halves an axis more often than the {out} x {width} weight of {base.name!r} "
            f"allows: {advice}"
        )
    if config.form == "shared":
        bands = [(config.bands, config.rank)]
    else:
        bands = [((name,), rank) for name, rank in config.ranks.items() if rank]
    pairs = []
    for names, rank in bands:
        level = config.levels if names[0] == "LL" else int(names[0][2:])
        rows, columns = (sum(band_sizes(n, config.levels)) >> level for n in (out, width))
        pairs.append(_checked(_Pair(names, rows, rank, columns), base, config))
    return pairs


def _checked(pair: _Pair, base: FrozenLayer, config: WaraConfig) -> _Pair:
    if pair.rank > min(pair.out, pair.width):
        raise ValueError(
            f"rank {pair.rank} of band {pair.bands[0]} in {base.name!r} is more than its {pair.out} x {pair.width} "
            f"allow at levels={config.levels}: use a rank of at most {min(pair.out, pair.width)}, or fewer levels"
        )
    return pair


def _unpack(packed: Tensor, shapes: Sequence[tuple[int, int]]) -> list[Tensor]:
    parts = packed.split([rows * columns for rows, columns in shapes])
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


def _check_choice(name: str, value: Any, accepted: tuple[Any, ...]) -> None:
    if value not in accepted:
        raise ValueError(f"{name}={value!r}: use one of {', '.join(map(repr, accepted))}")


def _check_count(name: str, value: Any, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name}={value!r}: use an integer of at least {least}")
