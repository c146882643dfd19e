"""A cut network comes back from its file bit by bit, or says why not."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

import latprune as lp
from latprune.graph.verifying import random_kept
from latprune.surgery import load_notes, load_plan
from tests import networks

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

EXAMPLE = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(1))


def a_plan(graph: lp.PruningGraph, *, seed: int = 0) -> lp.Plan:
    kept = random_kept(graph.groups, share=0.4, seed=seed, ties=graph.ties)
    return lp.Plan(
        kept={name: tuple(channels) for name, channels in kept.items()},
        target=lp.Target(device="a device", runtime="onnxruntime", runtime_version="1.0"),
        budget=lp.Budget(fraction=0.6),
        budget_ms=6.0,
        baseline_ms=10.0,
        rest_ms=0.1,
        predicted_ms=5.9,
        value=0.1 + 0.2,
        bound=0.31,
        dense_value=1.0,
        solver="joint",
        criterion="taylor",
    )


@pytest.mark.parametrize("network", networks.EVERY)
def test_a_saved_network_comes_back_bit_by_bit(network: type[nn.Module], tmp_path: Path) -> None:
    model = network().eval()
    graph = lp.trace(model, EXAMPLE)
    plan = a_plan(graph)
    small = lp.cut(model, graph, plan)
    lp.save(small, tmp_path / "small.safetensors", graph=graph, plan=plan, notes={"top1": 0.5})

    again = lp.load(tmp_path / "small.safetensors", network().eval())

    assert load_plan(tmp_path / "small.safetensors") == plan
    assert load_notes(tmp_path / "small.safetensors") == {"top1": 0.5}
    assert [m.extra_repr() for m in again.modules()] == [m.extra_repr() for m in small.modules()]
    expected, found = small.state_dict(), again.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert torch.equal(small(EXAMPLE), again(EXAMPLE))


class Centred(networks.Plain):
    """Holds a tensor that no file does."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("centre", torch.full((1, 3, 1, 1), 0.3), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        centre: torch.Tensor = self.get_buffer("centre")
        return super().forward(x - centre.to(x))


@pytest.mark.parametrize("parts", [[""], ["first"]])
@pytest.mark.parametrize("into", [torch.float16, torch.float64])
def test_a_network_comes_back_in_its_own_precision(
    parts: list[str], into: torch.dtype, tmp_path: Path
) -> None:
    model = Centred().eval()
    graph = lp.trace(model, EXAMPLE)
    plan = a_plan(graph)
    small = lp.cut(model, graph, plan)
    lp.save(small, tmp_path / "small.safetensors", graph=graph, plan=plan)
    fresh = Centred().eval()
    for part in parts:
        fresh.get_submodule(part).to(into)

    again = lp.load(tmp_path / "small.safetensors", fresh)

    expected, found = small.state_dict(), again.state_dict()
    assert all(found[name].dtype == expected[name].dtype for name in expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert again.get_buffer("centre").dtype == torch.float32


def test_cutting_leaves_the_dense_network_alone() -> None:
    model = networks.Residual().eval()
    graph = lp.trace(model, EXAMPLE)
    before = model(EXAMPLE)

    small = lp.cut(model, graph, a_plan(graph))

    assert torch.equal(model(EXAMPLE), before)
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())


def test_a_network_that_lies_channels_last_still_does_once_it_is_cut() -> None:
    model = networks.Residual().to(memory_format=torch.channels_last)
    graph = lp.trace(model, EXAMPLE)

    small = lp.cut(model, graph, a_plan(graph))

    weights = [weight for weight in small.parameters() if weight.dim() == 4]
    assert all(w.is_contiguous(memory_format=torch.channels_last) for w in weights)


