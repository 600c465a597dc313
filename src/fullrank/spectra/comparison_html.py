"""The comparison of two models as one self-contained HTML page."""

from __future__ import annotations

from fullrank.spectra._html import render
from fullrank.spectra.comparison import Comparison


def render_comparison(comparison: Comparison, fragment: bool = False) -> str:
    """The page, or with `fragment` its content and style without the document around it.

    Args:
        comparison: what to show.
        fragment: for embedding; all classes begin with "fr-".
    """
    largest = max((abs(change.effective_rank_change) for change in comparison.changes), default=0.0)
    title = f"From {comparison.before} to {comparison.after}"
    return render("comparison.html", title, fragment, comparison=comparison, largest=largest or 1.0)
