"""The examination that every method passes: what trains, what stays, what is read and what is kept."""

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import open_clip
import pytest
import torch
from examination import CASES, CLASSES, TRAINED, built, total_loss, train, videos
from torch import Tensor

from evclip_ray.models.clip import FrozenCLIP, load_clip
from evclip_ray.models.layers.towers import TextTower
from evclip_ray.models.methods import METHODS
from evclip_ray.models.methods.base import Frozen, Method, VideoBatch

INSIDE_A_VIT = ("ez_clip", "st_adapter", "aim")
ON_A_RESNET = [case for case in TRAINED if not case.startswith(INSIDE_A_VIT)]
LEARNING_RATES = {"ev_clip, context": 5e-2}
"""Of twenty steps, where 1e-2 is too little: a context starts at a thousandth."""

STEPS_TO_ALL = {"aim, two, linear": 3}
"""Steps until every tensor has moved, where two adapters that start at zero stand in a row."""

NEVER_READ = {"st_adapter": "mlp_adapters.1.", "st_adapter, both, linear": "mlp_adapters.1."}
"""In the last MLP only the class token is read, and that adapter is for the patches: as published."""

NO_MOTION = {"motion_prompts": "streams.enter.weight", "motion_prompts, late": "streams.enter.weight"}
# Where all that is attended to is one frame, what asks has a gradient of rounding alone: it may move or not.
ONE_FRAME = {"motion_prompts": "to_text.asking.", "motion_prompts, late": "to_text.asking."}
"""What reads motion has nothing to read in a single frame. (Cases, and what a tensor's name holds.)"""

LENGTHS = {case: (2, 8) if case.startswith("ev_clip") else (1, 2, 8) for case in CASES}


def cached(batch: VideoBatch, frozen: Frozen, *, pixels: bool = False) -> VideoBatch:
    """`batch` as the caches have it: the frozen networks' features instead of pixels."""
    assert batch.pixels is not None
    assert frozen.video_encoder is not None
    pairs = batch.pixels.shape[1] % 2 == 0  # the video network reads pairs of frames
    with torch.no_grad():
        return VideoBatch(
            batch.pixels if pixels else None,
            video_map=frozen.video_encoder(frozen.video_encoder.prepare(batch.pixels)) if pairs else None,
            frame_features=frozen.clip.encode_frames(frozen.clip.prepare(batch.pixels)),
        )


def fingerprint(frozen: Frozen) -> str:
    """Of every byte of the frozen networks, buffers included."""
    modules = [frozen.clip, frozen.video_encoder]
    states = [module.state_dict(keep_vars=True) for module in modules if module is not None]
    tensors = [value.detach() for state in states for value in state.values()]
    return hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in tensors)).hexdigest()