class Scaled(nn.Module):
    """Keeps its scale, a number per channel, from one evaluation to the next, as timm's LeViT."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)
        self.scale = nn.Parameter(torch.linspace(0.5, 1.5, 8))
        self.kept: torch.Tensor | None = None

    def train(self, mode: bool = True) -> Scaled:
        if mode:
            self.kept = None
        return super().train(mode)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = self.scale.view(1, -1, 1, 1).exp() if self.kept is None else self.kept
        if not self.training:
            self.kept = scale
        outputs: torch.Tensor = self.last(self.first(x) * scale)
        return outputs


@pytest.mark.parametrize("grad", [True, False])
def test_what_was_kept_of_the_dense_network_is_not_used_by_the_small_one(
    grad: bool, tmp_path: Path
) -> None:
    model, example = Scaled().eval(), torch.randn(1, 3, 4, 4)
    with torch.set_grad_enabled(grad):
        model(example)

    graph = lp.trace(model, example)
    plan = a_plan(graph)
    small = lp.cut(model, graph, plan)
    lp.save(small, tmp_path / "small.safetensors", graph=graph, plan=plan)
    again = lp.load(tmp_path / "small.safetensors", model)

    (width,) = plan.widths.values()
    assert width < 8
    assert [len(m.scale) for m in (small, again)] == [width, width]  # type: ignore[arg-type]
    assert torch.equal(small(example), again(example))


def test_modules_say_what_they_became() -> None:
    model = networks.Depthwise()
    graph = lp.trace(model, EXAMPLE)
    plan = a_plan(graph)
    small = lp.cut(model, graph, plan)

    width = plan.widths["expand.0"]
    depth = small.get_submodule("depth.0")
    assert [depth.in_channels, depth.out_channels, depth.groups] == [width] * 3
    assert small.get_submodule("expand.1").num_features == width
    assert small.get_submodule("head.2").in_features == width


def test_shared_weights_stay_shared_through_a_file(tmp_path: Path) -> None:
    def build() -> nn.Module:
        model = networks.Residual()
        model.register_module("again", model.inner)
        return model.eval()

    model = build()
    graph = lp.trace(model, EXAMPLE)
    plan = a_plan(graph)
    lp.save(lp.cut(model, graph, plan), tmp_path / "x.safetensors", graph=graph, plan=plan)

    again = lp.load(tmp_path / "x.safetensors", build())

    assert again.get_submodule("again") is again.get_submodule("inner")


def test_a_network_cut_before_is_refused() -> None:
    model = networks.Plain()
    graph = lp.trace(model, EXAMPLE)
    plan = a_plan(graph)

    with pytest.raises(lp.ModelMismatch, match="cut before"):
        lp.cut(lp.cut(model, graph, plan), graph, plan)


@pytest.mark.parametrize("width", [12, 4])
def test_a_network_of_another_width_is_refused(width: int) -> None:
    graph = lp.trace(networks.Plain(), EXAMPLE)

    with pytest.raises(lp.ModelMismatch, match="another model"):
        lp.cut(networks.Plain(width=width), graph, a_plan(graph))


@pytest.mark.parametrize("kept", [(8, 9), (-1, 0), (0, 0, 1), (2, 1)])
def test_a_plan_that_keeps_no_channels_of_the_graph_is_refused(kept: tuple[int, ...]) -> None:
    model = networks.Plain()
    graph = lp.trace(model, EXAMPLE)
    plan = a_plan(graph)
    wrong = replace(plan, kept={**plan.kept, "first.0": kept})

    with pytest.raises(lp.ModelMismatch, match="some of the 8 channels of first"):
        lp.cut(model, graph, wrong)


def test_files_that_do_not_know_the_sizes_of_axes_still_load(tmp_path: Path) -> None:
    model = networks.Plain()
    graph = lp.trace(model, EXAMPLE)
    groups = tuple(
        replace(group, members=tuple(replace(member, size=None) for member in group.members))
        for group in graph.groups
    )
    older = replace(graph, groups=groups)
    small = lp.cut(model, older, a_plan(older))
    lp.save(small, tmp_path / "x.safetensors", graph=older, plan=a_plan(older))

    assert torch.equal(lp.load(tmp_path / "x.safetensors", model)(EXAMPLE), small(EXAMPLE))


def test_a_plan_for_another_graph_is_refused() -> None:
    plan = a_plan(lp.trace(networks.Plain(), EXAMPLE))
    model = networks.Residual()

    with pytest.raises(lp.ModelMismatch, match="another network"):
        lp.cut(model, lp.trace(model, EXAMPLE), plan)


def test_a_file_does_not_load_into_another_network(tmp_path: Path) -> None:
    model = networks.Plain()
    graph = lp.trace(model, EXAMPLE)
    plan = a_plan(graph)
    lp.save(lp.cut(model, graph, plan), tmp_path / "x.safetensors", graph=graph, plan=plan)

    with pytest.raises(lp.ModelMismatch):
        lp.load(tmp_path / "x.safetensors", networks.Residual())
    with pytest.raises(lp.ModelMismatch):
        lp.load(tmp_path / "x.safetensors", networks.Plain(width=12))


def test_a_model_on_the_meta_device_is_refused(tmp_path: Path) -> None:
    model = networks.Plain()
    graph = lp.trace(model, EXAMPLE)
    plan = a_plan(graph)
    lp.save(lp.cut(model, graph, plan), tmp_path / "small.safetensors", graph=graph, plan=plan)
    with torch.device("meta"):
        hollow = networks.Plain()

    with pytest.raises(lp.ModelMismatch, match="meta device"):
        lp.load(tmp_path / "small.safetensors", hollow)


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(lp.DamagedFile, match="no such file"):
        lp.load(tmp_path / "none.safetensors", networks.Plain())


def test_a_torn_file_says_so(tmp_path: Path) -> None:
    model = networks.Plain()
    graph = lp.trace(model, EXAMPLE)
    plan = a_plan(graph)
    path = tmp_path / "x.safetensors"
    lp.save(lp.cut(model, graph, plan), path, graph=graph, plan=plan)
    path.write_bytes(path.read_bytes()[:-100])

    with pytest.raises(lp.DamagedFile, match="damaged"):
        lp.load(path, networks.Plain())


def test_a_file_without_a_plan_says_so(tmp_path: Path) -> None:
    save_file({"w": torch.zeros(2)}, tmp_path / "plain.safetensors")

    with pytest.raises(lp.DamagedFile, match="no plan"):
        lp.load(tmp_path / "plain.safetensors", networks.Plain())


class Versioned(networks.Plain):
    """Refuses weights that do not say by which version of it they were written, as MNASNet does."""

    _version = 2

    def _load_from_state_dict(
        self, state: dict[str, Any], prefix: str, metadata: dict[str, Any], *others: Any
    ) -> None:
        if metadata.get("version") != 2:
            raise ValueError("unknown version")
        super()._load_from_state_dict(state, prefix, metadata, *others)


class Renaming(networks.Plain):
    """Writes its state under other names, in a dict that knows no versions."""

    def state_dict(self, *_: Any, **__: Any) -> Any:
        return {f"net.{name}": tensor for name, tensor in super().state_dict().items()}

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        own = {name.removeprefix("net."): tensor for name, tensor in state_dict.items()}
        return super().load_state_dict(own, strict, assign)


@pytest.mark.parametrize("build", [Versioned, Renaming])
def test_a_network_with_a_state_of_its_own_comes_back(
    build: Callable[[], nn.Module], tmp_path: Path
) -> None:
    model = build().eval()
    graph = lp.trace(model, EXAMPLE)
    plan = a_plan(graph)
    small = lp.cut(model, graph, plan)
    lp.save(small, tmp_path / "small.safetensors", graph=graph, plan=plan)

    again = lp.load(tmp_path / "small.safetensors", build().eval())

    assert torch.equal(small(EXAMPLE), again(EXAMPLE))


def averaging(model: nn.Module) -> nn.Module:
    return AveragedModel(model)


@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel, averaging, nn.Sequential])
def test_a_network_that_is_wrapped_once_it_is_cut_is_saved_as_it_was_cut(
    wrap: Callable[[nn.Module], nn.Module], tmp_path: Path
) -> None:
    model = networks.Plain().eval()
    graph = lp.trace(model, EXAMPLE)
    plan = a_plan(graph)
    small = lp.cut(model, graph, plan)
    lp.save(wrap(small), tmp_path / "small.safetensors", graph=graph, plan=plan)

    again = lp.load(tmp_path / "small.safetensors", networks.Plain().eval())

    assert torch.equal(small(EXAMPLE), again(EXAMPLE))


@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel])
def test_a_network_that_was_traced_wrapped_comes_back_without(
    wrap: Callable[[nn.Module], nn.Module], tmp_path: Path
) -> None:
    model = networks.Plain().eval()
    dense = nn.DataParallel(wrap(model))
    graph = lp.trace(dense, EXAMPLE)
    plan = a_plan(graph)
    small: Any = lp.cut(dense, graph, plan)
    lp.save(small, tmp_path / "small.safetensors", graph=graph, plan=plan)

    again = lp.load(tmp_path / "small.safetensors", networks.Plain().eval())

    assert isinstance(again, networks.Plain)
    assert again.state_dict().keys() == model.state_dict().keys()
    assert all(map(torch.equal, again.state_dict().values(), small.state_dict().values()))


def test_a_network_that_was_traced_as_it_is_comes_back_out_of_a_wrapped_one(tmp_path: Path) -> None:
    model = networks.Plain().eval()
    graph = lp.trace(model, EXAMPLE)
    plan = a_plan(graph)
    small = lp.cut(model, graph, plan)
    lp.save(small, tmp_path / "small.safetensors", graph=graph, plan=plan)

    again = lp.load(tmp_path / "small.safetensors", nn.DataParallel(networks.Plain().eval()))

    assert torch.equal(small(EXAMPLE), again(EXAMPLE))


def test_a_file_of_another_version_says_so(tmp_path: Path) -> None:
    metadata = {"format": "latprune-network", "version": "99", "plan": json.dumps({})}
    save_file({"w": torch.zeros(2)}, tmp_path / "new.safetensors", metadata=metadata)

    with pytest.raises(lp.DamagedFile, match="version 99"):
        lp.load(tmp_path / "new.safetensors", networks.Plain())


def test_a_save_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    model = networks.Plain()
    graph = lp.trace(model, EXAMPLE)
    plan = a_plan(graph)
    path = tmp_path / "x.safetensors"
    lp.save(lp.cut(model, graph, plan), path, graph=graph, plan=plan)
    before = path.read_bytes()

    with pytest.raises(TypeError):
        lp.save(model, path, graph=graph, plan=plan, notes={"x": object()})

    assert path.read_bytes() == before


@pytest.mark.parametrize("plan", [[], None, 3, {"kept": None}])
def test_a_plan_that_is_none_is_damage(tmp_path: Path, plan: object) -> None:
    file = tmp_path / "net.safetensors"
    graph = lp.trace(networks.EVERY[0](), EXAMPLE)
    stored = {**a_plan(graph).to_json(), **plan} if isinstance(plan, dict) else plan
    metadata = {"format": "latprune-network", "version": "4", "groups": "[]", "notes": "{}"}
    save_file({"weight": torch.zeros(1)}, file, metadata={**metadata, "plan": json.dumps(stored)})

    with pytest.raises(lp.DamagedFile, match="its plan cannot be read"):
        load_plan(file)
