"""A training step of every adapter against PEFT's, and a layer of it against the authors' way to compute it.

Both sides of a pair run in turn, in one process, in float32, on a batch of 32 x 128 tokens: forward, backward and AdamW
on one encoder block of MiniLM (384 wide) or BERT-base (768 wide), its six linear layers adapted, no dropout, random
weights, and an input that takes a gradient, as inside a network. LoRA has the rank that comes nearest to the adapter's
number of trainable parameters, 1 at least, unless the row names its rank. Peak memory is the largest sum of live tensor
allocations during one step, as torch.profiler records them, on top of model, optimiser state and inputs.

The authors' ways, on a single layer with automatic differentiation: Hydra with B_s A_s W0 made into a matrix, WaRA and
LoCA with a dense inverse transform in every forward pass, LoLDU with the permutation as a dense matrix.

    python benchmarks/adapters.py [--model minilm|bert-base] [--methods hydra,wara,loldu,loca,lamda,owlora]
"""

from __future__ import annotations

import argparse
import copy
import statistics
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from peft import FourierFTConfig, LoraConfig, WaveFTConfig, get_peft_model
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.profiler import ProfilerActivity, profile
from transformers import BertConfig
from transformers.models.bert.modeling_bert import BertEncoder

from _timing import Pairs, alternate, seconds, show
from fullrank.adapt import HydraConfig, LamdaConfig, LocaConfig, LoLDUConfig, OWLoRAConfig, WaraConfig, freeze_step
from fullrank.adapt.memory import activation_bytes
from fullrank.adapt.wara_grid import analysis_matrix
from fullrank.linalg import cosine_rows, idct2, sparse_idct2

METHODS = ("hydra", "wara", "loldu", "loca", "lamda", "owlora")
LAYERWISE = ("hydra", "wara", "loldu", "loca")  # those that are timed against the authors' way, a layer at a time
MODELS = {"minilm": (384, 1536), "bert-base": (768, 3072)}  # width, inner width
LAYERS = ["query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense"]
BATCH, TOKENS = 32, 128
MIB = 1 << 20

Config = Callable[[], Any]


@dataclass(frozen=True)
class Rival:
    """An adapter's step and the one that it is compared with; `peer` None is LoRA of as many parameters."""

    name: str
    ours: Config
    target: str
    peer: Config | None = None
    peer_name: str = ""
    frozen: bool = False


def rivals(method: str) -> list[Rival]:
    loca = partial(LocaConfig, n_frequency=1000, init_locations="distinct", learn_location_steps=0)
    lamda = partial(LamdaConfig, r=32)
    match method:
        case "hydra":
            return [Rival("hydra r=8", partial(HydraConfig, r=8), "1.10")]
        case "wara":
            shared = partial(WaraConfig, r=8, mode="shared", wavelet="db4")
            return [
                Rival("wara haar, 4 bands", partial(WaraConfig, r=4), "1.25"),
                Rival("wara db4, 4 bands", partial(WaraConfig, r=4, wavelet="db4"), "1.50"),
                Rival("wara db4, shared", shared, "1.50"),
            ]
        case "loldu":
            loldu = partial(LoLDUConfig, r=64)
            return [
                Rival("loldu r=64", loldu, "1.10", lora(64), "LoRA r=64"),
                Rival("loldu r=64", loldu, "1.50"),
            ]
        case "loca":
            fourier = partial(FourierFTConfig, n_frequency=1000)
            learning = partial(loca, learn_location_steps=1000, coefficient_steps=1, location_steps=1000)
            return [
                Rival("loca k=1000", loca, "1.50"),
                Rival("loca k=1000", loca, "1.10", fourier, "FourierFT k=1000"),
                Rival("loca, places learned", learning, "1.10", fourier, "FourierFT k=1000"),
            ]
        case "owlora":
            return [Rival("owlora r=8, projected", partial(OWLoRAConfig, r=8, orthogonal_lambda=0), "1.50")]
        case _:
            return [
                Rival("lamda r=32, B trained", partial(lamda, freeze_fraction=None), "1.05", lora(32), "LoRA r=32"),
                Rival("lamda r=32, B frozen", lamda, "0.95", lora(32), "LoRA r=32", frozen=True),
                Rival("lamda r=32, B trained", partial(lamda, freeze_fraction=None), "1.50"),
            ]