@pytest.fixture
def tiny_resnet() -> FrozenCLIP:
    model = open_clip.CLIP(
        embed_dim=32,
        vision_cfg={"layers": [1, 1, 1, 1], "width": 16, "image_size": 64},
        text_cfg={"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1},
        quick_gelu=True,
    )
    model.visual.preprocess_cfg = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    return FrozenCLIP(model, tokenizer, name="tiny ResNet", embed_dim=32, weights="random")


def of_all_lengths(cases: Iterable[str] = tuple(CASES)) -> Iterator[Any]:
    for case in cases:
        for num_frames in LENGTHS[case]:
            yield pytest.param(case, num_frames, id=f"{case}, T={num_frames}")


def test_every_method_is_examined() -> None:
    assert {case.split(",")[0] for case in CASES} == METHODS.keys()


# ------------------------------------------------------------------ what comes out


@pytest.mark.parametrize(("case", "num_frames"), of_all_lengths())
def test_logits_are_finite_and_shaped(frozen: Frozen, case: str, num_frames: int) -> None:
    method, batch = built(case, frozen, num_frames), videos(3, num_frames)
    output = method(VideoBatch(batch.pixels))
    assert output.logits.shape == (3, len(CLASSES))
    assert output.logits.dtype == torch.float32
    assert output.logits.isfinite().all()
    if output.frame_features is not None:
        assert output.frame_features.shape == (3, num_frames, frozen.clip.embed_dim)
    assert output.video_features is not None
    lengths = output.video_features.norm(dim=-1)
    torch.testing.assert_close(lengths, torch.ones(3))
    for name, term in method.losses(output, batch.labels).items():
        assert term.shape == (), name
        assert term.isfinite(), name


@pytest.mark.parametrize(("case", "num_frames"), of_all_lengths())
def test_permuting_videos_permutes_logits(frozen: Frozen, case: str, num_frames: int) -> None:
    method, batch = built(case, frozen, num_frames), videos(3, num_frames)
    train_if_it_trains(case, method, batch)
    order = torch.tensor([2, 0, 1])
    with torch.no_grad():
        logits = method(VideoBatch(batch.pixels)).logits
        permuted = method(VideoBatch(batch.pixels[order])).logits
    torch.testing.assert_close(permuted, logits[order], atol=1e-3, rtol=0)


def train_if_it_trains(case: str, method: Method, batch: VideoBatch) -> None:
    if case in TRAINED:
        train(method, batch, steps=2, lr=1e-3)
    method.eval()


# ------------------------------------------------------------------ what trains and what stays


@pytest.mark.parametrize(("case", "num_frames"), of_all_lengths(TRAINED))
def test_what_is_registered_trains_and_what_is_frozen_keeps_its_bytes(
    frozen: Frozen, case: str, num_frames: int
) -> None:
    method = built(case, frozen, num_frames)
    before, bytes_before = clone(method), fingerprint(frozen)
    frozen_parameters = {id(p) for p in (*frozen.clip.parameters(), *frozen.video_encoder.parameters())}
    assert method.num_trainable() > 0
    assert all(p.requires_grad and id(p) not in frozen_parameters for p in method.parameters())
    # A gate that starts at zero lets the gradient pass from the second step on.
    train(method, videos(4, num_frames), steps=STEPS_TO_ALL.get(case, 2), lr=1e-3)
    still = {name for name, value in method.named_parameters() if torch.equal(value, before[name])}
    if num_frames == 1 and case in ONE_FRAME:
        still = {name for name in still if not name.startswith(ONE_FRAME[case])}
    unread = [table[case] for table in (NEVER_READ, NO_MOTION if num_frames == 1 else {}) if case in table]
    assert still == {name for name in before if any(part in name for part in unread)}
    assert fingerprint(frozen) == bytes_before
    assert not any(p.requires_grad for p in frozen.clip.parameters())


def clone(method: Method) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in method.named_parameters()}


@pytest.mark.parametrize("case", ON_A_RESNET)
def test_training_leaves_batch_statistics_alone(tiny_resnet: FrozenCLIP, frozen: Frozen, case: str) -> None:
    networks = Frozen(tiny_resnet, frozen.video_encoder)
    method, before = built(case, networks), fingerprint(networks)
    buffers = {name: value.clone() for name, value in method.named_buffers()}
    train(method, videos(2), steps=1, lr=1e-3)
    assert method.training
    assert not any(m.training for m in (*tiny_resnet.modules(), *networks.video_encoder.modules()))
    assert fingerprint(networks) == before
    assert all(torch.equal(value, buffers[name]) for name, value in method.named_buffers())


@pytest.mark.parametrize(("case", "num_frames"), of_all_lengths(TRAINED))
def test_a_checkpoint_holds_what_was_trained_and_restores_the_logits_exactly(
    frozen: Frozen, case: str, num_frames: int
) -> None:
    method, batch = built(case, frozen, num_frames), videos(3, num_frames)
    train(method, batch, steps=2, lr=1e-2)
    state = {name: value.clone() for name, value in method.state_dict().items()}
    assert state.keys() == dict(method.named_parameters()).keys()
    other = built(case, frozen, num_frames, seed=1)
    with torch.no_grad():
        expected = method.eval()(VideoBatch(batch.pixels)).logits
        assert other.eval()(VideoBatch(batch.pixels)).logits.shape == expected.shape
        other.load_state_dict(state)
        assert torch.equal(other(VideoBatch(batch.pixels)).logits, expected)


@pytest.mark.parametrize(("case", "num_frames"), of_all_lengths(TRAINED))
def test_the_loss_falls_on_eight_videos_in_twenty_steps(frozen: Frozen, case: str, num_frames: int) -> None:
    losses = train(
        built(case, frozen, num_frames), videos(8, num_frames), steps=20, lr=LEARNING_RATES.get(case, 1e-2)
    )
    assert min(losses[-3:]) < 0.9 * losses[0], losses


