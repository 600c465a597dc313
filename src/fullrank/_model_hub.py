"""Models by their name on Hugging Face's hub: whether it is in reach, asked once and briefly."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

_SECONDS = 3.0


def only_local_files(model: str | Path) -> bool:
    """Whether a model can come from this machine alone: it is a folder, or the hub is out of reach.

    Without this question the hub's own client tries again and again, and a mistyped name costs a minute offline.
    Behind a proxy nothing can be told beforehand, and the client is left to try.
    """
    if Path(model).is_dir():
        return True
    if getproxies():
        return False
    address = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    port = address.port or (80 if address.scheme == "http" else 443)
    try:
        with socket.create_connection((address.hostname, port), timeout=_SECONDS):
            return False
    except OSError:
        return True
