import copy

import torch
from torch import nn

from evclip_ray.models.clip import load_clip
from evclip_ray.models.fold_batch_norm import fold_batch_norms
from evclip_ray.models.open_clip_models import build


def tower() -> nn.Module:
    """Return the image tower of `world-xs` with batch norms that change their input."""
    torch.manual_seed(0)
    visual: nn.Module = build("world-xs").visual.eval()
    for module in visual.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.running_var):
                nn.init.uniform_(tensor.data, 0.5, 2.0)
            for tensor in (module.bias, module.running_mean):
                nn.init.uniform_(tensor.data, -0.5, 0.5)
    return visual


def test_folded_tower_has_equal_features_and_gradients() -> None:
    visual = tower()
    folded = copy.deepcopy(visual)
    fold_batch_norms(folded)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    results = []
    for network in (visual, folded):
        images = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(1)).requires_grad_()
        features = network(images)
        features.square().sum().backward()
        results.append((features.detach(), images.grad))
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-5)


def test_world_towers_are_loaded_without_batch_norms() -> None:
    visual = load_clip("world-xs", "random").model.visual
    assert not any(isinstance(module, nn.BatchNorm2d) for module in visual.modules())
    assert not any(parameter.requires_grad for parameter in visual.parameters())
