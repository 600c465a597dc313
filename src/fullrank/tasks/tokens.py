"""Examples as a model takes them: token ids, and the number, class or text to predict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from fullrank.tasks.examples import Examples, Record, Task

Item = dict[str, Any]
_IGNORED = -100  # the label that a language model's loss leaves out


class Tokenized(Dataset[Item]):
    """Tokenised records; an item has `input_ids`, and `labels` unless text is predicted."""

    def __init__(self, items: Sequence[Item]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Item:
        return self.items[index]


@dataclass(frozen=True)
class TokenizedExamples:
    """Both parts of a task."""

    train: Tokenized
    test: Tokenized

    @classmethod
    def of(cls, examples: Examples, tokenizer: PreTrainedTokenizerBase, max_length: int) -> TokenizedExamples:
        """Tokenise.

        Args:
            examples: the records.
            tokenizer: of the model.
            max_length: tokens of an example; longer ones are cut.

        Raises:
            ValueError: `max_length` leaves nothing to learn from.
        """
        if max_length < 2:
            raise ValueError(f"max_length={max_length}: at least 2 tokens are needed")
        return cls(*(_tokenized(part, examples, tokenizer, max_length) for part in (examples.train, examples.test)))


def collator(tokenizer: PreTrainedTokenizerBase, task: Task) -> Callable[[list[Item]], dict[str, Tensor]]:
    """What makes a batch of items: padded on the right with a mask; a language model's labels are its inputs."""
    padding = cast(int, tokenizer.pad_token_id or 0)

    def collate(items: list[Item]) -> dict[str, Tensor]:
        longest = max(len(item["input_ids"]) for item in items)
        ids = torch.full((len(items), longest), padding)
        mask = torch.zeros(len(items), longest, dtype=torch.int64)
        for row, item in enumerate(items):
            length = len(item["input_ids"])
            ids[row, :length] = torch.tensor(item["input_ids"])
            mask[row, :length] = 1
        batch = {"input_ids": ids, "attention_mask": mask}
        if task == "causal-lm":
            return batch | {"labels": ids.masked_fill(mask == 0, _IGNORED)}
        if "token_type_ids" in items[0]:
            types = [torch.tensor(item["token_type_ids"]) for item in items]
            batch["token_type_ids"] = torch.nn.utils.rnn.pad_sequence(types, batch_first=True)
        return batch | {"labels": torch.tensor([item["labels"] for item in items])}

    return collate


def _tokenized(
    records: Sequence[Record], examples: Examples, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> Tokenized:
    first, second = ("first", "second") if examples.task == "pairs" else ("text", None)
    encoded = tokenizer(
        [str(record[first]) for record in records],
        text_pair=[str(record[second]) for record in records] if second else None,
        truncation=True,
        max_length=max_length,
    )
    kept = [name for name in ("input_ids", "token_type_ids") if name in encoded]
    items = [{name: encoded[name][row] for name in kept} for row in range(len(records))]
    if examples.target == "label":
        classes = {label: number for number, label in enumerate(examples.labels)}
        for item, record in zip(items, records, strict=True):
            item["labels"] = classes[record["label"]]
    elif examples.target == "score":
        for item, record in zip(items, records, strict=True):
            item["labels"] = float(record["score"])
    else:
        items = [item for item in items if len(item["input_ids"]) > 1]
    return Tokenized(items)
