"""What a model is asked to do: examples from a file or a bundled set, as tokens, and how well a model does on them.

Reading examples is light; what needs torch or transformers loads with its first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fullrank.tasks.examples import Examples, Task, load_examples

if TYPE_CHECKING:
    from fullrank.tasks.evaluation import evaluate, lower_is_better
    from fullrank.tasks.models import architecture, load_as_is, require_empty
    from fullrank.tasks.quality import Quality, quality_of, require_fit
    from fullrank.tasks.tokens import TokenizedExamples, collator

__all__ = [
    "Examples",
    "Quality",
    "Task",
    "TokenizedExamples",
    "architecture",
    "collator",
    "evaluate",
    "load_as_is",
    "load_examples",
    "lower_is_better",
    "quality_of",
    "require_empty",
    "require_fit",
]

_LATER = {
    "TokenizedExamples": "tokens",
    "collator": "tokens",
    "evaluate": "evaluation",
    "lower_is_better": "evaluation",
    "architecture": "models",
    "load_as_is": "models",
    "require_empty": "models",
    "Quality": "quality",
    "quality_of": "quality",
    "require_fit": "quality",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"fullrank.tasks.{_LATER[name]}"), name)
