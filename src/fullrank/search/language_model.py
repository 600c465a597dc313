"""What a language model is to a generator: prompts in, completions out; and any function as one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class LanguageModel(Protocol):
    """Continues prompts."""

    def complete(
        self,
        prompts: Sequence[str],
        *,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        stop: Sequence[str] = (),
        seed: int = 0,
    ) -> list[str]:
        """One completion per prompt, in order, without the prompt.

        Args:
            prompts: plain text; what looks like a special token in it is text.
            max_new_tokens: how long a completion may be.
            temperature: 0 for the likeliest continuation, above to sample.
            stop: a completion ends before the first of these.
            seed: of the samples.
        """
        ...


@runtime_checkable
class Measured(Protocol):
    """A language model that knows how long its prompts are, and may be."""

    def count_tokens(self, text: str) -> int:
        """Tokens of a prompt."""
        ...

    def input_limit(self, max_new_tokens: int) -> int | None:
        """Tokens that a prompt may have if so many shall follow; None for any number."""
        ...


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


class FunctionModel(BatchFunctionModel):
    """A language model that is any function of one prompt.

    It gets the prompt alone: lengths, temperature and seed are its own affair; the stops are kept here.

    Args:
        function: from a prompt to its completion.
    """

    def __init__(self, function: Callable[[str], str]) -> None:
        super().__init__(self._texts)
        self.function = function

    def _texts(self, prompts: list[str]) -> list[str]:
        return [self._text(prompt) for prompt in prompts]

    def _text(self, prompt: str) -> str:
        text = self.function(prompt)
        if not isinstance(text, str):
            raise TypeError(
                f"the model gave {type(text).__name__} for a prompt; a function from text to text is needed"
            )
        return text


def language_model(
    model: LanguageModel | Callable[..., Any], of_function: Callable[[Any], LanguageModel] = FunctionModel
) -> LanguageModel:
    """An object with `complete` as it is; a function as a language model.

    Args:
        model: either.
        of_function: `BatchFunctionModel` where functions take lists of prompts.

    Raises:
        TypeError: it is neither, or a model of transformers without its tokenizer.
    """
    if isinstance(model, LanguageModel):
        return model
    if hasattr(model, "generate"):
        raise TypeError(f"a {type(model).__name__} reads no text: TransformersModel(model, tokenizer) does")
    if callable(model):
        return of_function(model)
    raise TypeError(
        f"model={model!r} cannot be asked; accepted: an object with complete(prompts), such as TransformersModel or "
        f"ServerModel, or a function of prompts"
    )


def estimated_tokens(text: str) -> int:
    """Tokens of a text where no tokenizer is at hand: one for three bytes, more than common tokenizers make."""
    return -(-len(text.encode(errors="replace")) // 3)


def counter(model: LanguageModel) -> Callable[[str], int]:
    """How the model's tokens are counted; estimated if it cannot tell."""
    return model.count_tokens if isinstance(model, Measured) else estimated_tokens


def before(text: str, stop: Sequence[str]) -> str:
    """The text before the first of the stops."""
    places = [place for end in stop if (place := text.find(end)) >= 0]
    return text[: min(places, default=len(text))]
