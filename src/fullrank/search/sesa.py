"""SESA: two kinds of texts compared in a space whose axes are named concepts (arXiv 1708.03246).

h = encoder(x), z = W h + b, v = a(z), s(a, b) = exp(g) cos(v_a, v_b) + c. Every score is a sum over concepts.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import load, save
from torch import Tensor, nn

from fullrank._files import write_bytes, write_json
from fullrank.search.concept_head import ConceptHead, HeadKind
from fullrank.search.text_encoders import Cell, Pooling, RecurrentEncoder, StatesEncoder, VectorEncoder, Vocabulary

Activation = Literal["linear", "sigmoid", "relu"]
SpaceSimilarity = Literal["cosine", "dot"]
_LARGEST_SCALE = 4.6
_EPS = 1e-12
_FORMAT = 1


class Comparison(NamedTuple):
    """Two batches of texts, compared.

    Attributes:
        scores: S, (A, B).
        cosine: of the explicit vectors, (A, B); of "dot" their product.
        logits_a, logits_b: z, before the activation.
        explicit_a, explicit_b: v, with known concepts.
    """

    scores: Float[Tensor, "A B"]
    cosine: Float[Tensor, "A B"]
    logits_a: Float[Tensor, "A K"]
    logits_b: Float[Tensor, "B K"]
    explicit_a: Float[Tensor, "A K"]
    explicit_b: Float[Tensor, "B K"]


class Contribution(NamedTuple):
    """What one concept adds to a score.

    Attributes:
        concept: its name; "other" for the free dimensions of a hybrid model.
        contribution: its part of the score.
        value_a, value_b: its values in the two explicit vectors.
    """

    concept: str
    contribution: float
    value_a: float
    value_b: float


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


class SESA(nn.Module):
    """Encodes texts as values of concepts, and compares them there.

    Args:
        vocab_size: of the token ids; 0 is padding. Needed without an encoder of your own.
        concepts: names of the axes, in their order.
        encoder: in place of the recurrent one: a module whose output has `last_hidden_state` (transformers), or an
            object with `encode(texts)` (sentence-transformers), which is not trained.
        encoder_width: size of that encoder's vectors.
        vocabulary: to give texts in place of token ids.
        embedding: size of token vectors.
        cell: "lstm", "gru", or "none" for the mean of token vectors.
        hidden: of the cell, for each direction.
        bidirectional: whether the cell reads both ways.
        pooling: "mean", "max" or "last" of the states.
        separate: an encoder for each side; the head is shared.
        head: "dense", or "factorized" z_k = u_k . (P h) + b_k with `rank` numbers a concept, for large or growing sets.
        rank: of the factorized head.
        activation: "linear", "sigmoid" (the concept applies), or "relu".
        similarity: "cosine", or "dot".
        latent: free dimensions beside the concepts.
        sparsity: only so many of the largest values of every text are kept.
        dropout: of the token vectors.
        max_length: tokens read of a text.

    Raises:
        ValueError: no concepts, one twice, an unknown option, or neither a vocabulary size nor an encoder.
        TypeError: a concept that is not text.
    """

    def __init__(
        self,
        vocab_size: int | None = None,
        concepts: Sequence[str] = (),
        *,
        encoder: Any = None,
        encoder_width: int | None = None,
        vocabulary: Vocabulary | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        size = vocab_size if vocabulary is None else len(vocabulary)
        self.config = _checked(SESAConfig(size, **options))
        self.vocabulary = vocabulary
        self.concept_names = tuple(_checked_names(concepts))
        first = self._encoder(encoder, encoder_width)
        self.encoder = first
        self.encoder_b = self._encoder(None, None) if self.config.separate else None
        self.head = ConceptHead(first.width, len(self.concept_names), self.config.head, self.config.rank)
        self.free = nn.Linear(first.width, self.config.latent) if self.config.latent else None
        self.log_scale = nn.Parameter(torch.tensor(2.5))
        self.bias = nn.Parameter(torch.tensor(0.0))
        self.known_weight = nn.Parameter(torch.tensor(1.0))
        self.register_buffer("concept_mean", torch.zeros(len(self.concept_names)))
        self.register_buffer("concept_deviation", torch.ones(len(self.concept_names)))
        self.truncated = 0

    @property
    def scale(self) -> Tensor:
        """exp(g), at most exp(4.6)."""
        return self.log_scale.clamp(max=_LARGEST_SCALE).exp()

    # --- encoding ------------------------------------------------------------------------------------------------

    def hidden(
        self, texts: Int[Tensor, "batch tokens"] | Sequence[str], mask: Tensor | None = None, side: str = "a"
    ) -> tuple[Float[Tensor, "batch H"], Bool[Tensor, " batch"]]:
        """h, and which texts have no token that is known."""
        encoder = self.encoder_b if side == "b" and self.encoder_b is not None else self.encoder
        if isinstance(encoder, VectorEncoder):
            if isinstance(texts, Tensor):
                raise TypeError("this SESA has an encoder of texts: give texts, not token ids")
            return encoder(list(texts)), torch.tensor([not text.strip() for text in texts], device=self.bias.device)
        tokens = texts if isinstance(texts, Tensor) else self.tokens(texts)
        mask = tokens != 0 if mask is None else mask.bool()
        tokens, mask = self._cut(tokens, mask)
        return encoder(tokens, mask), ~mask.any(1)

    def logits(
        self, texts: Int[Tensor, "batch tokens"] | Sequence[str], mask: Tensor | None = None, side: str = "a"
    ) -> Float[Tensor, "batch K"]:
        """z."""
        return self.head(self.hidden(texts, mask, side)[0])

    def encode(
        self,
        texts: Int[Tensor, "batch tokens"] | Sequence[str],
        mask: Tensor | None = None,
        known: Float[Tensor, "batch K"] | None = None,
        side: str = "a",
        return_empty: bool = False,
    ) -> Any:
        """Explicit vectors v.

        Args:
            texts: token ids, right-padded with 0, or texts.
            mask: which tokens there are; default those that are not 0.
            known: concepts that are known of a text, 0 or 1: added to a linear or relu vector, at least reached by a
                sigmoid one.
            side: "a" or "b", with separate encoders.
            return_empty: also give which texts have no known token; their vector is 0.

        Raises:
            ValueError: `known` has another shape, or a value that is negative or not a number.
        """
        h, empty = self.hidden(texts, mask, side)
        v = self._explicit(self.head(h), empty, known)
        return (v, empty) if return_empty else v

    def tokens(self, texts: Sequence[str]) -> Int[Tensor, "batch tokens"]:
        """Token ids of texts.

        Raises:
            ValueError: there is no vocabulary.
        """
        if self.vocabulary is None:
            raise ValueError("this SESA has no vocabulary: give token ids, or SESA(vocabulary=...)")
        return self.vocabulary.tokens(texts).to(self.bias.device)

    def concept_values(self, text: str) -> dict[str, float]:
        """Every concept's value for a text, largest first; in deviations from the mean where training standardised."""
        values = self.encode([text])[0].tolist()
        named = dict(zip(self.concept_names, values, strict=True))
        return dict(sorted(named.items(), key=lambda entry: -entry[1]))

    # --- comparing -----------------------------------------------------------------------------------------------

    def forward(self, a: Any, b: Any, known_a: Tensor | None = None, known_b: Tensor | None = None) -> Tensor:
        """S, (A, B): scores of every text of one side with every text of the other."""
        return self.compare(a, b, known_a, known_b).scores

    def compare(self, a: Any, b: Any, known_a: Tensor | None = None, known_b: Tensor | None = None) -> Comparison:
        """Scores, and what they are made of; see `encode`."""
        (h_a, empty_a), (h_b, empty_b) = self.hidden(a, side="a"), self.hidden(b, side="b")
        z_a, z_b = self.head(h_a), self.head(h_b)
        v_a, v_b = self._explicit(z_a, empty_a, known_a), self._explicit(z_b, empty_b, known_b)
        near = self.similarity(self._space(v_a, h_a, empty_a), self._space(v_b, h_b, empty_b))
        return Comparison(self._score(near), near, z_a, z_b, v_a, v_b)

    def similarity(self, a: Float[Tensor, "A K"], b: Float[Tensor, "B K"]) -> Float[Tensor, "A B"]:
        """Cosines, or products, of vectors; 0 for a zero vector."""
        if self.config.similarity == "dot":
            return a @ b.mT
        return _unit(a) @ _unit(b).mT

    def contributions(self, a: Float[Tensor, "A K"], b: Float[Tensor, "A K"]) -> Float[Tensor, "A K"]:
        """What every concept adds to the scores of pairs; they sum to s - c."""
        if self.config.similarity == "dot":
            return a * b
        return self.scale * _unit(a) * _unit(b)

    @torch.no_grad()
    def explain(
        self,
        a: Any,
        b: Any,
        top: int = 10,
        known_a: Tensor | None = None,
        known_b: Tensor | None = None,
    ) -> list[list[Contribution]]:
        """The concepts that move the score of every pair (a_i, b_i) most, largest first.

        A concept that both lack adds to a linear model's score as one that both have: its two values are negative.

        Args:
            a: see `encode`.
            b: see `encode`.
            top: how many; all if there are fewer.
            known_a: see `encode`.
            known_b: see `encode`.
        """
        (h_a, empty_a), (h_b, empty_b) = self.hidden(a, side="a"), self.hidden(b, side="b")
        v_a = self._space(self._explicit(self.head(h_a), empty_a, known_a), h_a, empty_a)
        v_b = self._space(self._explicit(self.head(h_b), empty_b, known_b), h_b, empty_b)
        parts = self.contributions(v_a, v_b)
        return [self._named(part, va, vb, top) for part, va, vb in zip(parts, v_a, v_b, strict=True)]

    def add_concepts(self, names: Sequence[str]) -> SESA:
        """New concepts behind the others; the factorized head alone can grow.

        Raises:
            ValueError: a dense head, or a name that is there.
        """
        self.concept_names = tuple(_checked_names([*self.concept_names, *names]))
        self.head.grow(len(names))
        for buffer, value in (("concept_mean", 0.0), ("concept_deviation", 1.0)):
            old: Tensor = getattr(self, buffer)
            setattr(self, buffer, torch.cat([old, old.new_full((len(names),), value)]))
        return self

    # --- files ---------------------------------------------------------------------------------------------------

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write weights, options, concepts and vocabulary; an encoder of your own stays yours."""
        folder = Path(folder)
        own = isinstance(self.encoder, RecurrentEncoder)
        state = {name: tensor.contiguous() for name, tensor in self.state_dict().items()}
        if not own:
            state = {name: tensor for name, tensor in state.items() if not name.startswith("encoder.")}
        write_bytes(folder / "model.safetensors", save(state))
        about = {"format": _FORMAT, "options": asdict(self.config), "concepts": list(self.concept_names)}
        about |= {"own_encoder": own, "encoder_width": self.encoder.width}
        about |= {"vocabulary": self.vocabulary.words if self.vocabulary else None}
        write_json(folder / "sesa.json", about)
        return folder

    @classmethod
    def from_pretrained(cls, folder: str | Path, encoder: Any = None, concepts: Sequence[str] | None = None) -> SESA:
        """Read what `save_pretrained` wrote.

        Args:
            folder: of the model.
            encoder: the encoder that it was trained with, if that was one of your own.
            concepts: the order that you expect; another one is refused.

        Raises:
            FileNotFoundError: the folder holds no SESA.
            ValueError: it is damaged, its concepts are in another order, or its encoder is missing.
        """
        folder = Path(folder)
        path = folder / "sesa.json"
        if not path.exists():
            raise FileNotFoundError(f"{folder} holds no SESA (sesa.json is missing); save_pretrained() writes one")
        try:
            about = json.loads(path.read_text(encoding="utf-8"))
            names, options, own = about["concepts"], dict(about["options"]), about["own_encoder"]
            words = about["vocabulary"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is damaged: {error}") from error
        _check_order(names, concepts)
        if not own and encoder is None:
            raise ValueError(f"{folder} was trained over an encoder of its own: from_pretrained(folder, encoder=...)")
        size = options.pop("vocab_size")
        vocabulary = None if words is None else Vocabulary(words)
        model = cls(
            size,
            names,
            encoder=encoder,
            encoder_width=about["encoder_width"],
            vocabulary=vocabulary,
            **options,
        )
        state = load((folder / "model.safetensors").read_bytes())
        missing, unexpected = model.load_state_dict(state, strict=False)
        wrong = [name for name in missing if own or not name.startswith("encoder.")] + list(unexpected)
        if wrong:
            raise ValueError(f"{folder} does not fit its own description: {', '.join(wrong[:5])}")
        return model.eval()

    # --- within --------------------------------------------------------------------------------------------------

    def _encoder(self, encoder: Any, width: int | None) -> Any:
        config = self.config
        if encoder is None:
            if not config.vocab_size:
                raise ValueError("vocab_size=None: give the number of token ids, a vocabulary, or an encoder")
            return RecurrentEncoder(
                config.vocab_size, config.embedding, config.cell, config.hidden, config.bidirectional,
                config.pooling, config.dropout,
            )  # fmt: skip
        if isinstance(encoder, nn.Module) and not hasattr(encoder, "encode"):
            return StatesEncoder(encoder, width, config.pooling)
        return VectorEncoder(encoder, width)

    def _explicit(self, z: Tensor, empty: Tensor, known: Tensor | None) -> Tensor:
        v = {"linear": lambda z: z, "sigmoid": torch.sigmoid, "relu": torch.relu}[self.config.activation](z)
        v = v.masked_fill(empty.unsqueeze(-1), 0)
        if known is not None:
            known = self._checked_known(known, z)
            v = torch.maximum(v, known) if self.config.activation == "sigmoid" else v + self.known_weight * known
        if self.config.sparsity is None or self.config.sparsity >= v.shape[1]:
            return v
        kept = v.abs().topk(self.config.sparsity, dim=-1).indices
        return v * torch.zeros_like(v).scatter(-1, kept, 1.0)

    def _space(self, v: Tensor, h: Tensor, empty: Tensor) -> Tensor:
        """The vector that is compared: explicit, and behind it the free dimensions."""
        if self.free is None:
            return v
        return torch.cat([v, self.free(h).masked_fill(empty.unsqueeze(-1), 0)], dim=-1)

    def _score(self, near: Tensor) -> Tensor:
        return near + self.bias if self.config.similarity == "dot" else self.scale * near + self.bias

    def _named(self, part: Tensor, v_a: Tensor, v_b: Tensor, top: int) -> list[Contribution]:
        K = len(self.concept_names)
        rows = [
            Contribution(name, float(part[k]), float(v_a[k]), float(v_b[k]))
            for k, name in enumerate(self.concept_names)
        ]
        if self.free is not None:
            rows.append(Contribution("other", float(part[K:].sum()), float("nan"), float("nan")))
        return sorted(rows, key=lambda row: -abs(row.contribution))[:top]

    def _checked_known(self, known: Tensor, z: Tensor) -> Tensor:
        if known.shape != z.shape:
            raise ValueError(f"known has shape {tuple(known.shape)}; {tuple(z.shape)}, texts by concepts, is needed")
        wrong = (~(known >= 0)).nonzero()
        if len(wrong):
            row, column = wrong[0].tolist()
            raise ValueError(
                f"known[{row}, {column}] ({self.concept_names[column]!r}) is {float(known[row, column])}; 0 or 1 is "
                "needed"
            )
        return known.to(z.dtype)

    def _cut(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        limit = self.config.max_length
        if tokens.shape[1] <= limit:
            return tokens, mask
        longer = int(mask[:, limit:].any(1).sum())
        if longer and not self.truncated:
            warnings.warn(f"{longer} texts have more than max_length={limit} tokens, and are cut there", stacklevel=4)
        self.truncated += longer
        return tokens[:, :limit], mask[:, :limit]


def _unit(v: Tensor) -> Tensor:
    """Vectors of unit length, in float32 at least; 0 stays 0, with a finite gradient."""
    v = v if v.dtype == torch.float64 else v.float()
    return v / v.square().sum(-1, keepdim=True).clamp(min=_EPS**2).sqrt()


def _checked(config: SESAConfig) -> SESAConfig:
    for name, known in (
        ("cell", get_args(Cell)),
        ("pooling", get_args(Pooling)),
        ("head", get_args(HeadKind)),
        ("activation", get_args(Activation)),
        ("similarity", get_args(SpaceSimilarity)),
    ):
        if getattr(config, name) not in known:
            raise ValueError(f"{name}={getattr(config, name)!r} is not known; accepted: {', '.join(known)}")
    return config


def _checked_names(concepts: Iterable[Any]) -> list[str]:
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


def _check_order(stored: list[str], expected: Sequence[str] | None) -> None:
    if expected is None or list(expected) == stored:
        return
    if len(expected) != len(stored):
        raise ValueError(f"the checkpoint has {len(stored)} concepts, {len(expected)} are expected")
    place = next(place for place, pair in enumerate(zip(stored, expected, strict=True)) if pair[0] != pair[1])
    raise ValueError(
        f"the checkpoint's concept {place} is {stored[place]!r}, {expected[place]!r} is expected: their order is "
        "part of the model"
    )
