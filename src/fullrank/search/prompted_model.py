"""Any form of language model that a re-ranker can be given, as one that completes prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fullrank.search.language_model import LanguageModel, before, language_model
from fullrank.search.local_model import TransformersModel


class BatchFunctionModel:
    """A language model that is any function of a list of prompts.

    It gets the prompts alone: lengths, temperature and seed are its own affair; the stops are kept here.

    Args:
        generate: from prompts to their completions.
    """

    def __init__(self, generate: Callable[[list[str]], Sequence[str]]) -> None:
        self.generate = generate

    def complete(
        self,
        prompts: Sequence[str],
        *,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        stop: Sequence[str] = (),
        seed: int = 0,
    ) -> list[str]:
        """See `LanguageModel.complete`.

        Raises:
            ValueError: another number of completions than of prompts.
            TypeError: a completion that is no text.
        """
        said = list(self.generate(list(prompts)))
        if len(said) != len(prompts):
            raise ValueError(f"generate gave {len(said)} completions for {len(prompts)} prompts; one each is needed")
        wrong = next((text for text in said if not isinstance(text, str)), None)
        if wrong is not None:
            raise TypeError(f"generate gave {type(wrong).__name__} for a prompt; text is needed")
        return [before(text, stop) for text in said]


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
