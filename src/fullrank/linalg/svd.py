"""The singular value decomposition by the cheapest route that is still right: exact, Gram, or random."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple, get_args, overload

import torch
from jaxtyping import Float
from torch import Tensor

from fullrank.linalg.finite import require_finite
from fullrank.linalg.in_place import eigenvalues_in_place

Method = Literal["auto", "exact", "gram", "randomized", "krylov"]

# The Gram route is accepted when its estimated relative error on the effective rank is below this; the promise of
# "auto" is ten times as much (1e-4).
_GRAM_TOLERANCE = 1e-5
# Rows taken at a time when a product of a low-precision matrix is accumulated in higher precision.
_CHUNK = 4096
# Up to this many entries a Gram matrix may be copied on the CPU.
_COPIED = 1 << 22
# Panels in which the lower triangle of a Gram matrix is computed: three leave out a third of the products.
_PANELS = 3
# Randomised range finder (Halko, Martinsson and Tropp 2011, algorithm 4.4).
_OVERSAMPLING = 10
_POWER_ITERATIONS = 4
# The same with the blocks of all iterations kept (Musco and Musco 2015): up to so many, if they fill half of a side.
_KRYLOV_ITERATIONS = 8


class SVD(NamedTuple):
    """Factors of `matrix ≈ U @ diag(S) @ Vh`.

    Attributes:
        U: left singular vectors, (..., m, k), orthonormal columns.
        S: singular values, (..., k), descending.
        Vh: right singular vectors, (..., k, n), orthonormal rows.
    """

    U: Float[Tensor, "*batch m k"]
    S: Float[Tensor, "*batch k"]
    Vh: Float[Tensor, "*batch k n"]

    def reconstruct(self) -> Float[Tensor, "*batch m n"]:
        """The product of the factors."""
        return (self.U * self.S.unsqueeze(-2)) @ self.Vh


def singular_values(
    matrix: Float[Tensor, "*batch m n"], method: Literal["auto", "exact", "gram"] = "auto", name: str = "matrix"
) -> Float[Tensor, "*batch k"]:
    """All singular values, descending, k = min(m, n).

    Args:
        matrix: any leading batch shape, any floating dtype; half precision is computed in float32 or better.
        method: "exact" is LAPACK's or cuSOLVER's SVD. "gram" takes the eigenvalues of the smaller of A A^T and A^T A,
            accumulated in float64. "auto" takes a Gram matrix as long as an a-posteriori estimate keeps the relative
            error of the effective rank below 1e-4 (float32 first for matrices at least twice as tall as wide, then
            float64), and the exact route where it cannot, and for matrices that need a gradient.
        name: how errors call the matrix.

    Returns:
        float64 for float64 input, float32 otherwise, on the input's device; differentiable.

    Raises:
        ValueError: NaN or infinite entries (with the position of the first), no matrix, or an unknown method.
    """
    _check(matrix, method, ("auto", "exact", "gram"), name)
    compute = _compute_dtype(matrix)
    if 0 in matrix.shape:
        return matrix.new_zeros((*matrix.shape[:-2], min(matrix.shape[-2:])), dtype=compute)
    if method == "exact" or (method == "auto" and matrix.requires_grad):
        return torch.linalg.svdvals(matrix.to(compute))
    scale = _out_of_range(matrix)
    if scale is not None:
        return singular_values(matrix.to(compute) / scale, method, name) * scale.squeeze(-1)
    if method == "gram":
        return _values_of_gram(_gram_matrix(matrix, torch.float64))[0].to(compute)
    return _certified_values(matrix, compute)


def singular_values_of_rows(
    blocks: Callable[[], Iterable[Float[Tensor, "rows columns"]]], name: str = "matrix"
) -> Float[Tensor, "k"]:
    """All singular values of a tall matrix that is given in blocks of rows and never held whole.

    Memory: one matrix of columns x columns beside one block. The Gram matrix is taken in float32 first, in float64
    where the a-posteriori estimate of `singular_values` asks for it; float64 is the end, as in its method "gram".

    Args:
        blocks: gives the blocks, floating point, once more each time it is called; together at least as many rows as
            columns.
        name: how errors call the matrix.

    Returns:
        float64 for float64 blocks, float32 otherwise, descending.

    Raises:
        ValueError: NaN or infinite entries, with the position of the first, or no rows.
    """
    gram = _gram_of_blocks(blocks(), None, name)
    if gram.dtype == torch.float64:
        return _values_of_gram(gram)[0]
    if 2.0**-60 < float(gram.diagonal().max()) < 2.0**100:  # squares neither underflowed nor overflowed
        values, noise = _values_of_gram(gram)
        if bool(_resolved(values, noise)):
            return values.to(torch.float32)
    del gram
    values, _ = _values_of_gram(_gram_of_blocks(blocks(), torch.float64, name))
    return values.to(torch.float32)


def _gram_of_blocks(blocks: Iterable[Tensor], dtype: torch.dtype | None, name: str) -> Tensor:
    """The lower triangle of the sum of the blocks' Gram matrices, in `dtype` or their own, at least float32."""
    gram, start = None, 0
    for block in blocks:
        require_finite(block, name, start)
        start += len(block)
        rows = block.to(dtype or _compute_dtype(block))
        if gram is None:
            gram = rows.new_zeros(rows.shape[1], rows.shape[1])
        _add_gram(gram, rows)
    if gram is None:
        raise ValueError(f"{name} has no rows")
    return gram


