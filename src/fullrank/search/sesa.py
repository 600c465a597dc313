"""SESA: two kinds of texts compared in a space whose axes are named concepts (arXiv 1708.03246).

h = encoder(x), z = W h + b, v = a(z), s(a, b) = exp(g) cos(v_a, v_b) + c. Every score is a sum over concepts.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict
from math import nan
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from fullrank.search.concept_head import ConceptHead
from fullrank.search.run import at_least_one
from fullrank.search.sesa_checkpoint import check_fits, check_order, read_checkpoint, write_checkpoint
from fullrank.search.sesa_config import SESAConfig, checked, checked_names, checked_weights
from fullrank.search.text_encoders import RecurrentEncoder, StatesEncoder, VectorEncoder, Vocabulary, checked_texts

_LARGEST_SCALE = 4.6
_EPS = 1e-12
_ENCODERS = ("encoder.", "encoder_b.")  # in a state
_WEIGHT_ONE = 0.5413248546129181  # softplus of it is 1


class Comparison(NamedTuple):
    """Two batches of texts, compared.

    Attributes:
        scores: S, (A, B).
        cosine: of the explicit vectors, (A, B); of "dot" their product.
        logits_a, logits_b: z, before the activation.
        explicit_a, explicit_b: v, with known concepts.
        hidden_a, hidden_b: h, of the encoder.
    """

    scores: Float[Tensor, "A B"]
    cosine: Float[Tensor, "A B"]
    logits_a: Float[Tensor, "A K"]
    logits_b: Float[Tensor, "B K"]
    explicit_a: Float[Tensor, "A K"]
    explicit_b: Float[Tensor, "B K"]
    hidden_a: Float[Tensor, "A H"]
    hidden_b: Float[Tensor, "B H"]


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

    @property
    def shared_absence(self) -> bool:
        """Whether it raises the score because both texts lack the concept."""
        return self.value_a < 0 and self.value_b < 0


class _Side(NamedTuple):
    """What one batch of texts becomes on the way to its scores: h, z, v, and the vector that is compared."""

    hidden: Tensor
    logits: Tensor
    explicit: Tensor
    compared: Tensor


class SESA(nn.Module):
    """Encodes texts as values of concepts, and compares them there.

    Args:
        vocab_size: of the token ids; 0 is padding. Needed without an encoder of your own.
        concepts: names of the axes, in their order.
        encoder: in place of the recurrent one: a module whose output has `last_hidden_state` (transformers), or an
            object with `encode(texts)` (sentence-transformers), which is not trained. With `separate`, a pair of them.
        encoder_width: size of that encoder's vectors.
        vocabulary: to give texts in place of token ids.
        tokenizer: of transformers, to give texts to a transformers encoder.
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
        weights: w of the concepts in the similarity, such as inverse document frequencies, for frequent concepts would
            dominate it; or "learned". Default 1 each.
        latent: free dimensions beside the concepts.
        sparsity: only so many of the largest values of every text are kept.
        dropout: of the token vectors.
        max_length: tokens read of a text.

    Raises:
        ValueError: no concepts, one twice, an unknown option, weights of another number, neither a vocabulary size nor
            an encoder, or one encoder where each side needs its own.
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
        tokenizer: Any = None,
        weights: Sequence[float] | Tensor | Literal["learned"] | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        size = vocab_size if vocabulary is None else len(vocabulary)
        self.config = checked(SESAConfig(size, **options))
        self.vocabulary, self.tokenizer = vocabulary, tokenizer
        self.concept_names = tuple(checked_names(concepts))
        first, second = self._encoders(encoder, encoder_width)
        self.encoder, self.encoder_b = first, second
        self.head = ConceptHead(first.width, len(self.concept_names), self.config.head, self.config.rank)
        self.free = nn.Linear(first.width, self.config.latent) if self.config.latent else None
        self.log_scale = nn.Parameter(torch.tensor(2.5))
        self.bias = nn.Parameter(torch.tensor(0.0))
        self.known_weight = nn.Parameter(torch.tensor(1.0))
        K = len(self.concept_names)
        self.register_buffer("concept_mean", torch.zeros(K))
        self.register_buffer("concept_deviation", torch.ones(K))
        learned = isinstance(weights, str)
        self.register_buffer("given_weights", None if weights is None or learned else checked_weights(weights, K))
        self.learned_weights = nn.Parameter(torch.full((K,), _WEIGHT_ONE)) if learned else None
        if learned and weights != "learned":
            raise ValueError(f'weights={weights!r} is not accepted; "learned", a number for each concept, or None')
        self.truncated = 0

    @property
    def scale(self) -> Tensor:
        """exp(g), at most exp(4.6)."""
        return self.log_scale.clamp(max=_LARGEST_SCALE).exp()

    @property
    def weights(self) -> Tensor | None:
        """w, positive, (K,); None if all are 1."""
        if self.learned_weights is not None:
            return nn.functional.softplus(self.learned_weights)
        given: Any = self.given_weights
        return given

    # --- encoding ------------------------------------------------------------------------------------------------

    def hidden(
        self, texts: Int[Tensor, "batch tokens"] | Sequence[str], mask: Tensor | None = None, side: str = "a"
    ) -> tuple[Float[Tensor, "batch H"], Bool[Tensor, " batch"]]:
        """h, and which texts have no token that is known. See `encode`."""
        encoder = self.encoder_b if side == "b" and self.encoder_b is not None else self.encoder
        if not isinstance(texts, Tensor):
            texts = checked_texts(texts)
        if isinstance(encoder, VectorEncoder):
            if isinstance(texts, Tensor):
                raise TypeError("this SESA has an encoder of texts: give texts, not token ids")
            return encoder(texts), self._blank(texts)
        if isinstance(texts, Tensor):
            tokens, present, blank = self._here(texts), texts != 0 if mask is None else mask.bool(), None
            if present.shape != texts.shape:
                raise ValueError(f"mask has shape {tuple(present.shape)}; that of the token ids, {tuple(texts.shape)}")
        else:
            (tokens, present), blank = self._tokenized(texts), self._blank(texts)
        tokens, present = self._cut(tokens, present)
        empty = ~present.any(1)
        return encoder(tokens, present), empty if blank is None else empty | blank

    def logits(
        self, texts: Int[Tensor, "batch tokens"] | Sequence[str], mask: Tensor | None = None, side: str = "a"
    ) -> Float[Tensor, "batch K"]:
        """z."""
        return self.head(self.hidden(texts, mask, side)[0])

    def encode(
        self,
        texts: Int[Tensor, "batch tokens"] | Sequence[str],
        mask: Tensor | None = None,
        known: Any = None,
        side: str = "a",
        return_empty: bool = False,
    ) -> Any:
        """Explicit vectors v.

        Args:
            texts: token ids, padded with 0 on either side, or texts.
            mask: which tokens there are; default those that are not 0.
            known: concepts that are known of a text, (texts, concepts) of 0 or 1: added to a linear or relu vector, at
                least reached by a sigmoid one.
            side: "a" or "b", with separate encoders.
            return_empty: also give which texts have no known token; their vector is 0.

        Raises:
            ValueError: `known` has another shape, or a value that is negative or not a number; token ids that are no
                matrix of whole numbers or beyond the vocabulary; or a mask of another shape.
            TypeError: one text in place of several, or something that is not text.
        """
        h, empty = self.hidden(texts, mask, side)
        v = self._explicit(self.head(h), empty, known)
        return (v, empty) if return_empty else v

    def tokens(self, texts: Sequence[str]) -> Int[Tensor, "batch tokens"]:
        """Token ids of texts.

        Raises:
            ValueError: there is no vocabulary.
        """
        return self._tokenized(texts)[0]

    def concept_values(self, text: str) -> dict[str, float]:
        """Every concept's value for a text, largest first; in deviations from the mean where training standardised."""
        values = self.encode([text])[0].tolist()
        named = dict(zip(self.concept_names, values, strict=True))
        return dict(sorted(named.items(), key=lambda entry: -entry[1]))

    # --- comparing -----------------------------------------------------------------------------------------------

    def forward(self, a: Any, b: Any, known_a: Any = None, known_b: Any = None) -> Tensor:
        """S, (A, B): scores of every text of one side with every text of the other."""
        return self.compare(a, b, known_a, known_b).scores

    def compare(self, a: Any, b: Any, known_a: Any = None, known_b: Any = None) -> Comparison:
        """Scores, and what they are made of; see `encode`."""
        first, second = self._side(a, known_a, "a"), self._side(b, known_b, "b")
        near = self.similarity(first.compared, second.compared)
        return Comparison(
            self.score(near), near, first.logits, second.logits, first.explicit, second.explicit, first.hidden,
            second.hidden,
        )  # fmt: skip

    def compared(self, texts: Any, known: Any = None, side: str = "a") -> Float[Tensor, "batch D"]:
        """The vectors that `similarity` compares: v times the root of w, and behind it the free dimensions."""
        return self._side(texts, known, side).compared

    def similarity(self, a: Float[Tensor, "A D"], b: Float[Tensor, "B D"]) -> Float[Tensor, "A B"]:
        """Cosines, or products, of vectors; 0 for a zero vector.

        Raises:
            ValueError: the sides differ in device or in the type of their numbers.
        """
        _check_alike(a, b)
        if self.config.similarity == "dot":
            return a @ b.mT
        return unit(a) @ unit(b).mT

    def score(self, near: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """s of similarities: exp(g) cos + c, or the product + c."""
        return near + self.bias if self.config.similarity == "dot" else self.scale * near + self.bias

    def contributions(self, a: Float[Tensor, "A D"], b: Float[Tensor, "A D"]) -> Float[Tensor, "A D"]:
        """What every dimension adds to the scores of pairs of `compared` vectors; it all sums to s - c.

        Raises:
            ValueError: see `similarity`.
        """
        _check_alike(a, b)
        if self.config.similarity == "dot":
            return a * b
        return self.scale * unit(a) * unit(b)

    @torch.no_grad()
    def explain(
        self,
        a: Any,
        b: Any,
        top: int = 10,
        known_a: Any = None,
        known_b: Any = None,
    ) -> list[list[Contribution]]:
        """The concepts that move the score of every pair (a_i, b_i) most, largest first.

        A concept that both lack adds to a linear model's score as one that both have: its two values are negative.

        Args:
            a: see `encode`.
            b: see `encode`.
            top: how many; all if there are fewer.
            known_a: see `encode`.
            known_b: see `encode`.

        Raises:
            ValueError: another number of texts on one side, or `top` below 1.
        """
        at_least_one(top, "top")
        first, second = self._side(a, known_a, "a"), self._side(b, known_b, "b")
        if len(first.explicit) != len(second.explicit):
            raise ValueError(f"{len(first.explicit)} and {len(second.explicit)} texts: each pair needs one of each")
        parts = self._grouped(self.contributions(first.compared, second.compared))
        return self._named(parts, self._grouped(first.explicit), self._grouped(second.explicit), top)

    def add_concepts(self, names: Sequence[str]) -> SESA:
        """New concepts behind the others; the factorized head alone can grow.

        Raises:
            ValueError: a dense head, or a name that is there.
        """
        every = tuple(checked_names([*self.concept_names, *names]))
        self.head.grow(len(names))
        self.concept_names = every
        for buffer, value in (("concept_mean", 0.0), ("concept_deviation", 1.0), ("given_weights", 1.0)):
            old: Tensor | None = getattr(self, buffer)
            if old is not None:
                setattr(self, buffer, torch.cat([old, old.new_full((len(names),), value)]))
        if self.learned_weights is not None:
            old = self.learned_weights.detach()
            self.learned_weights = nn.Parameter(torch.cat([old, old.new_full((len(names),), _WEIGHT_ONE)]))
        return self

    # --- files ---------------------------------------------------------------------------------------------------

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write weights, options, concepts and vocabulary; an encoder or tokenizer of your own stays yours.

        Raises:
            OSError: the folder cannot be written.
        """
        own = isinstance(self.encoder, RecurrentEncoder)
        state = {name: tensor.contiguous() for name, tensor in self.state_dict().items()}
        if not own:
            state = {name: tensor for name, tensor in state.items() if not name.startswith(_ENCODERS)}
        about = {"options": asdict(self.config), "concepts": list(self.concept_names)}
        about |= {"own_encoder": own, "encoder_width": self.encoder.width}
        about |= {"vocabulary": self.vocabulary.words if self.vocabulary else None}
        return write_checkpoint(Path(folder), about, state)

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, encoder: Any = None, concepts: Sequence[str] | None = None, tokenizer: Any = None
    ) -> SESA:
        """Read what `save_pretrained` wrote, in the type of its numbers.

        Args:
            folder: of the model.
            encoder: the encoder that it was trained with, if that was one of your own, or the two of them.
            concepts: the order that you expect; another one is refused.
            tokenizer: of that encoder.

        Raises:
            FileNotFoundError: the folder holds no SESA.
            ValueError: it is damaged, its concepts are in another order, or its encoder is missing.
        """
        about, state = read_checkpoint(Path(folder))
        check_order(about["concepts"], concepts)
        own = about["own_encoder"]
        if not own and encoder is None:
            raise ValueError(f"{folder} was trained over an encoder of its own: from_pretrained(folder, encoder=...)")
        options = dict(about["options"])
        weights: Any = state["given_weights"].tolist() if "given_weights" in state else None
        model = cls(
            options.pop("vocab_size"),
            about["concepts"],
            encoder=encoder,
            encoder_width=about["encoder_width"],
            vocabulary=None if about["vocabulary"] is None else Vocabulary(about["vocabulary"]),
            tokenizer=tokenizer,
            weights="learned" if "learned_weights" in state else weights,
            **options,
        )
        needed = {n: t for n, t in model.state_dict().items() if own or not n.startswith(_ENCODERS)}
        check_fits(Path(folder), state, needed)
        model.load_state_dict(state, strict=False)
        return model.to(state["bias"].dtype).eval()

    # --- within --------------------------------------------------------------------------------------------------

    def _encoders(self, given: Any, width: int | None) -> tuple[Any, Any]:
        """Of side a and of side b, which has none of its own unless they are separate."""
        pair = isinstance(given, tuple | list)
        if not self.config.separate:
            if pair:
                raise ValueError(f"encoder has {len(given)} parts; give one for both sides, or separate=True")
            return self._encoder(given, width), None
        if given is None:
            return self._encoder(None, None), self._encoder(None, None)
        if not pair or len(given) != 2 or None in given:
            raise ValueError(
                "separate=True needs encoders of your own for both sides: encoder=(a, b), where b may start as "
                "copy.deepcopy(a); or separate=False"
            )
        first, second = (self._encoder(encoder, width) for encoder in given)
        if first.width != second.width:
            raise ValueError(f"the encoders give vectors of {first.width} and {second.width}; the head needs one size")
        return first, second

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

    def _explicit(self, z: Tensor, empty: Tensor, known: Any) -> Tensor:
        v = {"linear": lambda z: z, "sigmoid": torch.sigmoid, "relu": torch.relu}[self.config.activation](z)
        v = v.masked_fill(empty.unsqueeze(-1), 0)
        if known is not None:
            known = self._checked_known(known, z)
            v = torch.maximum(v, known) if self.config.activation == "sigmoid" else v + self.known_weight * known
        if self.config.sparsity is None or self.config.sparsity >= v.shape[1]:
            return v
        kept = v.abs().topk(self.config.sparsity, dim=-1).indices
        return v * torch.zeros_like(v).scatter(-1, kept, 1.0)

    def _side(self, texts: Any, known: Any, side: str) -> _Side:
        h, empty = self.hidden(texts, side=side)
        z = self.head(h)
        v = self._explicit(z, empty, known)
        weighted = v if self.weights is None else v * self.weights.sqrt()
        if self.free is None:
            return _Side(h, z, v, weighted)
        return _Side(h, z, v, torch.cat([weighted, self.free(h).masked_fill(empty.unsqueeze(-1), 0)], dim=-1))

    def _grouped(self, vectors: Tensor) -> Tensor:
        """Concepts as they are and, where there are free dimensions, their sum; values have none of these: NaN."""
        K = len(self.concept_names)
        if self.free is None:
            return vectors
        free = vectors[:, K:].sum(1, keepdim=True) if vectors.shape[1] > K else vectors.new_full((len(vectors), 1), nan)
        return torch.cat([vectors[:, :K], free], dim=1)

    def _named(self, parts: Tensor, v_a: Tensor, v_b: Tensor, top: int) -> list[list[Contribution]]:
        names = [*self.concept_names, "other"]
        order = parts.abs().argsort(dim=1, descending=True, stable=True)[:, :top]
        columns = [values.gather(1, order).tolist() for values in (parts, v_a, v_b)]
        return [
            [Contribution(names[k], *numbers) for k, *numbers in zip(row, *values, strict=True)]
            for row, *values in zip(order.tolist(), *columns, strict=True)
        ]

    def _here(self, tokens: Tensor) -> Tensor:
        if tokens.ndim != 2 or tokens.dtype not in (torch.int32, torch.int64):
            raise ValueError(
                f"token ids are {tokens.dtype} of shape {tuple(tokens.shape)}; (texts, tokens) of whole ones are needed"
            )
        size = self.config.vocab_size
        if size is not None and tokens.numel() and not 0 <= int(tokens.min()) <= int(tokens.max()) < size:
            raise ValueError(
                f"token ids lie between {int(tokens.min())} and {int(tokens.max())}; 0 to {size - 1} are known"
            )
        if tokens.device != self.bias.device:
            raise ValueError(f"token ids are on {tokens.device}, the model is on {self.bias.device}: move one of them")
        return tokens

    def _blank(self, texts: Sequence[str]) -> Tensor:
        return torch.tensor([not text.strip() for text in texts], dtype=torch.bool, device=self.bias.device)

    def _tokenized(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token ids, and which are not padding."""
        if self.vocabulary is not None:
            tokens = self.vocabulary.tokens(texts).to(self.bias.device)
            return tokens, tokens != 0
        if self.tokenizer is None:
            raise ValueError("this SESA has no vocabulary: give token ids, SESA(vocabulary=...) or SESA(tokenizer=...)")
        made = self.tokenizer(list(texts), padding=True, padding_side="right", return_tensors="pt", verbose=False)
        made = made.to(self.bias.device)
        return made["input_ids"], made["attention_mask"].bool()

    def _checked_known(self, known: Any, z: Tensor) -> Tensor:
        known = torch.as_tensor(known, device=z.device)
        if known.shape != z.shape:
            raise ValueError(f"known has shape {tuple(known.shape)}; {tuple(z.shape)}, texts by concepts, is needed")
        wrong = (~((known >= 0) & known.isfinite())).nonzero()
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


def unit(v: Float[Tensor, "batch D"]) -> Float[Tensor, "batch D"]:
    """Vectors of unit length, in float32 at least; 0 stays 0, with a finite gradient."""
    v = v if v.dtype == torch.float64 else v.float()
    return v / v.square().sum(-1, keepdim=True).clamp(min=_EPS**2).sqrt()


def _check_alike(a: Tensor, b: Tensor) -> None:
    if a.device != b.device or a.dtype != b.dtype:
        raise ValueError(
            f"side a is {a.dtype} on {a.device}, side b {b.dtype} on {b.device}: bring both to one type and device"
        )
