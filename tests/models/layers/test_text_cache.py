from collections.abc import Callable

import pytest
import torch
from host_reads import HostReads
from torch import Tensor, nn

from evclip_ray.models.layers.text_cache import TextFeatureCache, fixed_parameters


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


def test_fixed_parameters_are_compared_once() -> None:
    parameter, cache = nn.Parameter(torch.ones(2)), TextFeatureCache()
    with torch.no_grad():
        cache([parameter], lambda: parameter * 2)
        parameter.data.mul_(2)
        with fixed_parameters(), HostReads() as reads:
            first = cache([parameter], lambda: parameter * 2)
            assert cache([parameter], lambda: parameter * 2) is first
        assert reads.count == 1
        assert torch.equal(first, torch.full((2,), 4.0))
        parameter.data.mul_(2)
        for _ in range(2):
            with fixed_parameters():
                assert torch.equal(cache([parameter], lambda: parameter * 2), torch.full((2,), 8.0))
