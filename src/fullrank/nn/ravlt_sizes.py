"""The four published sizes of RAVLT, and their place in timm's registry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from fullrank._optional import require
from fullrank.nn.ravlt import HYBRID, RAVLT, AttentionKind, RAVLTFeatures


class Size(NamedTuple):
    """What distinguishes a published size; every entry but the last is by stage."""

    embed_dims: tuple[int, ...]
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    layer_scale: tuple[float, ...]
    drop_path_rate: float


#: By the letters of the paper.
SIZES = {
    "tiny": Size((64, 128, 256, 512), (2, 2, 6, 2), (1, 2, 4, 8), (1.0, 1.0, 1.0, 1.0), 0.1),
    "small": Size((64, 128, 320, 512), (3, 5, 9, 3), (1, 2, 5, 8), (1.0, 1.0, 1.0, 1.0), 0.15),
    "base": Size((96, 192, 384, 512), (4, 6, 12, 6), (1, 2, 6, 8), (1.0, 1.0, 1e-6, 1e-6), 0.4),
    "large": Size((96, 192, 448, 640), (4, 7, 19, 8), (1, 2, 7, 10), (1e-6, 1e-6, 1e-6, 1e-6), 0.55),
}


def ravlt(
    size: str,
    pretrained: bool = False,
    *,
    num_classes: int = 1000,
    in_chans: int = 3,
    attn_kinds: AttentionKind | Sequence[AttentionKind] = HYBRID,
    features_only: bool = False,
    out_indices: Sequence[int] = (0, 1, 2, 3),
    **options: Any,
) -> RAVLT | RAVLTFeatures:
    """A network of a published size, for images of any size.

    Args:
        size: "tiny", "small", "base" or "large".
        pretrained: must be False: weights are loaded with `load_official_state_dict`.
        num_classes: classes; 0 for features.
        in_chans: channels of the image.
        attn_kinds: by stage; the default is that of the released networks, "rala" the purely linear one.
        features_only: return the maps of the stages instead of logits (`RAVLTFeatures`).
        out_indices: which stages, with `features_only`.
        options: see `RAVLT`.

    Raises:
        ValueError: an unknown size, or `pretrained`.
    """
    if size not in SIZES:
        raise ValueError(f"size={size!r}: use one of {', '.join(map(repr, SIZES))}")
    if pretrained:
        raise ValueError(
            f"pretrained=True: no weights travel with fullrank. Build ravlt_{size}(), download the checkpoint that the "
            "authors link in https://github.com/qhfan/RALA, and pass it to model.load_official_state_dict(path)"
        )
    if features_only:
        num_classes = 0
    model = RAVLT(in_chans, num_classes, attn_kinds=attn_kinds, **{**SIZES[size]._asdict(), **options})
    return RAVLTFeatures(model, out_indices) if features_only else model


def ravlt_tiny(pretrained: bool = False, **options: Any) -> RAVLT | RAVLTFeatures:
    """RAVLT-T: 14.9 M parameters; see `ravlt`."""
    return ravlt("tiny", pretrained, **options)


def ravlt_small(pretrained: bool = False, **options: Any) -> RAVLT | RAVLTFeatures:
    """RAVLT-S: 25.6 M parameters; see `ravlt`."""
    return ravlt("small", pretrained, **options)


def ravlt_base(pretrained: bool = False, **options: Any) -> RAVLT | RAVLTFeatures:
    """RAVLT-B: 48.2 M parameters; see `ravlt`."""
    return ravlt("base", pretrained, **options)


def ravlt_large(pretrained: bool = False, **options: Any) -> RAVLT | RAVLTFeatures:
    """RAVLT-L: 95.2 M parameters; see `ravlt`."""
    return ravlt("large", pretrained, **options)


def register_with_timm() -> None:
    """Make the four sizes known to the installed timm, so that `timm.create_model("ravlt_small")` builds them.

    Raises:
        MissingExtra: timm is not installed.
    """
    register_model = require("timm.models", "vision").register_model
    for factory in (ravlt_tiny, ravlt_small, ravlt_base, ravlt_large):
        register_model(_entrypoint(factory))


def _entrypoint(factory: Callable[..., Any]) -> Callable[..., Any]:
    """A factory that ignores what timm says about its own pretrained weights."""

    def build(pretrained: bool = False, **options: Any) -> Any:
        for name in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):
            options.pop(name, None)
        return factory(pretrained, **options)

    build.__name__ = build.__qualname__ = factory.__name__
    return build
