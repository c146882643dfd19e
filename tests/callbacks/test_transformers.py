"""Hugging Face's Trainer prunes as a plain loop does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import latprune as lp
from tests.gradual.training import batch, measured, network, train

if TYPE_CHECKING:
    from pathlib import Path

transformers: Any = pytest.importorskip("transformers")
pytest.importorskip("accelerate")
pytestmark = pytest.mark.filterwarnings("ignore")  # transformers' own


def forward(self: nn.Module, x: Tensor, labels: Tensor | None = None) -> Any:
    logits = type(network()).forward(self, x)  # type: ignore[arg-type]
    return logits if labels is None else {"loss": F.cross_entropy(logits, labels)}


def test_the_callback_prunes_as_a_plain_loop_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from latprune.callbacks.transformers import PruneInSteps

    learner = network()
    graph, table = measured(learner, tmp_path)
    learner.forward = forward.__get__(learner)  # type: ignore[method-assign]
    callback = PruneInSteps(graph, table, "50%", every=2, steps=3)
    pictures = [
        {"x": image, "labels": label}
        for number in range(8)
        for image, label in zip(*batch(number), strict=True)
    ]
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=6,
        num_train_epochs=1,
        max_grad_norm=0.0,
        lr_scheduler_type="constant",
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = transformers.Trainer(
        learner,
        arguments,
        train_dataset=pictures,
        callbacks=[callback],
        optimizers=(torch.optim.SGD(learner.parameters(), lr=0.05, momentum=0.9), None),
    )
    monkeypatch.setattr(
        trainer, "_get_train_sampler", lambda *_: torch.utils.data.SequentialSampler(pictures)
    )
    trainer.train()

    model = network()
    graph, table = measured(model, tmp_path)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    pruning = lp.prune_in_steps(model, graph, table, "50%", optimizer=optimizer, every=2, steps=3)
    train(model, optimizer, pruning, range(8))

    assert callback.pruning is not None
    assert callback.pruning.plan == pruning.plan
    ours = learner.state_dict()
    assert all(torch.equal(value, ours[name]) for name, value in model.state_dict().items())
