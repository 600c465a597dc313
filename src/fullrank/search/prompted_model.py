"""Any form of language model that a re-ranker can be given, as one that completes prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fullrank.search.language_model import BatchFunctionModel, LanguageModel, language_model
from fullrank.search.local_model import TransformersModel


def prompted_model(
    model: Any = None,
    tokenizer: Any = None,
    *,
    generate: Callable[[list[str]], Sequence[str]] | None = None,
    max_length: int | None = None,
    **options: Any,
) -> LanguageModel:
    """A language model of whatever form.

    Args:
        model: a `LanguageModel`; a function from a prompt to its completion; or a model of transformers: an object with
            its tokenizer, a name or a folder.
        tokenizer: of a model object of transformers.
        generate: instead of a model, a function from a list of prompts to their completions.
        max_length: tokens of a prompt, for a model of transformers.
        **options: of `TransformersModel`.

    Raises:
        ValueError: both or neither of model and generate, or options for something that takes none.
        TypeError: nothing that can be asked.
    """
    if (model is None) == (generate is None):
        raise ValueError("give either a model or generate=, a function from a list of prompts to their completions")
    if isinstance(model, str | Path) or tokenizer is not None:
        return TransformersModel(model, tokenizer, max_input_tokens=max_length, **options)
    given = [*options, *(["max_length"] if max_length is not None else [])]
    if given:
        raise ValueError(f"{', '.join(given)}: options of a model of transformers, which this one is not")
    return language_model(model) if generate is None else BatchFunctionModel(generate)
