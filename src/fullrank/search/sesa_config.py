"""What a SESA is built from, and what is accepted of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from fullrank.search.concept_head import HeadKind
from fullrank.search.run import at_least_one
from fullrank.search.text_encoders import Cell, Pooling

Activation = Literal["linear", "sigmoid", "relu"]
SpaceSimilarity = Literal["cosine", "dot"]


@dataclass(frozen=True)
class SESAConfig:
    """What a SESA is built from; see `SESA`."""

    vocab_size: int | None = None
    embedding: int = 128
    cell: Cell = "lstm"
    hidden: int = 128
    bidirectional: bool = True
    pooling: Pooling = "mean"
    separate: bool = False
    head: HeadKind = "dense"
    rank: int = 64
    activation: Activation = "linear"
    similarity: SpaceSimilarity = "cosine"
    latent: int = 0
    sparsity: int | None = None
    dropout: float = 0.1
    max_length: int = 512


def checked(config: SESAConfig) -> SESAConfig:
    """The options, if all are known.

    Raises:
        ValueError: one is not.
    """
    for name, known in (
        ("cell", get_args(Cell)),
        ("pooling", get_args(Pooling)),
        ("head", get_args(HeadKind)),
        ("activation", get_args(Activation)),
        ("similarity", get_args(SpaceSimilarity)),
    ):
        if getattr(config, name) not in known:
            raise ValueError(f"{name}={getattr(config, name)!r} is not known; accepted: {', '.join(known)}")
    for name in ("embedding", "hidden", "rank", "sparsity", "max_length"):
        if getattr(config, name) is not None:
            at_least_one(getattr(config, name), name)
    if config.latent < 0:
        raise ValueError(f"latent={config.latent} is not accepted; 0 or more free dimensions")
    return config


def checked_names(concepts: Iterable[Any]) -> list[str]:
    """Names of concepts, at least one and no two alike.

    Raises:
        ValueError: there is none, or one stands twice.
        TypeError: one is not text, or all are one text.
    """
    if isinstance(concepts, str):
        raise TypeError(f"concepts={concepts!r} is one text; a list of names is needed")
    names = list(concepts)
    if not names:
        raise ValueError("concepts=[] names no axis; give at least one concept")
    for place, name in enumerate(names):
        if not isinstance(name, str):
            raise TypeError(f"concepts[{place}]={name!r} is {type(name).__name__}; a concept's name is text")
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"the concept {name!r} stands twice among {len(names)}; each axis has a name of its own")
        seen.add(name)
    return names


def checked_weights(weights: Sequence[float] | Tensor, count: int) -> Tensor:
    """Weights of so many concepts.

    Raises:
        ValueError: another number of them, or one that is negative or not finite.
    """
    given = torch.as_tensor(weights, dtype=torch.float32).detach().clone()
    if given.shape != (count,):
        raise ValueError(f"weights have shape {tuple(given.shape)}; ({count},), one for each concept, is needed")
    wrong = (~((given >= 0) & given.isfinite())).nonzero().flatten()
    if len(wrong):
        raise ValueError(f"weights[{int(wrong[0])}]={float(given[wrong[0]])} is not accepted; 0 or more")
    return given
