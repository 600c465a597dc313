"""Rank in both senses: the rank of a matrix and the rank of an item."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fullrank.compress import load
    from fullrank.spectra import Report, Spectrum, analyze

__version__ = "0.1.0"

#: Public name -> the room that defines it. Rooms load when they are entered: `import fullrank` loads none.
_PUBLIC = {
    "Report": "fullrank.spectra",
    "Spectrum": "fullrank.spectra",
    "analyze": "fullrank.spectra",
    "load": "fullrank.compress",
}

__all__ = ["Report", "Spectrum", "__version__", "analyze", "load"]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'fullrank' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
