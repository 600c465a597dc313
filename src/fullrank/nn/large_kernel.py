"""A dense convolution whose kernel is so large that the frequency domain is the cheaper place for it."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn

Method = Literal["auto", "fft", "direct"]

# Lengths of a tile's transform, all fast for every FFT library. A longer tile wastes less on its overlap, but the
# spectrum of a dense kernel grows with its square: four kernels long is enough.
_LENGTHS = (16, 20, 24, 32, 40, 48, 56, 64, 80, 96, 128, 160, 192, 256)
_SMALLEST_KERNEL = 9  # from here on "auto" transforms


class LargeKernelConv2d(nn.Module):
    """Stride 1, no bias, zero padding to the same size: y[o] = sum_c W[o, c] ⋆ x[c], a correlation as in `nn.Conv2d`.

    In the frequency domain the image is cut into overlapping tiles (overlap-save), so that the spectrum of the kernel
    has the size of a tile and not of the image; in eval mode it is computed once and kept until the weight changes.

    Args:
        in_channels, out_channels: of the maps.
        kernel_size: odd.
        method: "direct" is torch's convolution; "fft" the frequency domain; "auto" (default) takes the latter for
            float32 and float64 kernels of at least 9 x 9 on the CPU.

    Attributes:
        weight: (out, in, kernel, kernel).

    Raises:
        ValueError: an even kernel, or an unknown method.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, method: Method = "auto") -> None:
        super().__init__()
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size={kernel_size}: use an odd size, such as 17, which has a centre")
        if method not in get_args(Method):
            raise ValueError(f"method={method!r}: use one of {', '.join(map(repr, get_args(Method)))}")
        self.kernel_size = kernel_size
        self.method: Method = method
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernel_size, kernel_size))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))  # as torch's convolutions start
        self._kept: dict[tuple[tuple[int, int], torch.dtype], tuple[Tensor, Tensor]] = {}

    def forward(self, x: Float[Tensor, "batch in height width"]) -> Float[Tensor, "batch out height width"]:
        """The convolved maps, of the same height and width."""
        if self._transforms(x):
            return self._in_frequency(x)
        return nn.functional.conv2d(x, self.weight, padding=self.kernel_size // 2)

    def train(self, mode: bool = True) -> LargeKernelConv2d:
        """Switch between training and eval mode; the kept spectrum is forgotten."""
        self._kept.clear()
        return super().train(mode)

    def _transforms(self, x: Tensor) -> bool:
        if self.method != "auto":
            return self.method == "fft"
        half = torch.is_autocast_enabled(x.device.type) or x.dtype not in (torch.float32, torch.float64)
        return self.kernel_size >= _SMALLEST_KERNEL and x.device.type == "cpu" and not half

    def _in_frequency(self, x: Tensor) -> Tensor:
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32  # half precision has no transform
        rows, columns = (_tile(size, self.kernel_size) for size in x.shape[-2:])
        with torch.autocast(x.device.type, enabled=False):
            spectrum = self._spectrum((rows, columns), dtype)
            return _overlap_save(x.to(dtype), spectrum, (rows, columns), self.kernel_size).to(x.dtype)

    def _spectrum(self, tile: tuple[int, int], dtype: torch.dtype) -> Complex[Tensor, "frequencies out in"]:
        weight = self.weight
        if self.training or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return _kernel_spectrum(weight.to(dtype), tile)
        kept = self._kept.get((tile, dtype))
        # Compared by value, a fraction of a transform: what `weight.data` changes, no counter of versions tells.
        if kept is None or kept[0].device != weight.device or not torch.equal(kept[0], weight):
            kept = (weight.detach().clone(), _kernel_spectrum(weight.to(dtype), tile))
            self._kept[tile, dtype] = kept
        return kept[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_kept": {}}  # pyright: ignore[reportAttributeAccessIssue]

    def extra_repr(self) -> str:
        """The sizes, for printing."""
        out, into = self.weight.shape[:2]
        return f"{into}, {out}, kernel_size={self.kernel_size}, method={self.method!r}"


def _tile(size: int, kernel: int) -> int:
    """The length of transform that covers `size` outputs with the fewest points, the shorter one where they tie."""
    fitting = [length for length in _LENGTHS if 1.5 * kernel <= length <= 4 * kernel]
    return min(fitting or [2 * kernel], key=lambda length: (math.ceil(size / (length - kernel + 1)) * length, length))


def _kernel_spectrum(
    weight: Float[Tensor, "out in kernel kernel"], tile: tuple[int, int]
) -> Complex[Tensor, "frequencies out in"]:
    """conj(F(W)), frequency first: the conjugate makes the product a correlation."""
    return torch.fft.rfft2(weight, s=tile).conj().permute(2, 3, 0, 1).flatten(0, 1).contiguous()


def _overlap_save(x: Tensor, spectrum: Tensor, tile: tuple[int, int], kernel: int) -> Tensor:
    """Transform tiles that overlap by the kernel, multiply channels by channels per frequency, keep what is valid."""
    batch, channels, height, width = x.shape
    rows, columns = tile
    down, across = rows - kernel + 1, columns - kernel + 1  # valid outputs of a tile
    tiles_down, tiles_across = math.ceil(height / down), math.ceil(width / across)
    before = kernel // 2
    padding = (before, tiles_across * across + before - width, before, tiles_down * down + before - height)
    tiles = nn.functional.pad(x, padding).unfold(2, rows, down).unfold(3, columns, across)
    X = torch.fft.rfft2(tiles)  # (batch, channels, tiles down, tiles across, rows, columns // 2 + 1)
    X = X.permute(4, 5, 1, 0, 2, 3).reshape(spectrum.shape[0], channels, -1)
    Y = (spectrum @ X).view(rows, -1, spectrum.shape[1], batch, tiles_down, tiles_across).permute(3, 2, 4, 5, 0, 1)
    y = torch.fft.irfft2(Y, s=(rows, columns))[..., :down, :across]
    y = y.permute(0, 1, 2, 4, 3, 5).reshape(batch, -1, tiles_down * down, tiles_across * across)
    return y[..., :height, :width]
