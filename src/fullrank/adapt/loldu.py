"""LoLDU: train the pivots of a weight's own LDU decomposition (Shi et al. 2024, arXiv 2410.13618).

    W0 = P L diag(d) U,  B = P L[:, :r],  A = U[:r],  sigma0 = alpha / r
    y = W0 x + b0 + B ((sigma z - sigma0 z0) * (A x))

B and A are frozen and follow from W0; the r numbers z, which start at z0, and the scale sigma are trained. The paper
stores W0 - sigma0 B diag(z0) A instead of W0 and adds sigma B diag(z) A: the same function, which starts at W0 whatever
z0 is. "First r" means the first r pivots of the elimination; they are not the largest, and B and A are not orthogonal.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, cast

import torch
from jaxtyping import Float, Int
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from torch import Tensor, nn

from fullrank.adapt.config import DeltaConfig
from fullrank.adapt.delta import Delta, FrozenLayer
from fullrank.adapt.layer import DeltaLayer
from fullrank.adapt.registration import register
from fullrank.adapt.tuner import DeltaModel
from fullrank.linalg import State, ldu, state_of

INIT_METHODS = ("uniform", "lu", "constant", "normal", "ones", "zeros", "s_uniform", "s_normal")
_FORMS = ("auto", "activation", "weight")
_ROUNDING = 64  # largest error of B diag(d) A that passes for rounding, in units of the dtype's eps
_DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass
class LoLDUConfig(DeltaConfig):
    """Configuration of LoLDU; the fields that it shares with every adapter are those of `DeltaConfig`.

    Args:
        r: number of pivots to train, or "full" for all min(out, in) of every layer. Default 64.
        alpha: sigma starts at alpha / r; default `r`, so that it starts at 1.
        train_sigma: train the scale sigma too, as the paper does. Default True.
        init_method: how z starts; m and s are mean and standard deviation of the first r pivots: "uniform" (default,
            between -|m|/2 and |m|/2), "lu" (the pivots), "constant" (m), "normal" (mean m, standard deviation s),
            "ones", "zeros", "s_uniform" (between -1 and 1), "s_normal" (standard normal). The adapted model starts as
            the base model with each of them.
        init_weights: False starts z away from z0, for tests. Default True.
        loldu_dropout: probability of dropout on the input of the change. Default 0.
        save_factors: save A and B, so that the checkpoint can be loaded onto another base or dtype. Default False: they
            are derived from the base weight again, which has to be the same.
        pivot_floor: pivots that are smaller than this, relative to the largest, are not divided by. Default 1e-6.
        decompose_dtype: "float32" (default) or "float64"; a float64 weight is always decomposed in float64.
        decompose_device: where to decompose; default the CPU, whose choice of pivots is the same everywhere.
        form: "activation" applies B and A in turn, "weight" multiplies them first; "auto" (default) takes what needs
            fewer operations for the number of tokens at hand.
        rank_pattern: layer name or regular expression -> another `r`.

    Raises:
        ValueError: naming the field, the value and what is accepted.
    """

    method: ClassVar[str] = "loldu"
    patterns: ClassVar[dict[str, str]] = {"rank_pattern": "r"}

    r: int | str = 64
    alpha: float | None = None
    train_sigma: bool = True
    init_method: str = "uniform"
    loldu_dropout: float = 0.0
    save_factors: bool = False
    pivot_floor: float = 1e-6
    decompose_dtype: str = "float32"
    decompose_device: str | None = None
    form: str = "auto"
    rank_pattern: dict[str, int | str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._check_numbers()
        _check_rank(self.r)
        if self.alpha is not None and not (math.isfinite(self.alpha) and self.alpha > 0):
            raise ValueError(f"alpha={self.alpha}: use a positive number, or None for alpha = r")
        for name, accepted in (("init_method", INIT_METHODS), ("decompose_dtype", tuple(_DTYPES)), ("form", _FORMS)):
            if getattr(self, name) not in accepted:
                raise ValueError(f"{name}={getattr(self, name)!r}: use one of {', '.join(map(repr, accepted))}")
        if not isinstance(self.init_weights, bool):
            raise ValueError(f"init_weights={self.init_weights!r}: use True or False, and init_method for the rest")
        if not 0 <= self.loldu_dropout < 1:
            raise ValueError(f"loldu_dropout={self.loldu_dropout}: use a probability in [0, 1)")
        if not 0 <= self.pivot_floor < 1:
            raise ValueError(f"pivot_floor={self.pivot_floor}: use a number in [0, 1), such as 1e-6")
        if self.decompose_device is not None and not _is_device(self.decompose_device):
            raise ValueError(
                f"decompose_device={self.decompose_device!r}: use the name of a device of torch, such as 'cpu' or "
                "'cuda:0', or None for the CPU"
            )
        super().__post_init__()


class LoLDUFactors(NamedTuple):
    """The leading part of an LDU decomposition, as an adapter uses it: W0 = B diag(d) A at full rank.

    Attributes:
        B: the first r columns of P L.
        A: the first r rows of U.
        d: the first r pivots.
        permutation: the row of W0 that was eliminated at each step.
        small_pivots: how many of all pivots were too small to divide by.
    """

    B: Float[Tensor, "out r"]
    A: Float[Tensor, "r in"]
    d: Float[Tensor, "r"]
    permutation: Int[Tensor, "out"]
    small_pivots: int


def loldu_factors(
    W0: Float[Tensor, "out in"],
    r: int | str = "full",
    pivot_floor: float = 1e-6,
    order: Int[Tensor, "r"] | None = None,
    name: str = "W0",
) -> LoLDUFactors:
    """The frozen factors and the pivots of a weight.

    Args:
        W0: the weight; half precision is decomposed in float32.
        r: number of pivots, or "full".
        pivot_floor: relative size below which a pivot is not divided by; its row of A is that of U~, with d = 1.
        order: rows to eliminate first, where the choice among tied pivots has to be that of another machine; default
            the largest pivot first.
        name: how errors call the weight.

    Raises:
        ValueError: `r` out of range, entries that are not finite, or an `order` that partial pivoting cannot have
            chosen.
    """
    rank = _rank_of(r, W0.shape[0], W0.shape[1], name)
    permutation, L, d, U, small = ldu(W0, pivot_floor, name)
    if order is not None and not torch.equal(permutation[:rank], order[:rank].to(permutation)):
        permutation, L, d, U, small = _ldu_in_order(W0, order[:rank].long(), pivot_floor, name)
    B = torch.zeros_like(L[:, :rank]).index_copy_(0, permutation, L[:, :rank])
    return LoLDUFactors(B, U[:rank].clone(), d[:rank].clone(), permutation, small)


def loldu_delta(
    B: Float[Tensor, "out r"],
    A: Float[Tensor, "r in"],
    z: Float[Tensor, "r"],
    z0: Float[Tensor, "r"],
    sigma: Float[Tensor, "1"] | Float[Tensor, ""] | float = 1.0,
    sigma0: Float[Tensor, "1"] | Float[Tensor, ""] | float = 1.0,
) -> Float[Tensor, "out in"]:
    """The change of the weight, B diag(sigma z - sigma0 z0) A."""
    return (B * (sigma * z - sigma0 * z0)) @ A


class LoLDUDelta(Delta):
    """The diagonal between two frozen factors of one weight.

    Attributes:
        z, sigma: the diagonal (r), which is trained, and the scale (1), a buffer where it is not trained.
        z0, sigma0: where they started.
        A, B: the frozen factors.
        d: all pivots, at full rank, so that W0 = B diag(d) A; None where the rank is lower or nothing was derived.
        perm: order of elimination of the rows of W0.
        fingerprint: three numbers that tell one W0 from another.
    """

    fixed_dtype = ("fingerprint",)
    shown = ("z", "sigma", "z0", "sigma0", "perm", "A", "B", "fingerprint")

    z0: Tensor
    sigma0: Tensor
    A: Tensor
    B: Tensor
    d: Tensor | None
    perm: Tensor
    fingerprint: Tensor

    def __init__(self, base: FrozenLayer, config: LoLDUConfig) -> None:
        super().__init__(base, config)
        out, width = base.out_features, base.in_features
        self.rank = r = _rank_of(config.r, out, width, base.name)
        self.config, self.alpha = config, r if config.alpha is None else config.alpha
        self.dropout = nn.Dropout(config.loldu_dropout)
        self.z = nn.Parameter(torch.empty(r))
        if config.train_sigma:
            self.sigma = nn.Parameter(torch.empty(1))
        else:
            self.register_buffer("sigma", torch.empty(1))
        self.register_buffer("z0", torch.empty(r))
        self.register_buffer("sigma0", torch.empty(1))
        self.register_buffer("A", torch.empty(r, width), persistent=config.save_factors)
        self.register_buffer("B", torch.empty(out, r), persistent=config.save_factors)
        self.register_buffer("d", None, persistent=False)
        self.register_buffer("perm", torch.empty(out, dtype=torch.int32))
        self.register_buffer("fingerprint", torch.empty(3, dtype=torch.float64))
        self.order: Tensor | None = None  # in which the rows of A and B were eliminated; None until they were
        self.restored = False
        self._compared: tuple[State, bool] | None = None  # a state, and whether W0 = B diag(d) A

    def reset(self) -> None:
        """Decompose W0, and start z at z0 and sigma at alpha / r: y = y0."""
        W0 = self._weight_to_decompose()
        if W0.is_meta:
            warnings.warn(
                f"the weight of {self.base.name!r} is on the meta device: loldu will decompose it at the first use "
                "after it has been given values",
                stacklevel=2,
            )
            return
        factors = self._derive(W0)
        self.perm.copy_(factors.permutation)
        self.fingerprint.copy_(_fingerprint(W0))
        self.z0.copy_(_start(factors.d, self.config.init_method))
        self.sigma0.fill_(self.alpha / self.rank)
        self.z.copy_(self.z0 if self.config.init_weights else self.z0 + 0.5 * torch.randn_like(self.z0))
        self.sigma.copy_(self.sigma0)

    def weight(self) -> Float[Tensor, "out in"]:
        """B diag(sigma z - sigma0 z0) A."""
        self._ensure_derived()
        return loldu_delta(self.B, self.A, self.z, self.z0, self.sigma, self.sigma0)

    def forward(self, x: Float[Tensor, "*batch in"], y: Float[Tensor, "*batch out"]) -> Float[Tensor, "*batch out"]:
        """B ((sigma z - sigma0 z0) * (A x))."""
        x = self.dropout(x)
        if self._multiplies_factors_first(x.shape[:-1].numel()):
            return nn.functional.linear(x, self.weight())
        self._ensure_derived()
        c = self.sigma * self.z - self.sigma0 * self.z0
        return nn.functional.linear(c * nn.functional.linear(x, self.A), self.B)

    def in_one_product(self, x: Tensor, W0: Tensor, b0: Tensor | None) -> Tensor | None:
        """x (W0 + dW)^T + b0, unless dropout tells the two inputs apart.

        Either the factors are multiplied first, or, at full rank, W0 = B diag(d) A is taken with the change:
        y = B ((d + sigma z - sigma0 z0) * (A x)) + b0.
        """
        if self.training and self.dropout.p > 0:
            return None
        d = self._pivots_of(W0)
        if self._multiplies_factors_first(x.shape[:-1].numel(), beside_W0=d is not None):
            return nn.functional.linear(x, W0 + self.weight(), b0)
        if d is None:
            return None
        c = self.sigma * self.z - self.sigma0 * self.z0
        return nn.functional.linear((d + c) * nn.functional.linear(x, self.A), self.B, b0)

    def loaded(self) -> None:
        """Check that W0 is the weight that the checkpoint was made for, and eliminate in the checkpoint's order.

        Raises:
            ValueError: it is another weight, and the checkpoint does not carry the factors.
        """
        self.restored = True
        order = self.perm[: self.rank].cpu()
        if self.config.save_factors:
            self.order = order
            return
        W0 = self._weight_to_decompose()
        if W0.is_meta:
            return
        saved, found = self.fingerprint.cpu(), _fingerprint(W0)
        if not bool(((saved - found).abs() <= 1e-9 * saved[0]).all()):
            raise ValueError(
                f"the weight of {self.base.name!r} (norm {found[0]:.9g}, {self.base.weight.dtype}) is not the one that "
                f"this LoLDU checkpoint was made for (norm {saved[0]:.9g}), so its factors cannot be derived: load the "
                "same base model in the same dtype, or make the checkpoint with save_factors=True"
            )
        if self.order is None or not torch.equal(order, self.order):
            self._derive(W0, order)

    def _derive(self, W0: Tensor, order: Tensor | None = None) -> LoLDUFactors:
        factors = loldu_factors(W0, self.rank, self.config.pivot_floor, order, f"the weight of {self.base.name!r}")
        if factors.small_pivots:
            warnings.warn(
                f"{factors.small_pivots} of the {min(W0.shape)} pivots of {self.base.name!r} are smaller than "
                f"pivot_floor={self.config.pivot_floor} times the largest: its weight lacks rank, and their rows of U "
                "stay undivided",
                stacklevel=3,
            )
        device = self.base.weight.device
        self.A, self.B = factors.A.to(device, self.A.dtype), factors.B.to(device, self.B.dtype)
        self.d = factors.d.to(device, self.A.dtype) if self.rank == min(W0.shape) else None
        self.order = factors.permutation[: self.rank].int().cpu()
        return factors

    def _pivots_of(self, W0: Tensor) -> Tensor | None:
        """d, where B diag(d) A is W0 up to rounding; looked at again after every change of one of them."""
        self._ensure_derived()
        if self.d is None or torch.compiler.is_compiling():
            return None
        state = state_of(W0, self.A, self.B, self.d)
        if state is None:
            return None
        if self._compared is None or self._compared[0] != state:
            with torch.no_grad():
                error, size = (W0 - (self.B * self.d) @ self.A).norm(), W0.norm()
            self._compared = state, bool(error <= _ROUNDING * torch.finfo(W0.dtype).eps * size)
        return self.d if self._compared[1] else None

    @torch.no_grad()
    def _ensure_derived(self) -> None:
        """Do what had to wait for a weight on the meta device."""
        if self.order is not None or self.base.weight.is_meta:
            return
        if self.z.is_meta:
            raise ValueError(
                f"the weight of {self.base.name!r} has values by now, but its adapter is still on the meta device: "
                "call to_empty(device=...) on the model before its weights are loaded, or load a checkpoint of the "
                "adapter with low_cpu_mem_usage=True"
            )
        if self.restored:
            self.loaded()
        else:
            self.reset()

    def _weight_to_decompose(self) -> Tensor:
        W0 = self.base.weight.detach()
        if not W0.is_floating_point():
            raise TypeError(
                f"the weight of {self.base.name!r} is {W0.dtype}, and loldu decomposes floating-point weights: load "
                "the model through a quantisation that PEFT can dequantise, or in a floating-point dtype"
            )
        dtype = torch.promote_types(W0.dtype, _DTYPES[self.config.decompose_dtype])
        return W0 if W0.is_meta else W0.to(self.config.decompose_device or "cpu", dtype)

    def _multiplies_factors_first(self, tokens: int, beside_W0: bool = True) -> bool:
        """Whether dW costs less than thin products; `beside_W0`: its products with x and y come on top of theirs."""
        if self.config.form != "auto":
            return self.config.form == "weight"
        r, out, width = self.rank, self.base.out_features, self.base.in_features
        if torch.is_grad_enabled():
            return (2 * r + (3 if beside_W0 else 1) * tokens) * out * width < 2 * tokens * r * (out + width)
        return (r + beside_W0 * tokens) * out * width < tokens * r * (out + width)


class _FactoringModel(DeltaModel):
    """One pair of factors per layer, whatever the number of adapters; refuses weights that two modules share."""

    def _wrap(self, target: nn.Module, parent: nn.Module, name: str, config: DeltaConfig) -> DeltaLayer:
        layer = super()._wrap(target, parent, name, config)
        for other, module in self.model.named_modules():
            if module is not target and getattr(module, "weight", None) is target.weight:
                raise ValueError(
                    f"{name!r} shares its weight with {other!r}, and loldu would change only one of them: exclude it "
                    "with exclude_modules, or untie them by cloning the weight"
                )
        return layer

    def _create_and_replace(
        self, peft_config: Any, adapter_name: str, target: nn.Module, *rest: Any, **key: Any
    ) -> None:
        super()._create_and_replace(peft_config, adapter_name, target, *rest, **key)
        if isinstance(target, self.tuner_layer_cls):
            _share_factors([cast(LoLDUDelta, delta) for delta in target.deltas.values()])


LoLDUModel = register(
    LoLDUConfig, LoLDUDelta, targets=TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING, model=_FactoringModel
)
LoLDULayer = LoLDUModel.tuner_layer_cls
LoLDULinear = LoLDUModel.layer_types[nn.Linear]


def loldu_parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """The trainable parameters for an optimiser, with weight decay on all but LoLDU's own.

    Decay of z pulls the weight towards W0 - sigma0 B diag(z0) A instead of W0.

    Args:
        model: a model with LoLDU layers.
        weight_decay: for the other parameters, such as a new head.

    Returns:
        Two groups; the second one holds z and sigma of every layer, and its `weight_decay` is 0.

    Raises:
        ValueError: the model has no LoLDU layer.
    """
    own = {p for module in model.modules() if isinstance(module, LoLDUDelta) for p in module.parameters()}
    if not own:
        raise ValueError(f"{type(model).__name__} has no LoLDU layer: adapt it with get_peft_model and a LoLDUConfig")
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p not in own], "weight_decay": weight_decay},
        {"params": [p for p in trained if p in own], "weight_decay": 0.0},
    ]


def _share_factors(deltas: list[LoLDUDelta]) -> None:
    """Let adapters of one layer use the beginning of the factors of the largest rank, which theirs are equal to."""
    derived = [delta for delta in deltas if delta.order is not None and not delta.config.save_factors]
    if not derived:
        return
    largest = max(derived, key=lambda delta: delta.rank)
    for delta in derived:
        A, B = largest.A[: delta.rank], largest.B[:, : delta.rank]
        alike = A.dtype == delta.A.dtype and A.device == delta.A.device
        if alike and torch.equal(A, delta.A) and torch.equal(B, delta.B):
            delta.A, delta.B = A, B


def _start(d: Tensor, method: str) -> Tensor:
    mean, like = d.mean(), torch.empty_like(d)
    match method:
        case "lu":
            return d
        case "uniform":
            return like.uniform_(-0.5, 0.5) * mean.abs()
        case "constant":
            return like.copy_(mean)
        case "normal":
            return mean + d.std(correction=0) * like.normal_()
        case "ones":
            return like.fill_(1)
        case "zeros":
            return like.zero_()
        case "s_uniform":
            return like.uniform_(-1, 1)
        case _:
            return like.normal_()


def _ldu_in_order(
    W0: Tensor, order: Tensor, pivot_floor: float, name: str
) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
    """LDU whose first pivots come from the rows `order`, which has to be a choice of tied pivots.

    Rows that shrink slowly make the wanted one the largest of those that tie: S W = L d U is decomposed instead, and
    W = (S^-1 L S) (S^-1 d) U.
    """
    rows = W0.shape[0]
    rest = torch.ones(rows, dtype=torch.bool, device=W0.device).index_fill_(0, order, False)
    permutation = torch.cat([order.to(W0.device), rest.nonzero().flatten()])
    s = (1 - 1e-4) ** torch.arange(rows, dtype=torch.float64, device=W0.device)
    again, L, d, U, small = ldu(s[:, None] * W0[permutation].double(), pivot_floor, name)
    if not torch.equal(again[: len(order)], torch.arange(len(order), device=W0.device)):
        raise ValueError(f"order={order.tolist()} is no order in which partial pivoting eliminates {name}")
    L, d = L * s[: L.shape[1]] / s[again][:, None], d / s[: len(d)]
    return permutation[again], L.to(W0.dtype), d.to(W0.dtype), U.to(W0.dtype), small


def _fingerprint(W0: Tensor) -> Tensor:
    """Frobenius norm and two random bilinear forms of W0, (3) in float64 on the CPU."""
    W = W0.cpu().double()
    generator = torch.Generator().manual_seed(0)
    u, v = (torch.randn(2, side, generator=generator, dtype=W.dtype) for side in W.shape)
    return torch.stack([W.norm(), *((u @ W) * v).sum(1)])


def _is_device(name: Any) -> bool:
    """Whether torch knows a device of this name, which has values to decompose; this machine need not have it."""
    try:
        return isinstance(name, str) and torch.device(name).type != "meta"
    except RuntimeError:
        return False


def _check_rank(r: Any) -> None:
    if r != "full" and (not isinstance(r, int) or isinstance(r, bool) or r < 1):
        raise ValueError(f"r={r!r}: use a positive integer or 'full'")


def _rank_of(r: int | str, out: int, width: int, name: str) -> int:
    _check_rank(r)
    largest = min(out, width)
    if isinstance(r, str):
        return largest
    if r > largest:
        raise ValueError(
            f"r={r}: {name!r} is {out} x {width} and has {largest} pivots; use at most {largest}, or 'full', or lower "
            "it for this layer in rank_pattern"
        )
    return r
