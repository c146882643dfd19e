"""Running statistics, computed again from all inputs at once."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from latprune.errors import DataError, NotFinite
from latprune.graph.shortcuts import Constant
from latprune.tuning.batchnorm import recalibrate


@pytest.fixture
def model() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=0.2), nn.Dropout(0.5), nn.Conv2d(4, 2, 1)
    ).train()


@pytest.fixture
def batches() -> list[tuple[Tensor, Tensor]]:
    return [(3 + 2 * torch.randn(4, 3, 8, 8), torch.zeros(4)) for _ in range(5)]


def norm_of(model: nn.Module) -> nn.BatchNorm2d:
    norm = model.get_submodule("1")
    assert isinstance(norm, nn.BatchNorm2d)
    return norm


def test_statistics_are_the_plain_average_over_batches(
    model: nn.Module, batches: list[tuple[Tensor, Tensor]]
) -> None:
    seen = [model.get_submodule("0")(images).detach() for images, _ in batches]
    used = recalibrate(model, batches)

    norm = norm_of(model)
    assert used == 20
    mean = torch.stack([x.mean(dim=(0, 2, 3)) for x in seen]).mean(0)
    variance = torch.stack([x.var(dim=(0, 2, 3)) for x in seen]).mean(0)
    torch.testing.assert_close(norm.running_mean, mean)
    torch.testing.assert_close(norm.running_var, variance)


def test_it_stops_once_enough_images_were_seen(
    model: nn.Module, batches: list[tuple[Tensor, Tensor]]
) -> None:
    assert recalibrate(model, batches, images=6) == 8


def test_weights_modes_and_momenta_stay(
    model: nn.Module, batches: list[tuple[Tensor, Tensor]]
) -> None:
    norm = norm_of(model)
    norm.eval()
    before = [parameter.clone() for parameter in model.parameters()]
    recalibrate(model, batches)

    assert norm.momentum == 0.2
    assert [m.training for m in model.children()] == [True, False, True, True]
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True))


def test_dropout_is_off_meanwhile(batches: list[tuple[Tensor, Tensor]]) -> None:
    after_dropout = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm2d(3))
    recalibrate(after_dropout.train(), batches)

    mean = torch.cat([images for images, _ in batches]).mean(dim=(0, 2, 3))
    torch.testing.assert_close(after_dropout.get_buffer("1.running_mean"), mean)


def test_a_model_without_batch_norms_needs_no_images() -> None:
    assert recalibrate(nn.Linear(2, 2), []) == 0


def test_no_images_are_an_error_and_the_statistics_stay(model: nn.Module) -> None:
    norm_of(model)(torch.randn(2, 4, 3, 3))
    before = model.get_buffer("1.running_mean").clone()
    with pytest.raises(DataError, match="the loader gave none"):
        recalibrate(model, [])

    assert torch.equal(model.get_buffer("1.running_mean"), before)
    assert norm_of(model).momentum == 0.2


def test_a_last_batch_of_one_does_not_break_norms_over_single_pixels() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    images = [(torch.randn(n, 3), torch.zeros(n)) for n in (4, 1)]

    assert recalibrate(model, images) == 4


def test_a_single_image_for_norms_over_single_pixels_is_an_error_that_says_so() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))

    with pytest.raises(DataError, match="needs batches of two samples or more"):
        recalibrate(model, [torch.randn(1, 3)])


def test_a_picture_of_nan_leaves_its_batch_out(
    model: nn.Module, batches: list[tuple[Tensor, Tensor]]
) -> None:
    spoilt = batches[1][0].clone()
    spoilt[2, 0, 0, 0] = float("nan")

    assert recalibrate(model, [batches[0], (spoilt, torch.zeros(4)), *batches[2:]]) == 16
    found = norm_of(model).state_dict()
    recalibrate(model, [batches[0], *batches[2:]])
    assert all(
        torch.equal(found[name], value) for name, value in norm_of(model).state_dict().items()
    )


@pytest.mark.parametrize("finite", [0, 2])
def test_too_many_batches_of_nan_are_an_error_that_leaves_the_norms(
    model: nn.Module, batches: list[tuple[Tensor, Tensor]], finite: int
) -> None:
    recalibrate(model, batches)
    before = {name: value.clone() for name, value in norm_of(model).state_dict().items()}
    spoilt = [(images * float("nan"), labels) for images, labels in batches[finite:]]

    with pytest.raises(NotFinite, match="statistics of batch norms"):
        recalibrate(model, batches[:finite] + spoilt, max_skips=2)

    after = norm_of(model).state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_pictures_that_come_one_by_one_all_count() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    images = torch.randn(64, 3) * torch.linspace(0.1, 3, 64)[:, None]

    assert recalibrate(model, torch.split(images, 1)) == 64
    of_ones = model.get_buffer("1.running_var").clone()
    recalibrate(model, torch.split(images, 32))

    assert torch.equal(model.get_buffer("1.running_var"), of_ones)


def test_removed_branches_settle_with_the_norms_or_not_at_all(model: nn.Module) -> None:
    branch = Constant(torch.ones(2, 1, 1), torch.full((2, 1, 1), 0.25))
    both, images = nn.Sequential(model, branch).eval(), torch.randn(4, 3, 8, 8)

    for broken, error in (([], DataError), ([images * float("nan")] * 5, NotFinite)):
        with pytest.raises(error):
            recalibrate(both, broken)
        assert torch.equal(branch.drift, torch.full((2, 1, 1), 0.25))

    recalibrate(both, [images])
    assert not branch.drift.any()
