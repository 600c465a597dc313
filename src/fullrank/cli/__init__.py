"""The `fullrank` command."""

from fullrank.cli.main import app, main

__all__ = ["app", "main"]
