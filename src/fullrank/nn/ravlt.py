"""RAVLT: a four-stage vision transformer on rank-augmented linear attention.

Source: arXiv 2411.07635 and its official code. The released networks are hybrids: RALA in stages 1 and 2, softmax
attention in stages 3 and 4. `attn_kinds="rala"` builds the purely linear network; published accuracies belong to the
hybrid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from fullrank.nn.gated_attention import GatedAttention, GatedSoftmaxAttention
from fullrank.nn.rala import RankAugmentedLinearAttention
from fullrank.nn.ravlt_blocks import Block, ChannelNorm, Map, OtherMap, Stage

AttentionKind = Literal["rala", "softmax"]
HYBRID: tuple[AttentionKind, ...] = ("rala", "rala", "softmax", "softmax")

_ATTENTION: dict[str, type[GatedAttention]] = {"rala": RankAugmentedLinearAttention, "softmax": GatedSoftmaxAttention}
_STEM_STRIDES = {4: (2, 1, 1, 2), 2: (1, 1, 1, 2), 1: (1, 1, 1, 1)}


class RAVLT(nn.Module):
    """The backbone with its classifier. Inputs of any size are accepted; the output stride is 32.

    Args:
        in_chans: channels of the image.
        num_classes: classes; 0 for features only.
        embed_dims: channels by stage.
        depths: blocks by stage.
        num_heads: heads by stage.
        mlp_ratios: width of the feed-forward part over the channels, by stage or one for all.
        attn_kinds: "rala" or "softmax", by stage or one for all; the default is that of the released networks.
        drop_path_rate: rate of stochastic depth in the last block; it grows linearly from 0.
        layer_scale: initial value of the channel scales by stage, or one for all; None for none.
        head_width: channels before the classifier.
        stem_stride: 4, or 2 or 1 for small images.
        rala_options: further options of every `RankAugmentedLinearAttention`, such as {"reweight": False}.
        drop_rate: dropout before the classifier.
        global_pool: "avg", or "" for no pooling (with num_classes=0).

    Raises:
        ValueError: options by stage are not as many as there are stages, an attention kind or stride is unknown,
            widths and heads do not fit, or a rate is out of range.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        *,
        embed_dims: Sequence[int] = (64, 128, 256, 512),
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (1, 2, 4, 8),
        mlp_ratios: float | Sequence[float] = 3.5,
        attn_kinds: AttentionKind | Sequence[AttentionKind] = HYBRID,
        drop_path_rate: float = 0.1,
        layer_scale: float | Sequence[float | None] | None = 1.0,
        head_width: int = 1024,
        stem_stride: int = 4,
        rala_options: Mapping[str, Any] | None = None,
        drop_rate: float = 0.0,
        global_pool: str = "avg",
    ) -> None:
        super().__init__()
        plan = _plan(embed_dims, depths, num_heads, mlp_ratios, attn_kinds, layer_scale)
        if stem_stride not in _STEM_STRIDES:
            raise ValueError(f"stem_stride={stem_stride}: use one of {', '.join(map(str, _STEM_STRIDES))}")
        if not 0 <= drop_path_rate < 1:
            raise ValueError(f"drop_path_rate={drop_path_rate}: use a share in [0, 1)")
        self.num_classes, self.global_pool, self.drop_rate = num_classes, global_pool, drop_rate
        self.num_features = self.head_hidden_size = head_width
        self.embed_dims, self.depths = tuple(embed_dims), tuple(depths)
        self.stem = _stem(in_chans, embed_dims[0], _STEM_STRIDES[stem_stride])
        rates = torch.linspace(0, drop_path_rate, sum(depths), device="cpu").split(list(depths))
        self.stages = nn.ModuleList(
            Stage(
                [_block(spec, rate, rala_options or {}) for rate in stage_rates.tolist()],
                None if before is None else _downsampling(before, spec.dim),
            )
            for spec, stage_rates, before in zip(plan, rates, [None, *embed_dims[:-1]], strict=True)
        )
        self.feature_info = [
            {"num_chs": dim, "reduction": stem_stride * 2**index, "module": f"stages.{index}"}
            for index, dim in enumerate(embed_dims)
        ]
        self.final_conv = nn.Conv2d(embed_dims[-1], head_width, 1)
        self.final_norm = nn.BatchNorm2d(head_width)
        self.head = _classifier(head_width, num_classes)
        self._check_pool()
        self.apply(_initialise)

    def forward(self, x: Map) -> Float[Tensor, "batch ..."]:
        """Logits of images, (batch, num_classes)."""
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Map) -> OtherMap:
        """The map before pooling, (batch, head_width, rows / 32, columns / 32)."""
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return functional.silu(self.final_norm(self.final_conv(x)))

    def forward_head(self, x: Map, pre_logits: bool = False) -> Float[Tensor, "batch ..."]:
        """Pool and classify what `forward_features` gives; with `pre_logits` only pool."""
        pooled = x.mean(dim=(2, 3)) if self.global_pool else x
        pooled = functional.dropout(pooled, self.drop_rate, self.training)
        return pooled if pre_logits else self.head(pooled)

    def forward_intermediates(
        self,
        x: Map,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[OtherMap] | tuple[OtherMap, list[OtherMap]]:
        """The maps of several stages, as timm's models give them.

        Args:
            x: images.
            indices: which stages, negative from the end; a number for the last so many; None for all.
            norm: must be False: the network has no normalisation of its own after a stage.
            stop_early: leave out the stages after the last that is asked for.
            output_fmt: "NCHW".
            intermediates_only: return the list alone, not (features, list).

        Raises:
            ValueError: an index out of range, `norm`, or another output format.
        """
        if norm or output_fmt != "NCHW":
            raise ValueError(f"norm={norm}, output_fmt={output_fmt!r}: only norm=False and 'NCHW' are available")
        taken = stage_indices(len(self.stages), indices)
        last = max(taken) if stop_early else len(self.stages) - 1
        maps: list[Tensor] = []
        x = self.stem(x)
        for index, stage in enumerate(self.stages):
            if index > last:
                break
            x = stage(x)
            if index in taken:
                maps.append(x)
        if intermediates_only:
            return maps
        if last == len(self.stages) - 1:
            x = functional.silu(self.final_norm(self.final_conv(x)))
        return x, maps

    def get_classifier(self) -> nn.Module:
        """The last linear map."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier; 0 classes for none."""
        if global_pool is not None:
            self.global_pool = global_pool
        self.num_classes = num_classes
        weight = self.final_conv.weight
        self.head = _classifier(self.num_features, num_classes).to(weight.device, weight.dtype)
        self._check_pool()
        self.head.apply(_initialise)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute every block in the backward pass instead of keeping its activations."""
        for stage in self.stages:
            cast(Stage, stage).grad_checkpointing = enable

    def no_weight_decay(self) -> set[str]:
        """Names of the channel scales, which are not decayed."""
        return {name for name, _ in self.named_parameters() if name.endswith((".scale1", ".scale2"))}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns that order the parameters by depth, for layer-wise learning rates."""
        blocks = [(r"^stages\.(\d+)\.downsample", (0,)), (r"^stages\.(\d+)\.blocks\.(\d+)", None)]
        return {
            "stem": r"^stem",
            "blocks": r"^stages\.(\d+)" if coarse else [*blocks, (r"^final_", (99_999,))],
        }

    def load_official_state_dict(self, source: Any, *, ema: bool = False) -> None:
        """Load a checkpoint of the authors' code; see `ravlt_checkpoint.load_official_state_dict`."""
        from fullrank.nn.ravlt_checkpoint import load_official_state_dict

        load_official_state_dict(self, source, ema=ema)

    def _check_pool(self) -> None:
        if self.global_pool not in ("avg", ""):
            raise ValueError(f"global_pool={self.global_pool!r}: use 'avg', or '' for no pooling")
        if not self.global_pool and self.num_classes:
            raise ValueError(
                f"global_pool='' leaves a map, which num_classes={self.num_classes} cannot classify: use num_classes=0"
            )


class RAVLTFeatures(nn.Module):
    """The stages of a `RAVLT` as a backbone for detection and segmentation: a list of maps, each layer-normalised.

    Args:
        model: the network; its stem and the stages up to the last that is asked for are taken over.
        out_indices: which stages, negative from the end.
        norm: a layer normalisation on every map, as the authors' detection code has it.
    """

    def __init__(self, model: RAVLT, out_indices: Sequence[int] = (0, 1, 2, 3), *, norm: bool = True) -> None:
        super().__init__()
        self.out_indices = stage_indices(len(model.stages), out_indices)
        self.stem = model.stem
        self.stages = nn.ModuleList(list(model.stages)[: max(self.out_indices) + 1])
        self.feature_info = [model.feature_info[index] for index in self.out_indices]
        self.norms = nn.ModuleList(
            ChannelNorm(model.embed_dims[index]) if norm else nn.Identity() for index in self.out_indices
        )

    def forward(self, x: Map) -> list[OtherMap]:
        """One map per index, finest first."""
        maps = []
        x = self.stem(x)
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index in self.out_indices:
                maps.append(self.norms[self.out_indices.index(index)](x))
        return maps

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute every block in the backward pass instead of keeping its activations."""
        for stage in self.stages:
            cast(Stage, stage).grad_checkpointing = enable


def stage_indices(stages: int, indices: int | Sequence[int] | None) -> tuple[int, ...]:
    """Positions of the stages that are asked for, ascending.

    Raises:
        ValueError: none, or one that does not exist.
    """
    if indices is None:
        return tuple(range(stages))
    wanted = range(-indices, 0) if isinstance(indices, int) else indices
    if not wanted or any(not -stages <= index < stages for index in wanted):
        raise ValueError(f"indices {indices}: name some of the {stages} stages, {-stages}..{stages - 1}")
    return tuple(sorted({index % stages for index in wanted}))


class _StagePlan(NamedTuple):
    dim: int
    depth: int
    heads: int
    ratio: float
    kind: str
    layer_scale: float | None


def _plan(
    embed_dims: Sequence[int], depths: Any, num_heads: Any, mlp_ratios: Any, attn_kinds: Any, layer_scale: Any
) -> list[_StagePlan]:
    """The options of every stage."""
    stages = len(embed_dims)
    columns = {
        "depths": depths, "num_heads": num_heads, "mlp_ratios": mlp_ratios, "attn_kinds": attn_kinds,
        "layer_scale": layer_scale,
    }  # fmt: skip
    lists = {}
    for name, value in columns.items():
        lists[name] = list(value) if isinstance(value, list | tuple) else [value] * stages
        if len(lists[name]) != stages:
            raise ValueError(f"{name}={value} has {len(lists[name])} entries for {stages} stages (embed_dims)")
    for kind in lists["attn_kinds"]:
        if kind not in _ATTENTION:
            raise ValueError(f"attn_kinds names {kind!r}: use {' or '.join(map(repr, _ATTENTION))}")
    return [_StagePlan(*values) for values in zip(embed_dims, *lists.values(), strict=True)]


def _block(spec: _StagePlan, drop_path: float, rala_options: Mapping[str, Any]) -> Block:
    options = rala_options if spec.kind == "rala" else {}
    attention = _ATTENTION[spec.kind](spec.dim, spec.heads, **options)
    return Block(spec.dim, attention, int(spec.ratio * spec.dim), drop_path, spec.layer_scale)


def _stem(in_chans: int, dim: int, strides: tuple[int, ...]) -> nn.Sequential:
    widths = (in_chans, dim // 2, dim // 2, dim // 2, dim)
    layers: list[nn.Module] = []
    for (before, after), stride in zip(pairwise(widths), strides, strict=True):
        layers += [nn.Conv2d(before, after, 3, stride, 1), nn.BatchNorm2d(after), nn.GELU()]
    return nn.Sequential(*layers[:-1])


def _downsampling(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, 3, 2, 1), nn.BatchNorm2d(after))


def _classifier(width: int, classes: int) -> nn.Module:
    return nn.Linear(width, classes) if classes else nn.Identity()


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
