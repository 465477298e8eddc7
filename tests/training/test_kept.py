"""The copy of the training state that is kept in memory."""

from __future__ import annotations

import torch

from loralab.training.kept import Kept


def test_a_copy_is_of_its_time_and_the_next_is_in_the_same_memory() -> None:
    weight, counts = torch.arange(6.0).view(2, 3), [1]
    state = {"weights": {"a": weight, "again": weight}, "steps": (torch.tensor(1), counts), 3: None}
    kept = Kept()
    first = kept.copy(state)
    weight += 1
    counts.append(2)
    assert first["weights"]["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert first["weights"]["again"] is first["weights"]["a"]
    assert first["steps"][1] == [1]
    second = kept.copy(state)
    assert second["weights"]["a"].data_ptr() == first["weights"]["a"].data_ptr()
    assert torch.equal(second["weights"]["a"], weight)
    assert second["steps"][1] == [1, 2]
    assert second[3] is None


def test_tensors_that_change_their_form_or_have_attributes_are_copied_too() -> None:
    kept = Kept()
    kept.copy({"a": torch.zeros(2)})
    marked = torch.ones(3)
    marked.is_paged = True  # type: ignore[attr-defined]
    copied = kept.copy({"a": torch.zeros(4, dtype=torch.int64), "b": marked})
    assert copied["a"].shape == (4,)
    assert copied["b"].is_paged
    assert copied["b"] is not marked
