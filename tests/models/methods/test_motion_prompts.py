import pytest
import torch
from torch import Tensor

from evclip_ray.config import ConfigError
from evclip_ray.models.batch import Frozen, VideoBatch
from evclip_ray.models.layers.motion_streams import differences
from evclip_ray.models.methods.motion_prompts import MotionPrompts, MotionPromptsConfig
from evclip_ray.models.methods.zero_shot import ZeroShotConfig

CLASSES = ("walk", "run", "wave", "clap", "open a door")
MODES = ("full", "late")


def built(frozen: Frozen, num_frames: int = 8, **settings: object) -> MotionPrompts:
    config = MotionPromptsConfig.load({"name": "motion_prompts", **settings})
    return config.build(frozen, class_names=CLASSES, num_frames=num_frames, image_size=64)


def opened(method: MotionPrompts) -> MotionPrompts:
    """Return the method with every gate open, as after training."""
    with torch.no_grad():
        for gate in method.gates.values():
            gate.fill_(0.5)
    return method


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("gradients", [False, True])
def test_closed_gates_give_zero_shot_logits_exactly(
    frozen: Frozen, batch: VideoBatch, mode: str, gradients: bool
) -> None:
    zero_shot = ZeroShotConfig().build(frozen, class_names=CLASSES, num_frames=8, image_size=64)
    method = built(frozen, mode=mode)
    with torch.set_grad_enabled(gradients):
        for chosen in (batch, VideoBatch(None, frame_features=torch.randn(4, 8, 64) * 10)):
            assert torch.equal(method(chosen).logits, zero_shot(chosen).logits)


def test_still_video_has_no_motion() -> None:
    still = torch.randn(2, 1, 16).expand(-1, 8, -1)
    for step in (1, 4, 7):
        assert not differences(still, step).any()
    assert not differences(torch.randn(2, 1, 16), 1).any()


def test_reversed_time_flips_the_sign_of_motion() -> None:
    frames = torch.randn(2, 8, 16)
    for step in (1, 3):
        forwards = differences(frames, step)[:, : 8 - step]
        backwards = differences(frames.flip(1), step)[:, : 8 - step]
        assert torch.equal(backwards, -forwards.flip(1))


def test_last_difference_is_repeated() -> None:
    frames = torch.tensor([0.0, 1.0, 4.0, 9.0]).view(1, 4, 1)
    assert differences(frames, 1).flatten().tolist() == [1, 3, 5, 5]
    assert differences(frames, 2).flatten().tolist() == [4, 8, 8, 8]
    assert differences(frames, 9).flatten().tolist() == [9, 9, 9, 9]


@pytest.mark.parametrize("mode", MODES)
def test_the_order_of_frames_changes_the_logits(frozen: Frozen, pixels: Tensor, mode: str) -> None:
    method = opened(built(frozen, mode=mode)).eval()
    with torch.no_grad():
        change = method(VideoBatch(pixels)).logits - method(VideoBatch(pixels.flip(1))).logits
    assert change.abs().max() > 1e-2


def test_texts_at_once_does_not_change_results(frozen: Frozen, batch: VideoBatch) -> None:
    outcomes = []
    for at_once in (1, 4, 64):
        torch.manual_seed(0)
        method = opened(built(frozen, texts_at_once=at_once))
        logits = method(batch).logits
        logits.square().mean().backward()
        outcomes.append((logits.detach(), method.text_change.shared.grad))
    for logits, gradient in outcomes[1:]:
        torch.testing.assert_close(logits, outcomes[0][0], atol=2e-4, rtol=0)
        torch.testing.assert_close(gradient, outcomes[0][1], atol=1e-3, rtol=1e-3)


def test_full_mode_has_texts_per_video(frozen: Frozen, batch: VideoBatch) -> None:
    method = built(frozen, mode="full")
    motion = torch.randn(3, 64)
    moved = method.text_change(motion, method.text_features)
    assert moved.shape == (3, 5, 64)
    alone = method.text_change(motion[1:2], method.text_features)
    torch.testing.assert_close(moved[1:2], alone, atol=1e-4, rtol=0)
    assert (moved[0] - moved[1]).abs().max() > 1e-3


def test_no_weight_belongs_to_a_class(frozen: Frozen, batch: VideoBatch) -> None:
    for mode in MODES:
        method = opened(built(frozen, mode=mode))
        config = MotionPromptsConfig(mode=mode)
        more = config.build(frozen, class_names=[*CLASSES, "sit"], num_frames=8, image_size=64)
        more.load_state_dict(method.state_dict())
        assert more(batch).logits.shape == (3, 6)


def test_sizes_that_do_not_fit_are_refused(frozen: Frozen, pixels: Tensor) -> None:
    with pytest.raises(ConfigError, match=r"heads must divide the 64 features of debug, got 7"):
        built(frozen, heads=7)
    with pytest.raises(ConfigError, match="long_step must be less than 8 frames, got 8"):
        built(frozen, long_step=8)
    with pytest.raises(ConfigError, match="'walk' and 75 learned vectors must fit"):
        built(frozen, num_vectors=75)
    with pytest.raises(ValueError, match="built for 8 frames, got 4"):
        built(frozen)(VideoBatch(pixels[:, :4]))
