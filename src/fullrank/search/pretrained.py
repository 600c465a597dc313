"""A model of transformers with its tokenizer: objects, or a name that is loaded at first use."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from fullrank._model_hub import know_compressed_layers, only_local_files, reason_not_loaded
from fullrank._optional import require
from fullrank.search.run import at_least_one

# Of a model's options, those that its tokenizer and configuration take too.
_SHARED = ("cache_dir", "local_files_only", "revision", "token", "trust_remote_code")


class Checkpoint:
    """A model and its tokenizer.

    Args:
        model: an object, used where it is; or a name or folder, loaded at first use.
        tokenizer: an object; needed with a model object.
        kind: transformers' class that loads a named model, such as "AutoModelForCausalLM"; or a function that imports
            and gives such a class.
        batch_size: texts at a time, of like length.
        device: where a named model goes.
        **options: for `from_pretrained`, such as `dtype` or `local_files_only`.

    Raises:
        ValueError: a model object without a tokenizer, options for a model object, or a batch size below 1.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        *,
        kind: str | Callable[[], Any],
        batch_size: int = 32,
        device: str | torch.device = "cpu",
        **options: Any,
    ) -> None:
        named = isinstance(model, str | Path)
        if not named and tokenizer is None:
            raise ValueError("tokenizer=None with a model object: give the tokenizer that belongs to it")
        if not named and options:
            raise ValueError(f"{', '.join(options)}: options for loading, but the model is an object that is loaded")
        at_least_one(batch_size, "batch_size")
        self._name = str(model) if named else None
        self._model, self._tokenizer, self._kind = None if named else model, tokenizer, kind
        self._device, self._options = device, options
        self.batch_size = batch_size

    @property
    def model(self) -> Any:
        """The model, loaded.

        Raises:
            OSError: it cannot be loaded.
            ValueError: a device that this machine has not.
        """
        if self._model is None:
            check_device(self._device)
            self._model = self._loaded(self._kind, self._options).to(self._device).eval()
        return self._model

    @property
    def tokenizer(self) -> Any:
        """The tokenizer, loaded.

        Raises:
            OSError: it cannot be loaded.
        """
        if self._tokenizer is None:
            self._tokenizer = self._loaded("AutoTokenizer", self._shared_options)
        return self._tokenizer

    @property
    def name(self) -> str:
        """Of the checkpoint, as far as it is known."""
        return self._name or str(getattr(self._model, "name_or_path", ""))

    def described(self, **options: Any) -> dict[str, Any] | None:
        """The arguments that load the same again, a folder by its absolute path; None for a model object.

        Args:
            **options: further arguments, of whatever is made of the checkpoint.
        """
        if self._name is None:
            return None
        folder = Path(self._name)
        return {"model": str(folder.resolve()) if folder.is_dir() else self._name, **options}

    def batches(self, rows: Sequence[Sequence[int]]) -> Iterator[list[int]]:
        """Numbers of rows, a batch at a time, of like length: padding costs what words cost."""
        order = sorted(range(len(rows)), key=lambda number: len(rows[number]))
        for start in range(0, len(order), self.batch_size):
            yield order[start : start + self.batch_size]

    @property
    def _shared_options(self) -> dict[str, Any]:
        return {name: value for name, value in self._options.items() if name in _SHARED}

    def _loaded(self, kind: str | Callable[[], Any], options: dict[str, Any]) -> Any:
        options = {"local_files_only": only_local_files(str(self._name)), **options}
        loader: Any = getattr(require("transformers", "search"), kind) if isinstance(kind, str) else kind()
        know_compressed_layers(str(self._name))
        try:
            return loader.from_pretrained(self._name, **options)
        except (OSError, ValueError) as error:
            reason = reason_not_loaded(str(self._name), error)
            raise OSError(f"model={self._name!r} cannot be loaded: {reason}") from error


class Pretrained(Checkpoint):
    """A model that scores token ids.

    Args:
        model: see `Checkpoint`.
        tokenizer: see `Checkpoint`.
        max_length: tokens read of one input; fewer if the model has fewer positions.
        **options: see `Checkpoint`.

    Raises:
        ValueError: see `Checkpoint`, or a length below 1.
    """

    def __init__(self, model: Any, tokenizer: Any = None, *, max_length: int = 512, **options: Any) -> None:
        super().__init__(model, tokenizer, **options)
        at_least_one(max_length, "max_length")
        self.max_length = max_length

    @property
    def model(self) -> Any:
        """The model, loaded, in evaluation mode.

        Raises:
            OSError: it cannot be loaded.
            ValueError: a model object is in training mode.
        """
        model = super().model
        check_evaluating(model, "scores")
        return model

    def limit(self, behind: int = 0) -> int:
        """Tokens that one input may have: `max_length`, or what the model's positions leave.

        Args:
            behind: positions that are needed behind the input.
        """
        most = self._positions
        return self.max_length if most is None else min(self.max_length, most - behind)

    @cached_property
    def _positions(self) -> int | None:
        return positions(self.model)

    def scored(
        self, rows: Sequence[Sequence[int]], score: Callable[[Tensor, Tensor, list[int]], Tensor]
    ) -> list[float]:
        """A score for every row of token ids, batch by batch.

        Args:
            rows: token ids.
            score: from ids and mask of a batch, and the numbers of its rows, to its scores.
        """
        scores = [0.0] * len(rows)
        for numbers in self.batches(rows):
            ids, mask = self.padded([rows[number] for number in numbers])
            with torch.inference_mode():
                values = score(ids, mask, numbers).float().tolist()
            for number, value in zip(numbers, values, strict=True):
                scores[number] = value
        return scores

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of texts, without special tokens."""
        return self.tokenizer(list(texts), add_special_tokens=False).input_ids if texts else []

    def padded(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Rows of ids as one tensor, padded on the right, and its mask, on the model's device."""
        ids, mask = padded(rows, self.tokenizer.pad_token_id or 0)
        device = self.model.device
        return ids.to(device), mask.to(device)


def positions(model: Any) -> int | None:
    """Tokens that a model of transformers has positions for; None for any number."""
    most = getattr(model.config, "max_position_embeddings", None)
    if most is None:
        return None
    tables = (part for name, part in model.named_modules() if name.endswith("position_embeddings"))
    filling = getattr(next(tables, None), "padding_idx", None)
    return most if filling is None else most - filling - 1  # RoBERTa counts from behind the filling's position


def check_device(device: str | torch.device) -> None:
    """Raise ValueError for a device that is none, or that this machine has not."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(
            f"device={str(device)!r} cannot be used ({reason}); accepted: cpu, and where this machine has them cuda, "
            f"cuda:1 or mps"
        ) from error


def check_evaluating(model: Any, what: str) -> None:
    """Raise ValueError for a model in training mode.

    Args:
        model: of torch.
        what: that it gives, such as "scores".
    """
    if model.training:
        raise ValueError(f"the model is in training mode, in which dropout would change its {what}: model.eval()")


def padded(
    rows: Sequence[Sequence[int]], filling: int, left: bool = False
) -> tuple[Int[Tensor, "batch tokens"], Int[Tensor, "batch tokens"]]:
    """Rows of ids as one tensor, and the mask of what is not filling."""
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), filling)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for number, row in enumerate(rows):
        place = slice(width - len(row), None) if left else slice(0, len(row))
        ids[number, place] = torch.tensor(row)
        mask[number, place] = 1
    return ids, mask
