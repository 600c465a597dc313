"""What a user sets and sees of X-LoRA's scalings, under PEFT's names."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from fullrank.adapt.x_lora_gate import XLoraGateConfig, check_finite


class ScalingControls:
    """The part of an X-LoRA model that sets how scalings are used, and tells which there were."""

    gate_config: XLoraGateConfig
    expert_names: list[str]
    layer_names: list[str]
    _latest: Tensor | None = None
    _logging = False
    _log: list[Tensor]

    def set_topk_lora(self, value: int | None) -> None:
        """Keep the largest scalings of every token at every layer, as many as `value`; None keeps all."""
        self.gate_config.check_top_k(value, len(self.expert_names))
        self.gate_config.top_k_lora = value

    def set_global_scaling_weight(self, weight: float) -> None:
        """Set g, the factor of all experts."""
        check_finite("weight", weight)
        self.gate_config.global_scaling_weight = weight

    def get_global_scaling_weight(self) -> float:
        """The factor g of all experts."""
        return self.gate_config.global_scaling_weight

    def set_scaling_pass_value(self, value: float | None) -> None:
        """Set every expert's scaling in the scaling pass; None is 1/n."""
        value = 1 / len(self.expert_names) if value is None else value
        check_finite("value", value)
        self.gate_config.scaling_pass_value = value

    def get_latest_scalings(self) -> Float[Tensor, "batch tokens layers experts"] | None:
        """Scalings of the last forward pass, before any top-k; None before the first. Without gradient."""
        return None if self._latest is None else self._by_layer(self._latest)

    def enable_scalings_logging(self) -> None:
        """Keep the scalings of every forward pass from now on."""
        self._logging = True

    def disable_scalings_logging(self) -> None:
        """Keep no more scalings; the log stays."""
        self._logging = False

    def clear_scalings_log(self) -> None:
        """Empty the log."""
        self._log.clear()

    def get_scalings_log(self) -> list[Tensor]:
        """The logged scalings, (batch, tokens, layers, experts) each; NaN at padding tokens."""
        return [self._by_layer(scalings) for scalings in self._log]

    def get_bucketed_scalings_log(self) -> dict[int, tuple[list[int], list[Tensor]]]:
        """The log by number of tokens: positions in the log, and the scalings there."""
        buckets: dict[int, tuple[list[int], list[Tensor]]] = {}
        for position, scalings in enumerate(self.get_scalings_log()):
            positions, found = buckets.setdefault(scalings.shape[1], ([], []))
            positions.append(position)
            found.append(scalings)
        return buckets

    def _by_layer(self, scalings: Tensor) -> Tensor:
        if scalings.dim() == 4:
            return scalings
        return scalings.unsqueeze(2).expand(-1, -1, len(self.layer_names), -1)

    def _remember(self, scalings: Tensor, mask: Any) -> None:
        self._latest = scalings.detach()
        if not self._logging:
            return
        logged = self._latest.clone()
        if isinstance(mask, Tensor) and mask.dim() == 2:
            seen = mask[:, -scalings.shape[1] :].to(scalings.device)
            logged[:, -seen.shape[1] :][seen == 0] = torch.nan
        self._log.append(logged)