def lora(rank: int) -> Config:
    return partial(LoraConfig, r=rank)


class Step:
    """A training step of the adapted encoder."""

    def __init__(self, encoder: nn.Module, config: Any, frozen: bool = False) -> None:
        config.target_modules = LAYERS
        self.model = get_peft_model(cast(Any, copy.deepcopy(encoder)), config).train()
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, 1e-4)
        self.x = torch.randn(BATCH, TOKENS, cast(Any, encoder).config.hidden_size, requires_grad=True)
        self()  # makes the optimiser's state
        if isinstance(config, LocaConfig):
            cast(Any, self.model.base_model).update_schedule(1)
        if isinstance(config, OWLoRAConfig):
            cast(Any, self.model.base_model).register_step_hooks(self.optimizer)
        if frozen:
            freeze_step(self.model, 1, 1, self.optimizer)

    def __call__(self) -> None:
        """One step."""
        self.optimizer.zero_grad()
        self.x.grad = None
        self.loss().backward()
        self.optimizer.step()

    def loss(self) -> Tensor:
        """Of one forward pass."""
        return cast(Any, self.model)(self.x)[0].square().mean()

    @property
    def parameters(self) -> int:
        """How many numbers the optimiser trains."""
        return sum(p.numel() for group in self.optimizer.param_groups for p in group["params"])

    @property
    def state_bytes(self) -> int:
        """Of the optimiser's moments."""
        return sum(t.nbytes for state in self.optimizer.state.values() for t in state.values() if t.ndim)

    def saved_bytes(self) -> int:
        """Bytes that the adapters make the backward pass keep: those of the step less those of the bare encoder."""
        batch = {"hidden_states": self.x}
        with cast(Any, self.model).disable_adapter():
            bare = activation_bytes(self.model, batch)
        return activation_bytes(self.model, batch) - bare


def encoder_of(width: int, inner: int) -> nn.Module:
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=1,
        num_attention_heads=12,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    config._attn_implementation = "sdpa"
    return BertEncoder(config)


def same_size(step: Step, encoder: nn.Module) -> int:
    """The rank of LoRA with the nearest number of parameters."""
    return max(1, round(step.parameters / Step(encoder, LoraConfig(r=1)).parameters))


def peak(call: Callable[[], object]) -> int:
    """The largest sum of live allocations that a call made."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        call()
    live = highest = 0
    for event in cast(Any, recorded.profiler).kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            highest = max(highest, live)
    return highest


def cost(pairs: Pairs) -> list[str]:
    """Median of each side, and the time of ours over the peer's: median, smallest and largest."""
    ratios = [ours / peer for ours, peer in zip(pairs.ours, pairs.peer, strict=True)]
    times = [seconds(statistics.median(side)) for side in (pairs.ours, pairs.peer)]
    return [*times, f"{statistics.median(ratios):.2f}x", f"{min(ratios):.2f}-{max(ratios):.2f}"]


def step_row(encoder: nn.Module, rival: Rival, pairs: int) -> list[str]:
    ours = Step(encoder, rival.ours(), rival.frozen)
    rank = 0 if rival.peer else same_size(ours, encoder)
    peer = Step(encoder, rival.peer() if rival.peer else LoraConfig(r=rank))
    timed = alternate(ours, peer, pairs)
    memory = peak(ours) / peak(peer)
    name = rival.peer_name or f"LoRA r={rank}"
    sizes = f"{ours.parameters}/{peer.parameters}"
    return [rival.name, name, sizes, *cost(timed), rival.target, f"{memory:.2f}x"]


def lamda_memory(encoder: nn.Module) -> list[list[str]]:
    """What LaMDA keeps for the backward pass and in the optimiser, beside LoRA of the same rank."""
    peer, rows = Step(encoder, LoraConfig(r=32)), []
    for name, frozen in (("B trained", False), ("B frozen", True)):
        ours = Step(encoder, LamdaConfig(r=32), frozen)
        kept, theirs = ours.saved_bytes(), peer.saved_bytes()
        per_layer = ours.state_bytes / len(LAYERS)
        columns = [f"{kept / MIB:.1f} MiB", f"{theirs / MIB:.1f} MiB", f"{kept / theirs:.3f}x"]
        rows.append([name, *columns, f"{per_layer:.0f} B", f"{8 * 32**2} B"])
    return rows


