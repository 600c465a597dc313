"""What an encoder made of texts that come again, kept."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fullrank._optional import require
from fullrank.search.pretrained import Pretrained


class EncoderStates:
    """States of an encoder-decoder's encoder by token ids; those that were used last are kept.

    Args:
        pretrained: the encoder-decoder.
        most: rows that are kept at most.

    Raises:
        ValueError: a negative number.
    """

    def __init__(self, pretrained: Pretrained, most: int) -> None:
        if most < 0:
            raise ValueError(f"keep={most} is not accepted; it is a number of passages, or 0 to keep none")
        self.pretrained, self.most = pretrained, most
        self._kept: OrderedDict[tuple[int, ...], Tensor] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def of(self, rows: Sequence[Sequence[int]]) -> list[Tensor]:
        """States of every row, (tokens, dim), from batches of like length."""
        keys = [tuple(row) for row in rows]
        found = {key: self._kept[key] for key in keys if key in self._kept}
        new = [key for key in dict.fromkeys(keys) if key not in found]
        encoder = self.pretrained.model.get_encoder()
        for numbers in self.pretrained.batches(new):
            ids, mask = self.pretrained.padded([new[number] for number in numbers])
            with torch.no_grad():
                states = encoder(input_ids=ids, attention_mask=mask).last_hidden_state
            found.update({new[n]: row[: len(new[n])].clone() for n, row in zip(numbers, states, strict=True)})
        for key in keys:
            self._kept[key] = found[key]
            self._kept.move_to_end(key)
        while len(self._kept) > self.most:
            self._kept.popitem(last=False)
        return [found[key] for key in keys]


def encoder_outputs(states: Sequence[Tensor]) -> tuple[Any, Tensor]:
    """States of several rows as `encoder_outputs` of one batch, padded on the right, and their mask."""
    padded = torch.nn.utils.rnn.pad_sequence(list(states), batch_first=True)
    lengths = torch.tensor([len(row) for row in states], device=padded.device)
    mask = (torch.arange(padded.shape[1], device=padded.device) < lengths.unsqueeze(1)).long()
    return require("transformers.modeling_outputs", "search").BaseModelOutput(last_hidden_state=padded), mask
