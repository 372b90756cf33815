"""Graph of an export: crop and resize inside of it, and folded constants."""

import pytest
import torch
from torch import nn

from evclip_ray.data.transforms import crop_batch
from evclip_ray.data.video.view import ViewConfig
from evclip_ray.deploy.export_graph import ExportGraph, crop_side, fold_constants, in_half_precision, trace
from evclip_ray.models.batch import MethodOutput
from evclip_ray.models.methods.zero_shot import ZeroShotConfig
from evclip_ray.testing.cases import load_networks


@pytest.mark.parametrize(
    ("settings", "side"),
    [({}, 224), ({"short_side": 110}, 96), ({"height": 72, "width": 200}, 63)],
)
def test_crop_side_follows_the_short_side_of_the_view(settings, side):
    assert crop_side(ViewConfig(**settings)) == side


class Pixels(nn.Module):
    """Method that returns its pixels."""

    def __init__(self, frozen):
        super().__init__()
        self.frozen = frozen

    def forward(self, batch):
        return MethodOutput(batch.pixels)


@pytest.mark.parametrize("short_side", [72, 73, 200])
def test_pixels_in_the_graph_equal_those_of_crop_batch(short_side):
    view = ViewConfig(short_side=short_side)
    frames = torch.randint(0, 256, (2, 2, short_side, short_side, 3), dtype=torch.uint8)
    side = crop_side(view)
    start = (short_side - side) // 2
    crops = frames[:, :, start : start + side, start : start + side]
    pixels = ExportGraph(Pixels(load_networks()), view=view)(crops)
    torch.testing.assert_close(pixels, crop_batch(frames, size=64), atol=2e-6, rtol=0)


class Masked(nn.Module):
    """Sum of an input, a parameter and a constant that is computed in place."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))
        self.unused = nn.Linear(4, 1000)

    def forward(self, x):
        mask = torch.zeros(4)
        mask[1:3] = 5
        return x + self.weight + mask * 2


def test_fold_constants_keeps_values_and_drops_unused_parameters():
    x = torch.rand(3, 4)
    program = torch.export.export(Masked(), (x,)).run_decompositions({})
    module = program.module(check_guards=False)
    before = module(x)
    fold_constants(module)
    assert torch.equal(module(x), before)
    assert [name for name, _ in module.named_parameters()] == ["weight"]
    operations = [node.target.__name__ for node in module.graph.nodes if node.op == "call_function"]
    assert "slice_scatter.default" not in operations
    assert len(operations) <= 4


def test_trace_drops_the_text_tower_and_paths_of_this_machine():
    frozen = load_networks()
    method = ZeroShotConfig().build(frozen, class_names=["walk", "run"], num_frames=2, image_size=64).eval()
    view = ViewConfig(num_frames=2, short_side=73)
    program = trace(ExportGraph(method, view=view), torch.zeros(2, 2, 64, 64, 3, dtype=torch.uint8))
    assert all(name.startswith("clip.model.visual.") for name in program.state_dict)
    assert all("stack_trace" not in node.meta for node in program.graph.nodes)
    frames = torch.randint(0, 256, (3, 2, 64, 64, 3), dtype=torch.uint8)
    expected = ExportGraph(method, view=view)(frames)
    for count in (1, 3):
        torch.testing.assert_close(program.module()(frames[:count]), expected[:count], atol=1e-4, rtol=0)


def test_half_precision_is_a_copy_with_float32_trained_tensors():
    from evclip_ray.models.methods.linear_probe import LinearProbeConfig

    frozen = load_networks()
    method = LinearProbeConfig().build(frozen, class_names=["walk", "run"], num_frames=2, image_size=64)
    half = in_half_precision(method)
    assert half.frozen.clip.dtype == torch.float16
    assert frozen.clip.dtype == torch.float32
    assert half.classifier.weight.dtype == torch.float32
