"""Refuse NaN and infinity by saying where they are."""

from jaxtyping import Shaped
from torch import Tensor, aminmax, isfinite


def require_finite(matrix: Shaped[Tensor, "..."], name: str = "matrix", first_row: int = 0) -> None:
    """Raise if any entry is NaN or infinite.

    Args:
        matrix: any shape, floating point.
        name: how the error calls it.
        first_row: the row of the whole at which `matrix` begins, where it is a block of it; positions count from there.

    Raises:
        ValueError: with the position and value of the first bad entry, and how many there are.
    """
    if matrix.numel() == 0:
        return
    lowest, highest = aminmax(matrix.detach())  # no temporary of the matrix' size; NaN propagates
    if isfinite(lowest) and isfinite(highest):
        return
    bad = (~isfinite(matrix)).nonzero()
    first = tuple(int(index) for index in bad[0])
    position = (first_row + first[0], *first[1:]) if first else first
    raise ValueError(
        f"{name} has {matrix[first].item()} at {position} ({len(bad)} of its {matrix.numel()} entries are not finite); "
        "only finite values are accepted: find the layer or the step that produced it, or replace the entries first"
    )
