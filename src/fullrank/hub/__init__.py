"""The web application: find a paper, run it, see claim beside measurement, analyze or adapt a model."""

from fullrank._optional import require

require("fastapi", "hub")

from fullrank.hub.app import create_app  # noqa: E402 - only where the extra is installed
from fullrank.hub.server import serve  # noqa: E402
from fullrank.hub.settings import Settings  # noqa: E402

__all__ = ["Settings", "create_app", "serve"]