# --- a layer, computed as the authors do ------------------------------------------------------------------------------


class Authors(nn.Module):
    """x -> x (W0 + change)^T, the change made into a matrix by automatic differentiation in every pass."""

    def __init__(self, W0: Tensor, change: Callable[..., Tensor], *factors: Tensor) -> None:
        super().__init__()
        self.W0, self.change = W0, change
        self.factors = nn.ParameterList(factors)

    def forward(self, x: Tensor) -> Tensor:
        """Of a batch."""
        return linear(x, self.W0 + self.change(*self.factors))


def authors_way(method: str, W0: Tensor) -> tuple[str, Any, Authors]:
    """Description, our configuration and the authors' layer."""
    n, rank = len(W0), 8
    A, B = torch.randn(rank, n) / n, torch.randn(n, rank)
    match method:
        case "hydra":
            factors = [A, B, A.clone(), B.clone()]
            return "B_s A_s W0 as a matrix", HydraConfig(r=rank), Authors(W0, partial(_hydra, W0), *factors)
        case "wara":
            T = analysis_matrix(n, "db4").float()
            A, B = torch.randn(4 * rank, n // 2) / n, torch.randn(n // 2, 4 * rank)
            return "dense inverse transform", WaraConfig(r=rank, wavelet="db4"), Authors(W0, partial(_wara, T), A, B)
        case "loca":
            C = cosine_rows(torch.arange(n), n)
            places = torch.randperm(n * n)[:1000]
            config = LocaConfig(n_frequency=1000, init_locations="distinct", learn_location_steps=0)
            return "dense inverse transform", config, Authors(W0, partial(_loca, C, places), torch.randn(1000))
        case _:
            P, L, U = torch.linalg.lu(W0)
            d = U.diagonal().clone()
            residual = torch.zeros_like(W0)  # at full rank the factors hold all of W0
            official = Authors(residual, partial(_loldu, P, L, U / d[:, None]), d, torch.ones(()))
            return "sigma P L diag(z) U, full rank", LoLDUConfig(r="full"), official


def _hydra(W0: Tensor, A_p: Tensor, B_p: Tensor, A_s: Tensor, B_s: Tensor) -> Tensor:
    return B_p @ A_p + B_s @ A_s @ W0


def _wara(T: Tensor, A: Tensor, B: Tensor) -> Tensor:
    LL, LH, HL, HH = (b @ a for a, b in zip(A.chunk(4), B.chunk(4, 1), strict=True))
    return T.mT @ torch.cat([torch.cat([LL, HL], 1), torch.cat([LH, HH], 1)]) @ T


def _loca(C: Tensor, places: Tensor, a: Tensor) -> Tensor:
    return C.mT @ a.new_zeros(C.numel()).index_put_((places,), a).view_as(C) @ C


def _loldu(P: Tensor, L: Tensor, U: Tensor, z: Tensor, sigma: Tensor) -> Tensor:
    return sigma * P @ L @ torch.diag(z) @ U


def layer_step(layer: nn.Module, x: Tensor, gradient: Tensor) -> None:
    """Forward and backward, with the gradient of the input, as inside a network."""
    x.grad = None
    for parameter in layer.parameters():
        parameter.grad = None
    layer(x).backward(gradient)


def adapted(W0: Tensor, config: Any) -> nn.Module:
    layer = nn.Linear(W0.shape[1], W0.shape[0], bias=False)
    layer.weight.data = W0.clone()
    config.target_modules = ["0"]
    return cast(nn.Module, get_peft_model(cast(Any, nn.Sequential(layer)), config)).train()


def layer_row(name: str, ours: nn.Module, peer: nn.Module, width: int, tokens: int, goal: str, pairs: int) -> list[str]:
    x, gradient = torch.randn(tokens, width, requires_grad=True), torch.randn(tokens, width)
    first, second = (partial(layer_step, side, x, gradient) for side in (ours, peer))
    return [name, *alternate(first, second, pairs).cells(), goal, f"{peak(first) / peak(second):.2f}x"]


def authors_rows(method: str, width: int, pairs: int) -> list[list[str]]:
    # Both sides need products with the tokens, and with many of them these leave LoLDU no factor of 5 to gain.
    sizes, goal = ((64, 256), "5") if method == "loldu" else ((BATCH * TOKENS,), "1")
    return [authors_row(method, width, tokens, goal, pairs) for tokens in sizes]


def authors_row(method: str, width: int, tokens: int, goal: str, pairs: int) -> list[str]:
    torch.manual_seed(0)
    W0 = torch.randn(width, width) / width**0.5
    way, config, peer = authors_way(method, W0)
    return layer_row(f"{method}, {way}, {tokens} tokens", adapted(W0, config), peer, width, tokens, goal, pairs)


def waveft_row(pairs: int) -> list[str]:
    """WaRA against PEFT's WaveFT of as many parameters, 1024 x 1024 and 256 tokens."""
    W0 = torch.randn(1024, 1024) / 32
    ours = adapted(W0, WaraConfig(r=4))
    size = sum(p.numel() for p in ours.parameters() if p.requires_grad)
    peer = adapted(W0, WaveFTConfig(n_frequency=size))
    return layer_row(f"wara r=4, WaveFT of {size}", ours, peer, 1024, 256, "2", pairs)


def build_rows(sides: Sequence[int]) -> list[list[str]]:
    """LoCA's transform, as a whole and of 1000 entries, against the complex Fourier transform of the same shape."""
    rows = []
    for side in sides:
        u, v = torch.randint(side, (2, 1000))
        a, S = torch.randn(1000), torch.randn(side, side)
        fourier, repeat = partial(torch.fft.ifft2, S.to(torch.complex64)), max(1, 1024**2 // side**2)
        for name, ours in (
            ("idct2", partial(idct2, S)),
            ("of 1000 entries", partial(sparse_idct2, a, u, v, (side, side))),
        ):
            pairs = alternate(partial(_repeat, repeat, ours), partial(_repeat, repeat, fourier), 9)
            rows.append([f"{side} x {side}, {name}", *cost(pairs), "1.50"])
    return rows


def _repeat(times: int, call: Callable[[], Tensor]) -> None:
    for _ in range(times):
        call()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", choices=tuple(MODELS), action="append", help="default: both")
    parser.add_argument("--methods", default=",".join(METHODS), help="comma-separated; default: all")
    parser.add_argument("--pairs", type=int, default=5, help="timings of both sides; default 5")
    options = parser.parse_args()
    methods = options.methods.split(",")
    if unknown := set(methods) - set(METHODS):
        parser.error(f"--methods {','.join(sorted(unknown))}: choose from {', '.join(METHODS)}")
    warnings.filterwarnings("ignore", message=".*training passes and no schedule")
    threads = torch.get_num_threads()
    for model in options.model or MODELS:
        encoder = encoder_of(*MODELS[model])
        rows = [step_row(encoder, rival, options.pairs) for method in methods for rival in rivals(method)]
        columns = ["", "peer", "trained", "ours", "peer's", "cost", "min-max", "target", "memory"]
        show(f"{model}: a training step over the peer's, {threads} threads (at most the target)", columns, rows)
        layerwise = [method for method in methods if method in LAYERWISE]
        rows = [row for method in layerwise for row in authors_rows(method, MODELS[model][0], options.pairs)]
        columns = ["", "ours", "theirs", "faster", "min-max", "target", "memory"]
        show(f"{model}: forward and backward of a layer against the authors' way (at least the target)", columns, rows)
        if "lamda" in methods:
            columns = ["r=32", "kept", "LoRA keeps", "share (target 0.15)", "state a layer", "target"]
            show(f"{model}: LaMDA's memory", columns, lamda_memory(encoder))
    if "wara" in methods:
        columns = ["1024 x 1024, 256 tokens", "ours", "theirs", "faster", "min-max", "target", "memory"]
        show("WaRA against WaveFT (at least the target)", columns, [waveft_row(options.pairs)])
    if "loca" in methods:
        columns = ["", "ours", "torch.fft.ifft2", "cost", "min-max", "target"]
        show("LoCA's transform", columns, build_rows((384, 768, 2048)))


if __name__ == "__main__":
    main()
