"""Hydra: a low-rank branch beside a layer and one after it (Kim et al. 2023, arXiv 2309.06922).

    y0 = W0 x + b0
    y = y0 + s (B_p (A_p x + a_p) + c_p + B_s (A_s y0 + a_s) + c_s)

The parallel branch can create features that the layer lacks, the sequential branch mixes those it has. Both are linear:
merged, W = W0 + s (B_p A_p + B_s A_s W0) and b = b0 + s (B_s A_s b0 + B_p a_p + c_p + B_s a_s + c_s).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fullrank.adapt.config import DeltaConfig
from fullrank.adapt.delta import Delta, FrozenLayer
from fullrank.adapt.layer import DeltaLayer
from fullrank.adapt.registration import register
from fullrank.linalg import svd

_BERT = r".*layer\.\d+\.output\.dense"  # "output.dense" alone is the attention output too

#: Model types -> the output projection of their feed-forward blocks, where the paper puts Hydra.
_OUTPUTS: tuple[tuple[str, list[str] | str], ...] = (
    ("bert roberta xlm-roberta camembert electra deberta deberta-v2 mpnet", _BERT),
    ("llama mistral gemma gemma2 gemma3_text qwen2 qwen3 phi3", ["down_proj"]),
    ("vit deit beit dinov2 swin clip siglip phi", ["mlp.fc2"]),
    ("opt bart mbart whisper", ["fc2"]),
    ("gpt2 gpt_neo gpt_bigcode", ["mlp.c_proj"]),
    ("gpt_neox bloom falcon", ["dense_4h_to_h"]),
    ("t5 mt5", ["wo"]),
    ("gptj", ["fc_out"]),
    ("albert", ["ffn_output"]),
    ("distilbert", ["ffn.lin2"]),
    ("modernbert", ["mlp.Wo"]),
    ("wav2vec2", ["feed_forward.output_dense"]),
)
FEED_FORWARD_OUTPUTS = {kind: layers for kinds, layers in _OUTPUTS for kind in kinds.split()}

_INITS = (True, "kaiming", "xavier", "gaussian", False)


@dataclass
class HydraConfig(DeltaConfig):
    """Configuration of Hydra; the fields that it shares with every adapter are those of `DeltaConfig`.

    Args:
        r: rank of the parallel branch; 0 leaves the sequential branch alone. Default 8.
        r_seq: rank of the sequential branch; 0 leaves the parallel branch alone (LoRA with a free scale). Default `r`.
        scaling: s, a free factor and not alpha over rank. Default 1.
        hydra_dropout: probability of dropout between the down and the up projection. Default 0.
        adapter_bias: give both projections of both branches a bias, as the vision recipes do. Default False.
        create_bias: let merging add a bias to a layer that has none, where the change needs one. Default False.
        init_weights: how the down projections start: True or "kaiming" (uniform, a = sqrt 5, the language recipe),
            "xavier" (uniform, VTAB-1k), "gaussian" (standard deviation 0.02, ELEVATER). The up projections and all
            biases start at zero. False starts everything at random.
        rank_pattern: layer name or regular expression -> another `r`, or a pair of other `r` and `r_seq`.

    Raises:
        ValueError: a rank that is no integer or negative, both ranks zero, or another value out of range.
    """

    method: ClassVar[str] = "hydra"
    patterns: ClassVar[dict[str, str]] = {"rank_pattern": "r"}

    r: int = 8
    r_seq: int | None = None
    scaling: float = 1.0
    hydra_dropout: float = 0.0
    adapter_bias: bool = False
    create_bias: bool = False
    rank_pattern: dict[str, int | tuple[int, int] | list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._check_numbers()
        _check_rank("r", self.r)
        if self.r_seq is not None:
            _check_rank("r_seq", self.r_seq)
        if self.r == self.ranks[1] == 0:
            raise ValueError(f"r={self.r} and r_seq={self.r_seq} leave nothing to train: make one of them positive")
        if not math.isfinite(self.scaling):
            raise ValueError(f"scaling={self.scaling}: use a finite number")
        if not 0 <= self.hydra_dropout < 1:
            raise ValueError(f"hydra_dropout={self.hydra_dropout}: use a probability in [0, 1)")
        if self.init_weights not in _INITS:
            raise ValueError(f"init_weights={self.init_weights!r}: use one of {', '.join(map(repr, _INITS))}")
        super().__post_init__()

    @property
    def ranks(self) -> tuple[int, int]:
        """(r_p, r_s), the ranks of the parallel and of the sequential branch."""
        return self.r, self.r if self.r_seq is None else self.r_seq

    def override(self, pattern: str, value: Any) -> dict[str, Any]:
        """A number sets `r`, a pair sets `r` and `r_seq`."""
        if not isinstance(value, (tuple, list)):
            return {"r": value}
        if len(value) != 2:
            raise ValueError("use one rank, or a pair of the parallel and the sequential rank")
        return {"r": value[0], "r_seq": value[1]}


class HydraDelta(Delta):
    """The two branches of Hydra on one linear layer; a branch of rank zero has no parameters."""

    shown = tuple(f"{branch}_{name}" for branch in ("par", "seq") for name in ("A", "B", "A_bias", "B_bias"))

    def __init__(self, base: FrozenLayer, config: HydraConfig) -> None:
        super().__init__(base, config)
        self.scaling, self.init, self.creates_bias = config.scaling, config.init_weights, config.create_bias
        self.dropout = nn.Dropout(config.hydra_dropout)
        out = base.out_features
        for branch, rank, width in zip(("par", "seq"), config.ranks, (base.in_features, out), strict=True):
            with_bias = rank > 0 and config.adapter_bias
            self.register_parameter(f"{branch}_A", nn.Parameter(torch.empty(rank, width)) if rank else None)
            self.register_parameter(f"{branch}_B", nn.Parameter(torch.empty(out, rank)) if rank else None)
            self.register_parameter(f"{branch}_A_bias", nn.Parameter(torch.empty(rank)) if with_bias else None)
            self.register_parameter(f"{branch}_B_bias", nn.Parameter(torch.empty(out)) if with_bias else None)

    def reset(self) -> None:
        """Down projections as the recipe says, everything else zero: y = y0."""
        for name, parameter in self.named_parameters():
            if self.init is False:
                nn.init.uniform_(parameter, -0.3, 0.3)
            elif not name.endswith("_A"):
                nn.init.zeros_(parameter)
            elif self.init == "xavier":
                nn.init.xavier_uniform_(parameter)
            elif self.init == "gaussian":
                nn.init.normal_(parameter, std=0.02)
            else:
                nn.init.kaiming_uniform_(parameter, a=math.sqrt(5))

    def weight(self) -> Float[Tensor, "out in"]:
        """s (B_p A_p + B_s A_s W0)."""
        return self._merged()[0]

    def bias_change(self) -> Float[Tensor, "out"] | None:
        """s (B_s A_s b0 + B_p a_p + c_p + B_s a_s + c_s); None if nothing reaches the bias."""
        return self._merged()[1]

    def forward(self, x: Float[Tensor, "*batch in"], y: Float[Tensor, "*batch out"]) -> Float[Tensor, "*batch out"]:
        """s (B_p (A_p x + a_p) + c_p + B_s (A_s y0 + a_s) + c_s), both up projections in one product."""
        down, up, shifts = [], [], []
        for branch, features in (("par", x), ("seq", y)):
            A, B, a, c = self._branch(branch)
            if A is not None and B is not None:
                down.append(nn.functional.linear(features, A, a))
                up.append(B)
            if c is not None:
                shifts.append(c)
        shift = self.scaling * torch.stack(shifts).sum(0) if shifts else None
        return nn.functional.linear(self.scaling * self.dropout(torch.cat(down, -1)), torch.cat(up, -1), shift)

    def _branch(self, branch: str) -> tuple[Tensor | None, ...]:
        return tuple(getattr(self, f"{branch}_{name}") for name in ("A", "B", "A_bias", "B_bias"))

    def _merged(self) -> tuple[Tensor, Tensor | None]:
        W0, b0 = self.base.read()
        factors = dict(self.named_parameters())
        device = next(iter(factors.values())).device
        b0 = None if b0 is None else b0.to(device, self.dtype)
        return hydra_delta(W0.to(device, self.dtype), b0, **factors, scaling=self.scaling)


HydraModel = register(HydraConfig, HydraDelta, targets=FEED_FORWARD_OUTPUTS)
HydraLayer = HydraModel.tuner_layer_cls
HydraLinear = HydraModel.layer_types[nn.Linear]


def hydra_delta(
    W0: Float[Tensor, "out in"],
    b0: Float[Tensor, "out"] | None = None,
    *,
    par_A: Float[Tensor, "r_par in"] | None = None,
    par_B: Float[Tensor, "out r_par"] | None = None,
    seq_A: Float[Tensor, "r_seq out"] | None = None,
    seq_B: Float[Tensor, "out r_seq"] | None = None,
    par_A_bias: Float[Tensor, "r_par"] | None = None,
    par_B_bias: Float[Tensor, "out"] | None = None,
    seq_A_bias: Float[Tensor, "r_seq"] | None = None,
    seq_B_bias: Float[Tensor, "out"] | None = None,
    scaling: float = 1.0,
) -> tuple[Float[Tensor, "out in"], Float[Tensor, "out"] | None]:
    """The change of weight and bias that equals Hydra's branches, by the closed form of the module's text.

    Args:
        W0, b0: the frozen layer; `b0` None if it has no bias.
        par_A, par_B, seq_A, seq_B: the branches, each given whole or not at all.
        par_A_bias, par_B_bias, seq_A_bias, seq_B_bias: a_p, c_p, a_s and c_s; default none.
        scaling: s.

    Returns:
        (dW, db); db is None if neither b0 nor a bias of the branches reaches it.

    Raises:
        ValueError: half a branch.
    """
    dW, shifts = torch.zeros_like(W0), [bias for bias in (par_B_bias, seq_B_bias) if bias is not None]
    for name, A, B in (("par", par_A, par_B), ("seq", seq_A, seq_B)):
        if (A is None) != (B is None):
            raise ValueError(f"{name}_A and {name}_B make one branch: pass both or neither")
    if par_A is not None and par_B is not None:
        dW = dW + par_B @ par_A
        if par_A_bias is not None:
            shifts.append(par_B @ par_A_bias)
    if seq_A is not None and seq_B is not None:
        dW = dW + seq_B @ (seq_A @ W0)
        if b0 is not None:
            shifts.append(seq_B @ (seq_A @ b0))
        if seq_A_bias is not None:
            shifts.append(seq_B @ seq_A_bias)
    return scaling * dW, scaling * torch.stack(shifts).sum(0) if shifts else None


class BranchAlignment(NamedTuple):
    """How much of each branch's change lies in the strongest input directions of W0; NaN for a change of zero.

    Attributes:
        parallel: share of the Frobenius norm of B_p A_p.
        sequential: share of the Frobenius norm of B_s A_s W0.
    """

    parallel: float
    sequential: float


@torch.no_grad()
def branch_alignment(model: nn.Module, k: int, adapter_name: str = "default") -> dict[str, BranchAlignment]:
    """||dW V_k||_F / ||dW||_F of both branches, V_k the k strongest right singular directions of W0.

    Args:
        model: a model with Hydra layers.
        k: number of directions, at most the smaller side of every changed weight.
        adapter_name: the adapter.

    Returns:
        Layer name -> shares between 0 and 1; 0 for a branch that changes nothing yet.

    Raises:
        ValueError: no layer carries the adapter with both branches, or `k` is out of range for a layer.
    """
    found = {}
    for layer in model.modules():
        if not isinstance(layer, HydraLayer) or adapter_name not in cast(DeltaLayer, layer).deltas:
            continue
        delta = cast(HydraDelta, cast(DeltaLayer, layer).deltas[adapter_name])
        factors = {name: parameter.float() for name, parameter in delta.named_parameters()}
        if not {"par_A", "seq_A"} <= set(factors):
            continue
        W0 = delta.base.weight.float()
        if not 1 <= k <= min(W0.shape):
            raise ValueError(f"k={k}: {delta.base.name!r} is {W0.shape[0]} x {W0.shape[1]}, use 1..{min(W0.shape)}")
        V = svd(W0, rank=k).Vh.mT
        changes = (factors["par_B"] @ factors["par_A"], factors["seq_B"] @ (factors["seq_A"] @ W0))
        found[delta.base.name] = BranchAlignment(*(_share(dW, V) for dW in changes))
    if not found:
        raise ValueError(f"no layer of the model carries a Hydra adapter {adapter_name!r} with both branches")
    return found


def _share(dW: Tensor, V: Tensor) -> float:
    size = dW.norm()
    return float((dW @ V).norm() / size) if size > 0 else 0.0


def _check_rank(name: str, rank: Any) -> None:
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 0:
        raise ValueError(f"{name}={rank!r}: use an integer of at least 0")
