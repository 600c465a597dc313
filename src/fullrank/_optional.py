"""Optional libraries: load them when they are needed, and say what to install when they are missing."""

from importlib import import_module
from types import ModuleType


class MissingExtra(ImportError):
    """A feature needs an optional dependency group that is not installed."""


def require(module: str, extra: str) -> ModuleType:
    """Import an optional module.

    Args:
        module: dotted name, such as "bm25s".
        extra: the dependency group of fullrank that brings it, such as "search".

    Raises:
        MissingExtra: the module is not installed; the message is the command that installs it.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != module.partition(".")[0]:
            raise
        raise MissingExtra(f'{module} is not installed: pip install "fullrank[{extra}]"') from error
