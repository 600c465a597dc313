"""What is known of the concepts of texts, in the forms that people have it: numbers, or names that each text lists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy import sparse
from torch import Tensor

_LARGEST = 2**27  # entries of a dense table: 512 MB of float32


def table(given: Any, concepts: Sequence[str], count: int, name: str) -> Float[Tensor, "texts K"]:
    """A dense table, NaN where nothing is known.

    Args:
        given: (texts, concepts), dense or sparse of SciPy; or of every text the names that it lists, or None.
        concepts: their names.
        count: of texts.
        name: of the argument, for errors.

    Raises:
        ValueError: another shape, an infinite value, a name that is no concept, or more entries than fit in memory.
    """
    K = len(concepts)
    if count * K > _LARGEST and not isinstance(given, np.ndarray):
        raise ValueError(
            f"{name} of {count:,} texts and {K:,} concepts is too large for a dense table: "
            'SESAMatcher(negatives=5, head="factorized") learns from the listed concepts and a few others'
        )
    if _has_names(given):
        found = torch.full((count, K), torch.nan)
        for row, numbers in enumerate(listed(given, concepts, count, name)):
            if given[row] is not None:
                found[row] = 0
                found[row, numbers] = 1
        return found
    found = torch.as_tensor(np.asarray(_whole(given), dtype=np.float32))
    if found.shape != (count, K):
        raise ValueError(f"{name} has shape {tuple(found.shape)}; ({count}, {K}), texts by concepts, is needed")
    if found.isinf().any():
        row, column = found.isinf().nonzero()[0].tolist()
        raise ValueError(f"{name}[{row}] ({concepts[column]!r}) is infinite; a number, or NaN where nothing is known")
    return found


def listed(given: Any, concepts: Sequence[str], count: int, name: str) -> list[list[int]]:
    """Numbers of every text's concepts: those that it names, or whose value is above 0. See `table`."""
    if _has_names(given):
        if len(given) != count:
            raise ValueError(f"{name} has {len(given)} lists; one for each of {count} texts is needed")
        numbers = {concept: number for number, concept in enumerate(concepts)}
        return [_numbers(names, numbers, row, name) for row, names in enumerate(given)]
    rows: Any = sparse.csr_matrix(given)
    if rows.shape != (count, len(concepts)):
        raise ValueError(f"{name} has shape {rows.shape}; ({count}, {len(concepts)}), texts by concepts, is needed")
    return [
        [int(column) for column, value in zip(row.indices, row.data, strict=True) if value > 0]
        for row in (rows[number] for number in range(count))
    ]


def check_probabilities(targets: Float[Tensor, "texts K"], concepts: Sequence[str], name: str) -> None:
    """Refuse values outside [0, 1].

    Raises:
        ValueError: there is one; the message says where.
    """
    wrong = ((targets < 0) | (targets > 1)).nonzero()
    if len(wrong):
        row, column = wrong[0].tolist()
        raise ValueError(
            f"{name}[{row}] ({concepts[column]!r}) is {float(targets[row, column])}; it lies in [0, 1] without "
            "standardize=True"
        )


def _whole(given: Any) -> Any:
    return given.toarray() if sparse.issparse(given) else given


def _has_names(given: Any) -> bool:
    if not isinstance(given, list | tuple) or not given:
        return False
    return all(row is None or (isinstance(row, list | tuple | set) and _all_text(row)) for row in given)


def _all_text(row: Any) -> bool:
    return all(isinstance(entry, str) for entry in row)


def _numbers(names: Any, numbers: dict[str, int], row: int, name: str) -> list[int]:
    unknown = next((concept for concept in names or () if concept not in numbers), None)
    if unknown is not None:
        raise ValueError(f"{name}[{row}] lists {unknown!r}, which is none of the {len(numbers)} concepts")
    return sorted({numbers[concept] for concept in names or ()})
