"""Large libraries, loaded by one thread at a time.

Two threads that import transformers at once, one through sentence-transformers and one through PEFT, wait for each
other in a circle; Python then gives one of them half a module, and the import fails.
"""

from __future__ import annotations

import threading
from functools import cache
from importlib import import_module

from fullrank import papers

_ONE_THREAD = threading.Lock()


def load_search() -> None:
    """Load the encoder of the search.

    Raises:
        MissingExtra: it is not installed.
    """
    with _ONE_THREAD:
        _search_once()


def load_adapt() -> None:
    """Load what trains adapters and reads their reports.

    Raises:
        MissingExtra: it is not installed.
    """
    with _ONE_THREAD:
        import_module("fullrank.adapt.adapter_comparison")


def load_compress() -> None:
    """Load what compresses models and reads their reports.

    Raises:
        MissingExtra: it is not installed.
    """
    with _ONE_THREAD:
        import_module("fullrank.compress.compressor_comparison")


@cache
def _search_once() -> None:
    papers.search("rank", 1)
