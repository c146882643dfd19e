"""Pictures become inputs by the numbers that the weights were trained with."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from torchvision import models
from torchvision.models import ResNet18_Weights

from latprune.tasks.models import load_model
from latprune.tasks.preprocessing import Preprocessing, preprocessing_for


@pytest.fixture
def picture() -> Image.Image:
    pixels = torch.randint(256, (40, 60, 3), dtype=torch.uint8)
    return Image.fromarray(pixels.numpy()).resize((300, 260))


def test_evaluation_equals_torchvisions_own_transform(picture: Image.Image) -> None:
    ours = preprocessing_for("torchvision:resnet18", torch.nn.Identity()).evaluation()(picture)
    theirs = ResNet18_Weights.IMAGENET1K_V1.transforms()(picture)

    torch.testing.assert_close(ours, theirs)


def test_a_picture_of_the_right_size_is_only_normalised(picture: Image.Image) -> None:
    wanted = Preprocessing(size=(260, 300), mean=(0.5,) * 3, std=(0.25,) * 3, crop_pct=1.0)
    seen = wanted.evaluation()(picture)
    pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)

    expected = (pixels.view(260, 300, 3).permute(2, 0, 1) / 255 - 0.5) / 0.25
    torch.testing.assert_close(seen, expected)


@pytest.mark.parametrize("policy", [None, "rand-m9-mstd0.5"])
def test_a_network_of_one_channel_sees_pictures_in_grey(
    picture: Image.Image, policy: str | None
) -> None:
    wanted = Preprocessing(size=(260, 300), crop_pct=1.0).in_grey()
    grey = torch.frombuffer(bytearray(picture.convert("L").tobytes()), dtype=torch.uint8)

    expected = (grey.view(1, 260, 300) / 255 - 0.449) / 0.226
    torch.testing.assert_close(wanted.evaluation()(picture), expected)
    assert wanted.training(auto_augment=policy)(picture).shape == (1, 260, 300)


def test_training_pictures_vary_and_have_the_right_size(picture: Image.Image) -> None:
    transform = Preprocessing(size=(32, 24)).training(scale=(0.2, 1.0))
    first, second = transform(picture), transform(picture)

    assert first.shape == second.shape == (3, 32, 24)
    assert not torch.equal(first, second)


def test_a_timm_model_brings_its_own_numbers() -> None:
    spec = "timm:tf_efficientnet_lite0"
    found = preprocessing_for(spec, load_model(spec))

    assert found == Preprocessing(
        (224, 224), (0.5,) * 3, (0.5,) * 3, crop_pct=0.875, interpolation="bicubic"
    )


def test_a_torchvision_model_brings_its_published_size() -> None:
    found = preprocessing_for("torchvision:inception_v3", torch.nn.Identity())

    assert (found.size, found.crop_pct) == ((299, 299), 299 / 342)


@pytest.mark.parametrize("name", ["resnet50", "mobilenet_v2", "efficientnet_b1", "vit_b_16"])
def test_pictures_are_prepared_for_the_weights_that_are_fetched(
    name: str, picture: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[str] = []

    def fetch(_: str, weights: str) -> torch.nn.Module:
        fetched.append(weights)
        return torch.nn.Identity()

    monkeypatch.setattr(models, "get_model", fetch)
    model = load_model(f"torchvision:{name}", pretrained=True)

    ours = preprocessing_for(f"torchvision:{name}", model, pretrained=True).evaluation()(picture)

    theirs = models.get_model_weights(name)[fetched[0]].transforms()(picture)
    torch.testing.assert_close(ours, theirs)


def test_a_factory_gets_imagenets_numbers() -> None:
    assert preprocessing_for("nets.py:small", torch.nn.Identity()) == Preprocessing()


@pytest.mark.parametrize("wrong", [{"size": (0, 8)}, {"crop_pct": 1.5}, {"std": (1.0, 0.0, 1.0)}])
def test_impossible_numbers_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"pixel|share|std"):
        Preprocessing(**wrong)  # type: ignore[arg-type]
