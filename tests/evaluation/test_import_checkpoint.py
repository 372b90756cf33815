import json

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from evclip_ray.cli import main

LEVEL = "image_prompt_learner.dec."


@pytest.fixture(scope="module")
def published_mask(shared, tmp_path_factory):
    """Write a published model file of the mask variant, as Dassl does."""
    state = load_file(shared / "oracle" / "evclip_tiny_vit_state.safetensors")
    mask = {}
    for name, tensor in state.items():
        if name.startswith(f"{LEVEL}dec_t."):
            continue
        mask[name.replace(f"{LEVEL}dec_s.", LEVEL)] = tensor
    path = tmp_path_factory.mktemp("published") / "model-best.pth.tar"
    torch.save({"state_dict": mask, "epoch": 495, "val_result": 71.2}, path)
    return path


def call(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def test_published_file_becomes_an_evaluable_checkpoint(
    published_mask, tiny_manifest, tiny_cache, tmp_path, local_ray
):
    out = tmp_path / "published"
    debug = ("--set", "backbone.name=debug", "--set", "backbone.pretrained=random")
    result = call(
        "import-checkpoint",
        published_mask,
        "--data",
        tiny_manifest,
        "--out",
        out,
        "--cache",
        tiny_cache,
        *debug,
    )
    assert result.exit_code == 0, result.output
    assert "mask prompts" in result.output
    record = json.loads((out / "config.json").read_text())
    assert record["experiment"]["method"]["normalization"] == "imagenet"
    assert record["experiment"]["view"]["sampling"] == "window"
    assert len(record["source"]["sha256"]) == 16
    trained = load_file(out / "adapter.safetensors")
    original = torch.load(published_mask, weights_only=True)["state_dict"]
    assert torch.equal(trained["mask_generator.sharpness"], original[f"{LEVEL}logit_scale"])
    scored = call("evaluate", out, "--split", "val", "--cache", tiny_cache, "--out", tmp_path / "scores")
    assert scored.exit_code == 0, scored.output
    assert "over 6 videos" in scored.output


def test_unknown_towers_need_a_backbone_name(published_mask, tiny_manifest, tmp_path):
    result = call("import-checkpoint", published_mask, "--data", tiny_manifest, "--out", tmp_path / "x")
    assert result.exit_code == 1
    assert "Name it, for example --set backbone.name=ViT-B-16" in result.output


def test_wrong_number_of_frames_is_refused(published_mask, tiny_manifest, tmp_path):
    settings = ("backbone.name=debug", "backbone.pretrained=random", "view.num_frames=16")
    options = [word for setting in settings for word in ("--set", setting)]
    result = call(
        "import-checkpoint", published_mask, "--data", tiny_manifest, "--out", tmp_path / "x", *options
    )
    assert result.exit_code == 1
    assert "do not fit the settings" in result.output
    assert "squeeze" in result.output


class Harmful:
    def __reduce__(self):
        return print, ("this must never run",)


def test_pickle_with_code_is_refused_unread(tiny_manifest, tmp_path, capsys):
    path = tmp_path / "model.pth"
    torch.save({"state_dict": Harmful()}, path)
    result = call("import-checkpoint", path, "--data", tiny_manifest, "--out", tmp_path / "x")
    assert result.exit_code == 1
    assert "cannot be read as a safetensors file or a state dict of plain tensors" in result.output
    assert "never run" not in result.output + capsys.readouterr().out
