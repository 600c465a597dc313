"""The cache of X-LoRA's two passes."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import DynamicCache, PretrainedConfig


class XLoraCache(DynamicCache):
    """Keys and values of the mixed pass, and beside them those of the scaling pass.

    In a causal model appended tokens change neither the scaling pass of what stands before them, nor therefore its
    scalings and its mixed keys and values: with both caches every step sees the new tokens only, and the result is that
    of a run without cache. This holds in evaluation mode, while `scaling_pass_value` stays as it is.

    Args:
        config: configuration of the base model, for its kinds of attention layers.

    Attributes:
        scaling_pass: the cache of the scaling pass.
    """

    def __init__(self, config: PretrainedConfig | None = None) -> None:
        super().__init__(config=config)
        self.scaling_pass = DynamicCache(config=config)

    def _both(self, method: str, *args: Any) -> None:
        getattr(super(), method)(*args)
        getattr(self.scaling_pass, method)(*args)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Follow the beams of a search, in both passes."""
        self._both("reorder_cache", beam_idx)

    def crop(self, tokens_to_remove: int) -> None:
        """Drop the last tokens, in both passes."""
        self._both("crop", tokens_to_remove)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every sequence, in both passes."""
        self._both("batch_repeat_interleave", repeats)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some sequences, in both passes."""
        self._both("batch_select_indices", indices)

    def reset(self) -> None:
        """Empty both passes."""
        self._both("reset")

    def activate_past_recording(self) -> None:
        """Keep what a sliding window would drop until the next `crop`, in both passes."""
        self._both("activate_past_recording")
