"""Losses against their formulas, and GoogLeNet's extra heads."""

from __future__ import annotations

import pytest
import torch

from latprune.distances import distillation
from latprune.outputs import main_output
from latprune.tasks import load_model
from latprune.tuning.losses import cross_entropy

LOGITS, OTHERS = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(1)).unbind()
LABELS = torch.tensor([0, 3, 1, 1, 2])


def log_probabilities(logits: torch.Tensor) -> torch.Tensor:
    return logits - logits.exp().sum(1, keepdim=True).log()


def test_cross_entropy_with_smoothing_follows_its_formula() -> None:
    target = torch.full((5, 4), 0.2 / 4)
    target[torch.arange(5), LABELS] += 0.8
    expected = -(target * log_probabilities(LOGITS)).sum(1).mean()

    torch.testing.assert_close(cross_entropy(LOGITS, LABELS, label_smoothing=0.2), expected)


def test_distillation_follows_its_formula() -> None:
    p, q = log_probabilities(OTHERS / 3), log_probabilities(LOGITS / 3)
    expected = 9 * (p.exp() * (p - q)).sum(1).mean()

    torch.testing.assert_close(distillation(LOGITS, OTHERS, temperature=3.0), expected)


def test_a_network_that_agrees_with_its_teacher_has_nothing_to_learn() -> None:
    assert distillation(LOGITS, LOGITS + 5, temperature=2.0).item() == pytest.approx(0, abs=1e-6)


def test_a_teacher_with_other_outputs_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\[5, 3\] where the network gives \[5, 4\]"):
        distillation(LOGITS, LOGITS[:, :3], temperature=1.0)


def test_auxiliary_heads_count_three_tenths() -> None:
    main, auxiliary = cross_entropy(LOGITS, LABELS), cross_entropy(OTHERS, LABELS)

    together = cross_entropy((LOGITS, OTHERS, None), LABELS)
    torch.testing.assert_close(together, main + 0.3 * auxiliary)


def test_half_precision_logits_give_a_full_precision_loss() -> None:
    assert cross_entropy(LOGITS.bfloat16(), LABELS).dtype == torch.float32


def test_googlenets_heads_all_receive_gradients() -> None:
    model = load_model("torchvision:googlenet", num_classes=4)
    outputs = model(torch.randn(2, 3, 64, 64))
    torch.autograd.backward([cross_entropy(outputs, LABELS[:2])])

    assert main_output(outputs) is outputs[0]
    for head in ("fc", "aux1.fc2", "aux2.fc2"):
        gradient = model.get_parameter(f"{head}.weight").grad
        assert gradient is not None
        assert gradient.abs().sum() > 0


def test_the_logits_of_a_dict_are_what_counts() -> None:
    class Outputs(dict[str, torch.Tensor]):
        """As transformers' networks give them, beside other things."""

    outputs = Outputs(hidden=OTHERS, logits=LOGITS)

    torch.testing.assert_close(cross_entropy(outputs, LABELS), cross_entropy(LOGITS, LABELS))
    torch.testing.assert_close(
        distillation(outputs, {"logits": OTHERS}, temperature=2.0),
        distillation(LOGITS, OTHERS, temperature=2.0),
    )


def test_a_dict_without_logits_needs_a_loss_of_its_own() -> None:
    with pytest.raises(ValueError, match="a dict of out, aux without logits"):
        cross_entropy({"out": LOGITS, "aux": OTHERS}, LABELS)