# ------------------------------------------------------------------ what may be cached


@pytest.mark.parametrize(("case", "num_frames"), of_all_lengths())
def test_cached_and_computed_features_agree(frozen: Frozen, case: str, num_frames: int) -> None:
    method, batch = built(case, frozen, num_frames), videos(3, num_frames)
    train_if_it_trains(case, method, batch)
    features = cached(batch, frozen)
    declared = {
        name: getattr(features, name) for name in ("video_map", "frame_features") if name in method.caches
    }
    is_enough = "frame_features" in declared
    with torch.no_grad():
        computed = method(VideoBatch(batch.pixels)).logits
        read = method(VideoBatch(None if is_enough else batch.pixels, **declared)).logits
    torch.testing.assert_close(read, computed, atol=1e-3, rtol=0)


@pytest.mark.parametrize("case", CASES)
def test_what_is_not_declared_cacheable_is_not_read_from_a_cache(frozen: Frozen, case: str) -> None:
    method, batch = built(case, frozen).eval(), videos(3)
    features = cached(batch, frozen)
    wrong = {
        name: torch.randn_like(getattr(features, name))
        for name in ("video_map", "frame_features")
        if name not in method.caches
    }
    with torch.no_grad():
        computed = method(VideoBatch(batch.pixels)).logits
        assert torch.equal(method(VideoBatch(batch.pixels, **wrong)).logits, computed)
    if "frame_features" not in method.caches:
        with pytest.raises(ValueError, match="must hold pixels"):
            method(features)


@pytest.mark.parametrize("case", CASES)
def test_class_text_is_encoded_in_a_step_only_where_it_is_not_cacheable(
    frozen: Frozen, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, calls = built(case, frozen), []
    encode, encode_raw = TextTower.encode, FrozenCLIP.encode_text_raw

    def counted(*arguments: Any, **keywords: Any) -> Tensor:
        calls.append("tower")
        return encode(*arguments, **keywords)

    def counted_raw(*arguments: Any, **keywords: Any) -> Tensor:
        calls.append("clip")
        return encode_raw(*arguments, **keywords)

    monkeypatch.setattr(TextTower, "encode", counted)
    monkeypatch.setattr(FrozenCLIP, "encode_text_raw", counted_raw)
    method(videos(3))
    if "class_text" in method.caches:
        assert not calls


# ------------------------------------------------------------------ precision and memory


@pytest.mark.parametrize(("case", "num_frames"), of_all_lengths())
def test_bfloat16_stays_close_to_float32(frozen: Frozen, case: str, num_frames: int) -> None:
    method, batch = built(case, frozen, num_frames), videos(3, num_frames)
    train_if_it_trains(case, method, batch)
    with torch.no_grad():
        exact = method(VideoBatch(batch.pixels))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        rough = method(VideoBatch(batch.pixels))
    assert rough.logits.isfinite().all()
    error = (rough.logits.float() - exact.logits).abs().max()
    assert error < 0.05 * exact.logits.abs().max()


@pytest.mark.parametrize("case", TRAINED)
def test_it_trains_over_an_image_tower_in_bfloat16(frozen: Frozen, case: str) -> None:
    clip = load_clip("debug", "random", dtype=torch.bfloat16)
    method, exact = built(case, Frozen(clip, frozen.video_encoder)), built(case, frozen)
    batch = videos(3)
    loss, expected = total_loss(method, method, batch), total_loss(exact, exact, batch)
    torch.testing.assert_close(loss, expected, atol=0.1, rtol=0.1)
    loss.backward()
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in method.parameters())


@pytest.mark.parametrize("case", TRAINED)
def test_activation_checkpointing_changes_memory_only(frozen: Frozen, case: str) -> None:
    clip = load_clip("debug", "random", activation_checkpointing=True)
    methods = built(case, Frozen(clip, frozen.video_encoder)), built(case, frozen)
    gradients = []
    for method in methods:
        loss = total_loss(method, method, videos(3))
        loss.backward()
        gradients.append([p.grad for p in method.parameters()])
    for ours, expected in zip(*gradients, strict=True):
        tolerance = 1e-4 * expected.abs().max().item() + 1e-6
        torch.testing.assert_close(ours, expected, atol=tolerance, rtol=1e-4)
