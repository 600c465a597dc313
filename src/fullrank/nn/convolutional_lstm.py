"""A convolutional LSTM as RPCANet++ has it: memory in feature maps, handed from stage to stage."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

GATES = ("i", "o", "j", "f")  # input, output, candidate, forget: the order of their maps in the fused convolutions


class Memory(NamedTuple):
    """What a stage remembers for the next one: hidden maps h and cell maps s, (batch, channels, height, width)."""

    h: Float[Tensor, "batch channels height width"]
    s: Float[Tensor, "batch channels height width"]


class ConvolutionalLSTM(nn.Module):
    """Gates of 3 x 3 convolutions over features and memory, all of them one convolution.

    Without memory: i, o = sigma(W_x f), j = tanh(W_xj f), s = i j, h = o s; there is nothing to forget, and the cell is
    not squashed. With memory: i, f, o = sigma(W_x f + W_h h), j = tanh(W_xj f + W_hj h), s = f s + i j, h = o tanh(s).

    Args:
        channels: of features and memory.
        first: the first stage never meets a memory, so it has no weights for one and none for forgetting.
        unused_gates: give the first stage these weights all the same, as the published checkpoints have them.

    Attributes:
        features: convolution of the features, channels -> 4 channels (3 in a first stage), in the order of `GATES`.
        memory: convolution of the hidden maps, channels -> 4 channels, or None in a first stage.
    """

    def __init__(self, channels: int, first: bool = False, unused_gates: bool = False) -> None:
        super().__init__()
        whole = not first or unused_gates
        self.channels = channels
        self.features = nn.Conv2d(channels, channels * (4 if whole else 3), 3, padding=1)
        self.memory = nn.Conv2d(channels, channels * 4, 3, padding=1) if whole else None

    def forward(self, f: Float[Tensor, "batch channels height width"], memory: Memory | None = None) -> Memory:
        """The new memory.

        Args:
            f: features.
            memory: of the stage before, or None in the first.

        Raises:
            ValueError: a memory for a first stage.
        """
        if memory is None:
            return self._first(f)
        if self.memory is None:
            raise ValueError("this ConvolutionalLSTM was built with first=True: it has no weights for a memory")
        # W_x f + W_h h for all gates: one convolution of the features and the hidden maps on top of each other.
        weight = torch.cat([self.features.weight, self.memory.weight], dim=1)
        bias = self._bias(self.features) + self._bias(self.memory)
        gates = nn.functional.conv2d(torch.cat([f, memory.h], dim=1), weight, bias, padding=1)
        i, o, j, forget = gates.chunk(4, dim=1)
        s = torch.sigmoid(forget) * memory.s + torch.sigmoid(i) * torch.tanh(j)
        return Memory(torch.sigmoid(o) * torch.tanh(s), s)

    @torch.no_grad()
    def initialise_gates(self) -> None:
        """Xavier-normal weights of every gate, as if each were a convolution of its own."""
        for convolution in (self.features, self.memory):
            if convolution is not None:
                for gate in convolution.weight.split(self.channels):
                    nn.init.xavier_normal_(gate)

    def _first(self, f: Tensor) -> Memory:
        used = 3 * self.channels
        gates = nn.functional.conv2d(f, self.features.weight[:used], self._bias(self.features)[:used], padding=1)
        i, o, j = gates.chunk(3, dim=1)
        s = torch.sigmoid(i) * torch.tanh(j)
        return Memory(torch.sigmoid(o) * s, s)

    @staticmethod
    def _bias(convolution: nn.Conv2d) -> Tensor:
        assert convolution.bias is not None  # for the type checker
        return convolution.bias