def svd(
    matrix: Float[Tensor, "*batch m n"],
    rank: int | None = None,
    method: Method = "auto",
    generator: torch.Generator | None = None,
    name: str = "matrix",
) -> SVD:
    """The (truncated) singular value decomposition, with deterministic signs.

    Signs: the entry of largest magnitude in each left singular vector is positive.

    Args:
        matrix: any leading batch shape, any floating dtype; half precision is computed in float32 or better.
        rank: how many components to keep; all min(m, n) by default.
        method: "exact"; "gram" (eigenvectors of the smaller Gram matrix in float64); "randomized" (subspace iteration
            with 10 extra directions and 4 power iterations, for spectra that fall; needs `rank`); "krylov" (the same
            with 4 to 8 iterations, all of whose directions are kept, for flat spectra too: of the 8 leading directions
            of 4096 x 4096 random numbers it holds 99 % of the energy, subspace iteration 90 %; needs `rank`); "auto"
            takes "krylov" when `rank` is at most a tenth of a side of at least 1024, "gram" for float32 matrices whose
            kept part the Gram matrix resolves, "exact" otherwise.
        generator: source of randomness for "randomized" and "krylov"; a generator seeded with 0 by default, so that the
            same call gives the same factors.
        name: how errors call the matrix.

    Returns:
        `SVD(U, S, Vh)`; float64 for float64 input, float32 otherwise.

    Raises:
        ValueError: NaN or infinite entries, `rank` outside 1..min(m, n), an unknown method, or "randomized" or "krylov"
            without `rank`.
    """
    _check(matrix, method, get_args(Method), name)
    smaller = min(matrix.shape[-2:])
    if rank is not None and not 1 <= rank <= smaller:
        raise ValueError(
            f"rank={rank} does not fit a matrix of shape {tuple(matrix.shape)}: 1 to {smaller} is accepted"
        )
    if smaller == 0:
        raise ValueError(f"matrix of shape {tuple(matrix.shape)} has no entries to decompose")
    kept = rank or smaller
    if method in ("randomized", "krylov") or (method == "auto" and rank is not None and 10 * rank <= smaller >= 1024):
        if rank is None:
            raise ValueError(f"method={method!r} needs `rank`: how many components to find")
        return signed(_randomized(matrix, rank, generator, krylov=method != "randomized"))
    if method == "gram":
        return signed(gram_factors(matrix, kept, demand=False))
    gram_will_do = method == "auto" and not matrix.requires_grad and matrix.dtype != torch.float64
    return signed(direct_factors(matrix, kept, gram_will_do))


def direct_factors(matrix: Tensor, rank: int, gram_will_do: bool) -> SVD:
    """The leading factors, exact, or from the Gram matrix where that will do and resolves them."""
    factors = gram_factors(matrix, rank, demand=True) if gram_will_do else None
    if factors is not None:
        return factors
    U, S, Vh = torch.linalg.svd(matrix.to(_compute_dtype(matrix)), full_matrices=False)
    return SVD(U[..., :rank], S[..., :rank], Vh[..., :rank, :])


def _check(matrix: Tensor, method: str, accepted: tuple[str, ...], name: str = "matrix") -> None:
    if method not in accepted:
        raise ValueError(f"method={method!r} is not known; accepted: {', '.join(map(repr, accepted))}")
    if matrix.ndim < 2:
        raise ValueError(f"{name} has shape {tuple(matrix.shape)}: at least two axes (rows, columns) are needed")
    if not matrix.is_floating_point():
        raise ValueError(f"{name} has dtype {matrix.dtype}: a floating dtype is needed; convert with .float() first")
    require_finite(matrix, name)


