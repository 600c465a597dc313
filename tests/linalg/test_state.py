"""The state of tensors: equal as long as none was edited."""

import pytest
import torch

from fullrank.linalg import state_of


def test_a_state_stays_as_long_as_nothing_is_edited() -> None:
    first, second = torch.ones(2, 3), torch.ones(4)
    before = state_of(first, second)
    first @ first.mT + second.sum()
    assert before == state_of(first, second) is not None


@pytest.mark.parametrize(
    "edit",
    [
        lambda weight: weight.mul_(2),
        lambda weight: weight[0].zero_(),
        lambda weight: weight.copy_(torch.zeros(3)),
        lambda weight: setattr(weight, "data", torch.zeros(3)),
        lambda weight: setattr(weight, "data", weight.data.double()),
    ],
    ids=["in place", "through a view", "copied to", "other data", "another dtype"],
)
def test_an_edit_changes_the_state(edit) -> None:
    weight, other = torch.ones(3), torch.ones(3)
    before = state_of(weight, other)
    edit(weight)
    assert state_of(weight, other) != before


def test_tensors_of_inference_mode_have_no_state() -> None:
    with torch.inference_mode():
        weight = torch.ones(3)
    assert state_of(torch.ones(3), weight) is None
