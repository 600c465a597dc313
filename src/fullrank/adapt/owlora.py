"""OWLoRA: one weighted low-rank branch per task, orthogonal to all earlier ones (CoMEL, arXiv 2507.02395).

    y = W0 x + b0 + sum_t U_t diag(w_t) D_t x

Tasks arrive one after another and their data is not kept. A new task trains a branch of its own, every earlier one is
frozen, and all of them add up, so that nothing needs to know the task when the model is used. The new branch stays out
of the principal directions of W0 and of the directions of earlier tasks:

    D_t D_i^T = 0 and U_i^T U_t = 0 for every i < t, where D_0 = V_k^T and U_0 = U_k of W0 = U S V^T

What this guarantees: an input x in the span of earlier input directions gets exactly nothing from the new branch, so
that earlier behaviour is untouched there; for any other input the change of the output lies in the complement of
earlier output directions. LayerNorms, embeddings and position parameters are not protected: leave them frozen.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, cast, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fullrank.adapt._peft import get_pattern_key
from fullrank.adapt.config import DeltaConfig
from fullrank.adapt.delta import Delta, FrozenLayer
from fullrank.adapt.owlora_projection import (
    Directions,
    RankRule,
    max_cosine,
    orthonormality_penalty,
    principal_rank,
    without,
)
from fullrank.linalg import State, state_of, svd

Basis = Literal["svd", "none", "official_random"]
Projection = Literal["exact", "gradient", "official", "none"]

_CHOICES = {
    "basis": get_args(Basis),
    "projection": get_args(Projection),
    "rank_rule": get_args(RankRule),
    "init_weights": (True, "official", False),
}


@dataclass
class OWLoRAConfig(DeltaConfig):
    """Configuration of OWLoRA; the fields that it shares with every adapter are those of `DeltaConfig`.

    Args:
        r: rank of a task's branch. Default 16.
        r_pattern: layer name or regular expression -> another `r`.
        fused_groups: layer name or regular expression -> how many maps the layer fuses (3 for q, k and v); its branch
            gets the rank `r` for each of them.
        energy: share of the squared singular values of W0 whose directions are protected as those of the model before
            the first task. The higher, the less room is left for tasks. Default 0.9.
        rank_rule: "smallest" (default) takes the fewest directions that hold `energy`; "official" counts as the
            released code does, which never takes all of them.
        basis: "svd" (default) protects the principal directions of W0; "none" protects earlier tasks alone;
            "official_random" is the released code, which keeps random input directions (standard deviation 1 / k) and
            zeros in place of the singular vectors.
        basis_seed: seed of "official_random". Default 0.
        keep_residual: True (default) leaves W0 whole. False cuts it down to its principal part, as the released code
            does, which may cost accuracy at once.
        projection: "exact" (default) projects D at the start, gradients, and parameters after every step. "gradient"
            projects gradients alone: D starts anywhere, and Adam drifts away. "official" projects gradients with
            D_i^T D_i, which is a projector only where D_i is orthonormal. "none" leaves tasks free.
        orthogonal_lambda: weight of the penalty that keeps the branch that is trained orthonormal; 0 switches it off.
            It pulls ||U|| to sqrt(r) whatever the task: use 0 to 0.1 with narrow layers. Default 1.
        weight_init: what w starts at. D and U orthonormal and w their singular values is the intended reading, so
            there is no alpha / r. Default 1.
        init_weights: True (default) starts D with random rows of norm one in the free directions and U at zero;
            "official" draws D with a standard deviation of 1 / r. False starts everything at random.
        earlier: the tasks that this one follows, in their order; written by `add_task`.

    Raises:
        ValueError: a value out of range.
    """

    method: ClassVar[str] = "owlora"
    patterns: ClassVar[dict[str, str]] = {"r_pattern": "r"}

    r: int = 16
    r_pattern: dict[str, int] = field(default_factory=dict)
    fused_groups: dict[str, int] = field(default_factory=dict)
    energy: int | float = 0.9
    rank_rule: RankRule = "smallest"
    basis: Basis = "svd"
    basis_seed: int = 0
    keep_residual: bool = True
    projection: Projection = "exact"
    orthogonal_lambda: int | float = 1.0
    weight_init: int | float = 1.0
    earlier: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._check_numbers()
        _check_count("r", self.r)
        for name, groups in self.fused_groups.items():
            _check_count(f"fused_groups[{name!r}]", groups)
        for name, accepted in _CHOICES.items():
            if getattr(self, name) not in accepted:
                raise ValueError(f"{name}={getattr(self, name)!r}: use one of {', '.join(map(repr, accepted))}")
        if not 0 < self.energy <= 1:
            raise ValueError(f"energy={self.energy}: use a share in (0, 1], such as 0.9")
        if not 0 <= self.orthogonal_lambda < math.inf:
            raise ValueError(f"orthogonal_lambda={self.orthogonal_lambda}: use a finite number of at least 0")
        if not math.isfinite(self.weight_init) or self.weight_init == 0:
            raise ValueError(f"weight_init={self.weight_init}: use a finite number other than 0, which never trains")
        super().__post_init__()

    @property
    def keyed(self) -> tuple[str, ...]:
        """Names of the fields whose keys are names of layers."""
        return (*super().keyed, "fused_groups")

    def at(self, name: str) -> OWLoRAConfig:
        """The configuration of the layer `name`: `r_pattern` and `fused_groups` are applied."""
        config = cast(OWLoRAConfig, super().at(name))
        groups = self.fused_groups.get(get_pattern_key(cast(Any, self.fused_groups), name), 1)
        return replace(config, r=groups * config.r, r_pattern={}, fused_groups={})


OWLoraConfig = OwloraConfig = OWLoRAConfig  # PEFT writes LoraConfig, and XLoraConfig


class OWLoRADelta(Delta):
    """The branch of one task on one linear layer: U diag(w) D.

    The first task of a layer also keeps the principal directions of W0, and cuts W0 down where that is asked for.

    Attributes:
        others: branches of the other tasks of this layer, out of which this one stays.
        basis: D_0 (k, in) and U_0 (out, k); without directions where an earlier task keeps them.
        frozen: whether the task is over.
    """

    shown = ("D", "U", "w")

    others: tuple[OWLoRADelta, ...]

    def __init__(self, base: FrozenLayer, config: OWLoRAConfig) -> None:
        super().__init__(base, config)
        self.config, self.frozen, self.others = config, False, ()
        self._owes_basis = False
        self.D = nn.Parameter(torch.empty(config.r, base.in_features))
        self.U = nn.Parameter(torch.empty(base.out_features, config.r))
        self.w = nn.Parameter(torch.empty(config.r))
        self.basis = self._tail = Directions.none(base.out_features, base.in_features)
        self._protected: tuple[State | None, Directions] | None = None

    def reset(self) -> None:
        """D random, U zero, w constant: y = y0."""
        if self.config.init_weights is False:
            for parameter in (self.D, self.U, self.w):
                nn.init.uniform_(parameter, -0.3, 0.3)
            return
        nn.init.normal_(self.D, std=1 / self.config.r)
        if self.config.init_weights is True:
            self.D.copy_(nn.functional.normalize(self.D, dim=1))
        nn.init.zeros_(self.U)
        nn.init.constant_(self.w, self.config.weight_init)

    @torch.no_grad()
    def follow(self, others: tuple[OWLoRADelta, ...]) -> None:
        """Take the place after the other tasks of the layer; the first one reads the directions of W0."""
        self.others, self._owes_basis = others, not others
        if self.D.is_meta and self.base.weight.is_meta:
            return  # both are to come
        self.loaded()
        if self.D.is_meta or self.config.init_weights is False:
            return  # a checkpoint brings D, or a test wants it anyhow
        if self.config.projection == "exact":
            self.D.copy_(without(self.D, self.protected().down))
            if self.config.init_weights is True:
                self.D.copy_(nn.functional.normalize(self.D, dim=1))

    def weight(self) -> Float[Tensor, "out in"]:
        """U diag(w) D, minus what is cut off W0."""
        return (self.U * self.w) @ self.D - (self._tail.up @ self._tail.down).to(self.dtype)

    def forward(self, x: Float[Tensor, "*batch in"], y: Float[Tensor, "*batch out"]) -> Float[Tensor, "*batch out"]:
        """U diag(w) D x, minus what is cut off W0."""
        change = nn.functional.linear(nn.functional.linear(x, self.D) * self.w, self.U)
        if not len(self._tail.down):
            return change
        down, up = (factor.to(x.dtype) for factor in self._tail)
        return change - nn.functional.linear(nn.functional.linear(x, down), up)

    def loaded(self) -> None:
        """Read the directions of the base, which may not have been there before."""
        if self._owes_basis:
            self._read_base()
            self._owes_basis = False

    def held(self) -> tuple[str, ...]:
        """Everything, once the task is over."""
        return ("D", "U", "w") if self.frozen else ()

    def protected(self) -> Directions:
        """What this branch stays out of: orthonormal, or under "official" the factors of other tasks as they are."""
        for delta in (self, *self.others):
            delta.loaded()
        factors = [factor for delta in (self, *self.others) for factor in delta.basis]
        factors += [factor for other in self.others for factor in (other.D, other.U)]
        state = state_of(*factors)
        if state is None or self._protected is None or self._protected[0] != state:
            self._protected = (state, self._directions())
        return self._protected[1]

    @torch.no_grad()
    def project_gradients(self) -> None:
        """grad D -= grad D P_D and grad U -= P_U grad U, P the projectors on what is protected."""
        if self.config.projection == "none":
            return
        protected = self.protected()
        if self.D.grad is not None:
            self.D.grad.copy_(without(self.D.grad, protected.down))
        if self.U.grad is not None:
            self.U.grad.copy_(without(self.U.grad.mT, protected.up.mT).mT)

    @torch.no_grad()
    def project_parameters(self) -> None:
        """D -= D P_D and U -= P_U U, where the projection is exact."""
        if self.config.projection != "exact":
            return
        protected = self.protected()
        self.D.copy_(without(self.D, protected.down))
        self.U.copy_(without(self.U.mT, protected.up.mT).mT)

    def penalty(self) -> Float[Tensor, ""]:
        """lambda (||D D^T - I||_F^2 + ||U^T U - I||_F^2) / r^2."""
        return self.config.orthogonal_lambda * orthonormality_penalty(self.D, self.U)

    @property
    def free(self) -> int:
        """min(in, out) - k - the ranks of all tasks: directions that are left."""
        taken = sum(len(delta.basis.down) + delta.config.r for delta in (self, *self.others))
        return min(self.base.out_features, self.base.in_features) - taken

    def interference(self) -> float:
        """The largest |cos| between a direction of this task and one of W0's principal part or of another task."""
        bases = [delta.basis for delta in (self, *self.others)]
        rest = Directions.joined([*bases, *(Directions(other.D, other.U) for other in self.others)])
        return max(max_cosine(self.D, rest.down), max_cosine(self.U.mT, rest.up.mT))

    def factors(self) -> tuple[Float[Tensor, "p in"], Float[Tensor, "out p"]]:
        """(A, B) with weight() = B A."""
        down, up = Directions.joined([Directions(self.D, self.U * self.w), Directions(self._tail.down, -self._tail.up)])
        return down, up

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Delta:
        super()._apply(fn, recurse)
        if not self.w.is_meta:  # no buffers: DDP would send them around in every step, and casting would blunt them
            self.basis, self._tail = self.basis.to(self.w.device), self._tail.to(self.w.device)
        return self

    def _directions(self) -> Directions:
        nothing = Directions.none(self.base.out_features, self.base.in_features, self.D.device)
        bases = Directions.joined([delta.basis for delta in (self, *self.others)])
        tasks = [Directions(other.D.detach(), other.U.detach()) for other in self.others]
        if self.config.projection == "official":
            return Directions.joined([bases, *tasks])
        if self.config.basis == "svd":
            return bases.orthonormal_with(Directions.joined([nothing, *tasks]))
        return nothing.orthonormal_with(Directions.joined([bases, *tasks]))

    def _read_base(self) -> None:
        config, W0 = self.config, self.base.weight
        if config.basis == "none" and config.keep_residual:
            return
        if W0.is_meta:
            raise RuntimeError(
                f"{self.base.name!r} is on the meta device, and basis={config.basis!r} needs its singular vectors: "
                "materialise the base model first"
            )
        U, S, Vh = svd(W0, name=f"the weight of {self.base.name!r}")
        k = principal_rank(S, config.energy, config.rank_rule)
        if config.basis == "svd":
            self.basis = Directions(Vh[:k].clone(), U[:, :k].clone())
        elif config.basis == "official_random" and k:
            generator = torch.Generator().manual_seed(config.basis_seed)
            D_0 = torch.randn(k, W0.shape[1], generator=generator) / k
            self.basis = Directions(D_0, torch.zeros(W0.shape[0], k)).to(W0.device)
        if not config.keep_residual:
            self._tail = Directions(Vh[k:].clone(), U[:, k:] * S[k:])


def _check_count(name: str, count: Any) -> None:
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise ValueError(f"{name}={count!r}: use an integer of at least 1")
