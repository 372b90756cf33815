"""Towers, and a small layer without a test file: gather."""

import copy
from collections.abc import Callable
from typing import Any

import open_clip
import pytest
import torch
from torch import Tensor

from evclip_ray.config import ConfigError
from evclip_ray.models.clip import FrozenCLIP
from evclip_ray.models.layers.gather import gather_rows
from evclip_ray.models.layers.towers import Block, ImageTower, TextTower, attention_branch, mlp_branch

VISION = {"image_size": 32, "patch_size": 16, "width": 64, "layers": 2, "head_width": 32}
TEXT = {"context_length": 12, "vocab_size": 100, "width": 32, "heads": 2, "layers": 2}
# A text tower in SigLIP's manner: no order, no start, the last token, a projection with a bias.
SIGLIP_TEXT = {**TEXT, "no_causal_mask": True, "proj_bias": True, "pool_type": "last"}
SCALED = {"ls_init_value": 0.3}


def plain(_index: int, block: Block, tokens: Tensor) -> Tensor:
    tokens = tokens + attention_branch(block, tokens)
    return tokens + mlp_branch(block, tokens)


@pytest.mark.parametrize("vision", [VISION, {**VISION, **SCALED}, {**VISION, "final_ln_after_pool": True}])
def test_image_tower_equals_the_model(vision: dict[str, Any]) -> None:
    model = open_clip.CLIP(16, vision, TEXT).eval()
    tower = ImageTower(model.visual, name="tiny", method="ours")
    images = torch.randn(2, 3, 3, 32, 32)
    frames = tower.project(tower.encode(images, plain))
    expected = model.encode_image(images.flatten(0, 1)).unflatten(0, (2, 3))
    assert (tower.width, tower.depth) == (64, 2)
    assert torch.equal(frames, expected)


@pytest.mark.parametrize("text", [TEXT, {**TEXT, **SCALED}])
def test_text_tower_equals_the_model(text: dict[str, Any]) -> None:
    model = open_clip.CLIP(16, VISION, text).eval()
    assert_same_texts(model, step=None)
    tower = TextTower(model, name="tiny", method="ours")

    def step(_index: int, block: Block, words: Tensor) -> Tensor:
        words = words + tower.attention_branch(block, words)
        return words + mlp_branch(block, words)

    assert_same_texts(model, step=step)


def test_separate_text_tower_equals_the_model() -> None:
    assert_same_texts(open_clip.CustomTextCLIP(16, VISION, SIGLIP_TEXT).eval(), step=None)


def assert_same_texts(model: Any, step: Callable[[int, Any, Tensor], Tensor] | None) -> None:
    tower = TextTower(model, name="tiny", method="ours")
    tokens = torch.randint(1, 100, (4, 12))
    assert torch.equal(tower.encode(tower.embed(tokens), tokens, step), model.encode_text(tokens))


def test_additions_act_as_changed_projections() -> None:
    model = open_clip.CLIP(16, VISION, TEXT).eval()
    block, tokens = model.visual.transformer.resblocks[0], torch.randn(2, 5, 64)
    assert torch.equal(attention_branch(block, tokens, additions={}), attention_branch(block, tokens))
    additions = torch.nn.ModuleDict({name: torch.nn.Linear(64, 64) for name in ("q", "k", "v", "out")})
    added = attention_branch(block, tokens, additions=additions)
    state = {name: value.clone() for name, value in block.attn.state_dict().items()}
    changed = copy.deepcopy(block)
    with torch.no_grad():
        for row, name in enumerate(("q", "k", "v")):
            changed.attn.in_proj_weight[64 * row : 64 * (row + 1)] += additions[name].weight
            changed.attn.in_proj_bias[64 * row : 64 * (row + 1)] += additions[name].bias
        changed.attn.out_proj.weight += additions["out"].weight
        changed.attn.out_proj.bias += additions["out"].bias
    torch.testing.assert_close(added, attention_branch(changed, tokens), atol=1e-5, rtol=1e-4)
    assert all(torch.equal(value, state[name]) for name, value in block.attn.state_dict().items())
    with pytest.raises(ValueError, match=r"must be among .*got \['key'\]"):
        attention_branch(block, tokens, additions={"key": torch.nn.Identity()})


def test_unsupported_towers_are_refused(meta_clip: Callable[[str], FrozenCLIP]) -> None:
    refused = {
        "RN50": "has a ModifiedResNet",
        "EVA02-B-16": "has a TimmModel",
        "coca_ViT-B-32": "pools in another way",
    }
    for name, reason in refused.items():
        with pytest.raises(ConfigError, match=f"backbone {name} {reason}"):
            ImageTower(meta_clip(name).model.visual, name=name, method="ours")
    other_blocks = open_clip.CLIP(16, {**VISION, "qk_norm": True}, TEXT)
    with pytest.raises(ConfigError, match="backbone tiny has CustomResidualAttentionBlock"):
        ImageTower(other_blocks.visual, name="tiny", method="ours")
    with pytest.raises(ConfigError, match="has no such entrance"):
        TextTower(meta_clip("coca_ViT-B-32").model, name="coca_ViT-B-32", method="ours")


def test_gather_rows_without_workers_returns_the_rows() -> None:
    rows = torch.randn(3, 2)
    assert gather_rows(rows) is rows
