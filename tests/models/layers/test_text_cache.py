from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from evclip_ray.models.layers.text_cache import TextFeatureCache


def test_text_features_are_cached_until_a_change() -> None:
    parameter, calls, memo = nn.Parameter(torch.ones(2)), [], TextFeatureCache()

    def encode() -> Tensor:
        calls.append(torch.is_autocast_enabled("cpu"))
        return parameter * 2

    memo([parameter], encode)
    assert len(calls) == 1
    with torch.no_grad():
        memo([parameter], encode)
        memo([parameter], encode)
        assert len(calls) == 2
        with torch.autocast("cpu", dtype=torch.bfloat16):
            memo([parameter], encode)
        assert calls == [False, False, True]
        parameter.mul_(3)
        assert torch.equal(memo([parameter], encode), parameter * 2)


def step(**options: bool) -> Callable[[nn.Parameter], None]:
    def update(parameter: nn.Parameter) -> None:
        parameter.grad = torch.ones_like(parameter)
        torch.optim.AdamW([parameter], lr=0.1, **options).step()

    return update


def scale_data(parameter: nn.Parameter) -> None:
    parameter.data.mul_(2)


def swap_data(parameter: nn.Parameter) -> None:
    parameter.data = parameter.data + 1


def write_through_numpy(parameter: nn.Parameter) -> None:
    parameter.detach().numpy()[0] = 7


@pytest.mark.parametrize(
    "update",
    [
        pytest.param(step(fused=True), id="fused"),
        pytest.param(step(foreach=True), id="foreach"),
        scale_data,
        swap_data,
        write_through_numpy,
    ],
)
def test_every_kind_of_update_is_noticed(update: Callable[[nn.Parameter], None]) -> None:
    parameter, cache = nn.Parameter(torch.ones(2)), TextFeatureCache()
    with torch.no_grad():
        before = cache([parameter], lambda: parameter * 2)
        update(parameter)
        after = cache([parameter], lambda: parameter * 2)
    assert not torch.equal(after, before)
    assert torch.equal(after, parameter * 2)


def test_equal_values_at_another_address_hit_the_cache() -> None:
    parameter, cache = nn.Parameter(torch.ones(2)), TextFeatureCache()
    with torch.no_grad():
        before = cache([parameter], lambda: parameter * 2)
        parameter.data = parameter.data.clone()
        assert cache([parameter], lambda: parameter * 2) is before


def test_another_number_format_is_noticed() -> None:
    parameter, cache = nn.Parameter(torch.ones(2)), TextFeatureCache()
    with torch.no_grad():
        assert cache([parameter], lambda: parameter * 2).dtype == torch.float32
        parameter.data = parameter.data.half()
        assert cache([parameter], lambda: parameter * 2).dtype == torch.float16