def power_of_two(matrix: Tensor) -> Tensor:
    """The power of two just below the largest |entry| of every matrix, (..., 1, 1); 1 for zeros. Divided by it, which
    changes no digit, no norm or square of theirs leaves the range of the dtype.
    """
    largest = torch.maximum(matrix.amax((-2, -1), keepdim=True), -matrix.amin((-2, -1), keepdim=True))
    exponent = largest.to(torch.float64).frexp().exponent - 1
    return torch.where(largest > 0, torch.exp2(exponent.to(_compute_dtype(matrix))), 1)


def _out_of_range(matrix: Tensor) -> Tensor | None:
    """What every matrix has to be divided by before its entries are squared; None where they can be as they are."""
    scale = power_of_two(matrix.detach())
    return None if bool(((scale > 2.0**-30) & (scale < 2.0**30)).all()) else scale


def _compute_dtype(matrix: Tensor) -> torch.dtype:
    return torch.float64 if matrix.dtype == torch.float64 else torch.float32


def _gram_matrix(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """The smaller of A^T A and A A^T; rows are converted chunk by chunk, so that no copy of A in `dtype` exists.

    Without a gradient only its lower triangle is right, and eigensolvers read no more.
    """
    tall = matrix if matrix.shape[-2] >= matrix.shape[-1] else matrix.mT
    if tall.requires_grad:
        return tall.to(dtype).mT @ tall.to(dtype)
    gram = tall.new_zeros(*tall.shape[:-2], tall.shape[-1], tall.shape[-1], dtype=dtype)
    for rows in (tall,) if tall.dtype == dtype else tall.split(_CHUNK, dim=-2):
        _add_gram(gram, rows.to(dtype))
    return gram


def _add_gram(gram: Tensor, rows: Tensor) -> None:
    """Add rows^T rows to the lower triangle of a matrix, in place; the panels leave out a third of the products."""
    size = rows.shape[-1]
    edges = [round(panel * size / _PANELS) for panel in range(_PANELS + 1)]
    for low, high in itertools.pairwise(edges):
        panel, left, right = gram[..., low:high, :high], rows[..., low:high].mT, rows[..., :high]
        if gram.ndim == 2:
            panel.addmm_(left, right)  # without a matrix for the product
        else:
            panel += left @ right


def _values_of_gram(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Roots of the eigenvalues of a Gram matrix (as float64), and the noise of the eigenvalues in its precision.

    The matrix may be overwritten: a large one on the CPU is, for torch would copy it. For a small one torch is better:
    SciPy holds Python's lock, so that matrices in several threads would wait for each other.
    """
    alone = gram.device.type == "cpu" and gram.ndim == 2 and not gram.requires_grad
    in_place = alone and gram.numel() > _COPIED
    eigenvalues = (eigenvalues_in_place(gram) if in_place else torch.linalg.eigvalsh(gram)).flip(-1).to(torch.float64)
    noise = math.sqrt(gram.shape[-1]) * torch.finfo(gram.dtype).eps * eigenvalues[..., :1].clamp_min(0)
    return eigenvalues.clamp_min(0).sqrt(), noise


def _resolved(values: Tensor, noise: Tensor) -> Tensor:
    """Whether every value of a spectrum stands clear of the noise and the effective rank is known to the tolerance."""
    total = values.sum(-1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    p = values / total
    surprise = -torch.log(p.clamp_min(torch.finfo(torch.float64).tiny))
    entropy = (p * surprise).sum(-1, keepdim=True)
    # First order: d(sigma) = d(lambda) / (2 sigma), and dH = sum dp (surprise - H); the errors are independent.
    error = (noise / (2 * values.clamp_min(torch.finfo(torch.float64).tiny)) / total * (surprise - entropy)).norm(
        dim=-1
    )
    clear = (values[..., -1:] ** 2 > 16 * noise).squeeze(-1)
    return clear & (error < _GRAM_TOLERANCE)


def _tail_is_negligible(values: Tensor, noise: Tensor) -> Tensor:
    """Whether values under the noise floor, whatever they are, could not move the effective rank by the tolerance."""
    floor = (16 * noise).sqrt()
    total = values.sum(-1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    share = floor / total
    hidden = (values <= floor).sum(-1, keepdim=True)
    return (hidden * share * (1 - torch.log(share.clamp_min(1e-300))) < _GRAM_TOLERANCE).squeeze(-1)


def _certified_values(matrix: Tensor, compute: torch.dtype) -> Tensor:
    rows, columns = matrix.shape[-2:]
    if compute == torch.float32 and max(rows, columns) >= 2 * min(rows, columns):
        values, noise = _values_of_gram(_gram_matrix(matrix, torch.float32))
        if bool(_resolved(values, noise).all()):
            return values.to(compute)
    values, noise = _values_of_gram(_gram_matrix(matrix, torch.float64))
    trusted = _resolved(values, noise)
    if compute == torch.float32:  # under 1e-7 of the largest, float32 entries say nothing about a value anyway
        trusted = trusted | _tail_is_negligible(values, noise)
    if not bool(trusted.all()):
        exact = torch.linalg.svdvals(
            matrix[~trusted].to(torch.float64) if matrix.ndim > 2 else matrix.to(torch.float64)
        )
        if matrix.ndim == 2:
            return exact.to(compute)
        values[~trusted] = exact
    return values.to(compute)


@overload
def gram_factors(matrix: Tensor, rank: int, *, demand: Literal[False]) -> SVD: ...
@overload
def gram_factors(matrix: Tensor, rank: int, *, demand: bool) -> SVD | None: ...
def gram_factors(matrix: Tensor, rank: int, *, demand: bool) -> SVD | None:
    """SVD from the smaller Gram matrix in float64; None when `demand`ed accuracy is out of its reach."""
    wide = matrix.shape[-2] < matrix.shape[-1]
    tall = (matrix.mT if wide else matrix).to(torch.float64)
    scale = _out_of_range(tall)
    tall = tall if scale is None else tall / scale
    eigenvalues, vectors = torch.linalg.eigh(_gram_matrix(tall, torch.float64))
    kept = eigenvalues.flip(-1)[..., :rank].clamp_min(0)
    # Vectors are as good as sqrt(eps) of their gap; below 1e-5 of the largest value the second factor loses
    # orthogonality.
    if demand and bool((kept[..., -1] <= 1e-10 * kept[..., 0]).any()):
        return None
    V = vectors.flip(-1)[..., :rank]
    U = tall @ V
    if bool((kept[..., -1] > 1e-6 * kept[..., 0]).all()):
        # Products of two columns are off by eps (S_1 / S_r)^2 at most, here 1e-10.
        S = torch.linalg.vector_norm(U, dim=-2)
        U = U / S.unsqueeze(-2)
    else:
        # QR instead of a division by S keeps the columns orthonormal where values are small; R is diagonal up to
        # rounding.
        U, R = torch.linalg.qr(U)
        S = torch.diagonal(R, dim1=-2, dim2=-1)
        U = U * torch.where(S < 0, -1.0, 1.0).unsqueeze(-2)
    S, order = S.abs().sort(dim=-1, descending=True)
    S = S if scale is None else S * scale.squeeze(-1)
    U = torch.take_along_dim(U, order.unsqueeze(-2), dim=-1)
    V = torch.take_along_dim(V, order.unsqueeze(-2), dim=-1)
    compute = _compute_dtype(matrix)
    left, right = (V, U) if wide else (U, V)
    return SVD(left.to(compute), S.to(compute), right.mT.to(compute))


def _randomized(matrix: Tensor, rank: int, generator: torch.Generator | None, krylov: bool) -> SVD:
    compute = _compute_dtype(matrix)
    A = matrix.to(compute)
    smaller = min(A.shape[-2:])
    width = min(rank + _OVERSAMPLING, smaller)
    if generator is None:
        generator = torch.Generator(A.device).manual_seed(0)
    test = torch.randn((*A.shape[:-2], A.shape[-1], width), generator=generator, dtype=compute, device=generator.device)
    krylov = krylov and not A.requires_grad  # blocks that nearly repeat each other have no usable gradient
    iterations = _POWER_ITERATIONS
    if krylov:
        iterations = min(max(smaller // (2 * width) - 1, iterations), _KRYLOV_ITERATIONS)
    blocks = [torch.linalg.qr(A @ test.to(A.device)).Q]
    for _ in range(iterations):
        across = torch.linalg.qr((blocks[-1].mT @ A).mT).Q  # A.mT @ Q takes twice as long
        blocks.append(torch.linalg.qr(A @ across).Q)
    Q = torch.linalg.qr(torch.cat(blocks, -1)).Q if krylov else blocks[-1]
    U, S, Vh = direct_factors(Q.mT @ A, rank, not A.requires_grad and compute != torch.float64)
    return SVD(Q @ U, S, Vh)


def signed(factors: SVD) -> SVD:
    """The same factors with deterministic signs: the largest entry of each left vector is positive."""
    peak = factors.U.abs().argmax(dim=-2, keepdim=True)
    sign = torch.where(torch.take_along_dim(factors.U, peak, dim=-2) < 0, -1.0, 1.0).to(factors.U.dtype)
    return SVD(factors.U * sign, factors.S, factors.Vh * sign.mT)
