"""Conformance suite: what every method must do, as a pytest class to subclass."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeVar

import open_clip
import pytest
import torch
from torch import Tensor

from evclip_ray.config import ConfigError
from evclip_ray.models.batch import Frozen, MethodOutput, VideoBatch
from evclip_ray.models.clip import FrozenCLIP, load_clip
from evclip_ray.models.layers.class_text import class_texts
from evclip_ray.models.layers.frames import prepare_frames
from evclip_ray.models.layers.towers import TextTower
from evclip_ray.models.methods.base import Method, MethodConfig
from evclip_ray.testing.cases import (
    CLASSES,
    NamedCase,
    build,
    find_cases,
    load_networks,
    random_videos,
    total_loss,
    train,
    variations,
)
from evclip_ray.training.experiment import ExperimentConfig
from evclip_ray.training.frozen_cache import feature_specs

Test = TypeVar("Test", bound=Callable[..., None])


def _only(predicate: Callable[[NamedCase], bool]) -> Callable[[Test], Test]:
    def mark(function: Test) -> Test:
        function.only = predicate  # type: ignore[attr-defined]
        return function

    return mark


def _is_trained(named: NamedCase) -> bool:
    return named.case.num_trainable > 0


def _is_exact(named: NamedCase) -> bool:
    return _is_trained(named) and not named.case.is_random


class MethodConformance:
    """Tests of the contract in `evclip_ray.models.methods.base`. Subclass it and set `methods`.

    Each test runs once per case of `METHOD_CASES`; tests with the argument `num_frames` run once per T.
    """

    methods: ClassVar[Sequence[str]] = ()

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Parametrise each test by the cases that it applies to."""
        if "named" not in metafunc.fixturenames:
            return
        applies = getattr(metafunc.function, "only", lambda _: True)
        cases = [named for named in find_cases(self.methods) if applies(named)]
        if "num_frames" not in metafunc.fixturenames:
            metafunc.parametrize("named", cases, ids=str)
            return
        pairs = [(named, length) for named in cases for length in named.case.num_frames]
        metafunc.parametrize(("named", "num_frames"), pairs, ids=[f"{named}, T={t}" for named, t in pairs])

    @pytest.fixture
    def frozen(self) -> Frozen:
        """Small frozen networks with random weights."""
        return load_networks()

    def test_every_method_has_a_case(self) -> None:
        assert self.methods, f"set {type(self).__name__}.methods to the names of your methods"
        assert {named.method for named in find_cases(self.methods)} == set(self.methods)

    # ---------------------------------------------------------------- output

    def test_logits_are_finite_and_shaped(self, frozen: Frozen, named: NamedCase, num_frames: int) -> None:
        method, batch = named.build(frozen, num_frames), random_videos(3, num_frames)
        output = method(VideoBatch(batch.pixels))
        assert output.logits.shape == (3, len(CLASSES))
        assert output.logits.dtype == torch.float32
        assert output.logits.isfinite().all()
        if output.frame_features is not None:
            assert output.frame_features.shape == (3, num_frames, frozen.clip.embed_dim)
        assert output.video_features is not None
        torch.testing.assert_close(output.video_features.norm(dim=-1), torch.ones(3))
        assert batch.labels is not None
        for name, term in method.losses(output, batch.labels).items():
            assert term.shape == (), name
            assert term.isfinite(), name

    def test_permuting_videos_permutes_logits(
        self, frozen: Frozen, named: NamedCase, num_frames: int
    ) -> None:
        method, batch = trained(named, frozen, num_frames)
        order = torch.tensor([2, 0, 1])
        assert batch.pixels is not None
        with torch.no_grad():
            logits = method(VideoBatch(batch.pixels)).logits
            permuted = method(VideoBatch(batch.pixels[order])).logits
        torch.testing.assert_close(permuted, logits[order], atol=1e-3, rtol=0)

    # ---------------------------------------------------------------- training

    def test_number_of_trainable_parameters(self, frozen: Frozen, named: NamedCase) -> None:
        method = named.build(frozen)
        assert method.num_trainable() == named.case.num_trainable
        assert named.config.trains == (named.case.num_trainable > 0)

    @_only(_is_trained)
    def test_training_moves_what_is_registered_and_nothing_frozen(
        self, frozen: Frozen, named: NamedCase, num_frames: int
    ) -> None:
        case, method = named.case, named.build(frozen, num_frames)
        before = {name: value.detach().clone() for name, value in method.named_parameters()}
        bytes_before = fingerprint(frozen)
        networks = [network for network in (frozen.clip, frozen.video_encoder) if network is not None]
        frozen_parameters = {id(p) for network in networks for p in network.parameters()}
        assert all(p.requires_grad and id(p) not in frozen_parameters for p in method.parameters())
        # A zero-initialised gate lets the gradient pass from the second step on.
        train(method, random_videos(4, num_frames), steps=case.steps_to_move, lr=1e-3)
        unmoved = {name for name, value in method.named_parameters() if torch.equal(value, before[name])}
        unread = case.never_read
        if num_frames == 1:
            unread += case.unread_in_one_frame
            undecided = case.undecided_in_one_frame
            unmoved = {name for name in unmoved if not (undecided and name.startswith(undecided))}
        assert unmoved == {name for name in before if any(part in name for part in unread)}
        assert fingerprint(frozen) == bytes_before
        assert not any(p.requires_grad for p in frozen.clip.parameters())

    @_only(lambda named: _is_trained(named) and not named.case.needs_vit)
    def test_training_keeps_batch_statistics(self, frozen: Frozen, named: NamedCase) -> None:
        networks = Frozen(tiny_resnet(), frozen.video_encoder)
        method, before = named.build(networks), fingerprint(networks)
        buffers = {name: value.clone() for name, value in method.named_buffers()}
        train(method, random_videos(2), steps=1, lr=1e-3)
        assert method.training
        assert networks.video_encoder is not None
        modules = (*networks.clip.modules(), *networks.video_encoder.modules())
        assert not any(module.training for module in modules)
        assert fingerprint(networks) == before
        assert all(torch.equal(value, buffers[name]) for name, value in method.named_buffers())

    @_only(lambda named: named.case.needs_vit)
    def test_resnet_is_refused(self, frozen: Frozen, named: NamedCase) -> None:
        with pytest.raises(ConfigError, match="ModifiedResNet"):
            named.build(Frozen(tiny_resnet(), frozen.video_encoder))

    @_only(_is_trained)
    def test_checkpoint_restores_logits_exactly(
        self, frozen: Frozen, named: NamedCase, num_frames: int
    ) -> None:
        method, batch = named.build(frozen, num_frames), random_videos(3, num_frames)
        train(method, batch, steps=2, lr=1e-2)
        state = {name: value.clone() for name, value in method.state_dict().items()}
        assert state.keys() == dict(method.named_parameters()).keys()
        other = named.build(frozen, num_frames, seed=1)
        with torch.no_grad():
            expected = method.eval()(VideoBatch(batch.pixels)).logits
            assert other.eval()(VideoBatch(batch.pixels)).logits.shape == expected.shape
            other.load_state_dict(state)
            assert torch.equal(other(VideoBatch(batch.pixels)).logits, expected)

    @_only(_is_exact)
    def test_loss_falls_in_twenty_steps(self, frozen: Frozen, named: NamedCase, num_frames: int) -> None:
        # One video per class: the forward and backward passes are most of the time of this suite.
        method, batch = named.build(frozen, num_frames), random_videos(len(CLASSES), num_frames)
        losses = train(method, batch, steps=20, lr=named.case.learning_rate)
        assert min(losses[-3:]) < 0.9 * losses[0], losses

    def test_passes_with_equal_seeds_are_equal(self, frozen: Frozen, named: NamedCase) -> None:
        method, batch = trained(named, frozen)
        assert torch.equal(method(batch).logits, method(batch).logits), "eval mode must not draw"
        method.train()
        first, again, other = (seeded_logits(method, batch, seed) for seed in (0, 0, 1))
        assert torch.equal(first, again)
        assert torch.equal(first, other) != named.case.is_random

    # ---------------------------------------------------------------- caches

    def test_cached_and_computed_features_agree(
        self, frozen: Frozen, named: NamedCase, num_frames: int
    ) -> None:
        method, batch = trained(named, frozen, num_frames)
        features, caches = cached_features(batch, frozen), named.config.caches
        declared = {name: value for name, value in features.items() if name in caches}
        with torch.no_grad():
            computed = method(VideoBatch(batch.pixels)).logits
            pixels = None if "frame_features" in declared else batch.pixels
            read = method(VideoBatch(pixels, **declared)).logits
        torch.testing.assert_close(read, computed, atol=1e-3, rtol=0)

    def test_undeclared_features_are_not_read(self, frozen: Frozen, named: NamedCase) -> None:
        method, batch, caches = named.build(frozen).eval(), random_videos(3), named.config.caches
        features = cached_features(batch, frozen)
        wrong = {name: torch.randn_like(value) for name, value in features.items() if name not in caches}
        with torch.no_grad():
            computed = method(VideoBatch(batch.pixels)).logits
            assert torch.equal(method(VideoBatch(batch.pixels, **wrong)).logits, computed)
        if "frame_features" not in caches:
            with pytest.raises(ValueError, match="must hold pixels"):
                method(VideoBatch(None, **features))

    def test_cached_class_text_is_not_encoded_in_a_step(
        self, frozen: Frozen, named: NamedCase, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        method = named.build(frozen)
        calls: list[str] = []
        for owner, name in ((TextTower, "encode"), (FrozenCLIP, "encode_text_raw")):
            monkeypatch.setattr(owner, name, _counted(getattr(owner, name), calls))
        method(random_videos(3))
        if "class_text" in named.config.caches:
            assert not calls

    def test_caches_are_true_for_every_setting(
        self, frozen: Frozen, named: NamedCase, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Features computed from their cache key alone must give the logits of the pixels."""
        check_caches(named.config, frozen, monkeypatch)
        for path, config in variations(named.config):
            try:
                build(config, frozen)
            except ValueError:
                continue  # The value does not fit the small networks.
            try:
                check_caches(config, frozen, monkeypatch)
            except AssertionError as error:
                raise AssertionError(f"method.{path} of {named} changes a cached result: {error}") from error

    # ---------------------------------------------------------------- precision and memory

    def test_bfloat16_is_close_to_float32(self, frozen: Frozen, named: NamedCase, num_frames: int) -> None:
        method, batch = trained(named, frozen, num_frames)
        with torch.no_grad():
            exact = method(VideoBatch(batch.pixels))
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            rough = method(VideoBatch(batch.pixels))
        assert rough.logits.isfinite().all()
        check_last_product(method, rough)
        error = (rough.logits - exact.logits).abs().max()
        assert error < 0.05 * exact.logits.abs().max()

    def test_held_in_bfloat16_is_close_to_float32(self, frozen: Frozen, named: NamedCase) -> None:
        exact, batch = trained(named, frozen)
        # As on a GPU: frozen weights in bfloat16, trained ones in float32, under autocast.
        held = named.build(load_networks(torch.bfloat16))
        held.load_state_dict(exact.state_dict())
        held.eval()
        with torch.no_grad():
            expected = exact(VideoBatch(batch.pixels))
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            rough = held(VideoBatch(batch.pixels))
        assert rough.logits.dtype == torch.float32
        error = (rough.logits - expected.logits).abs().max()
        assert error < 0.05 * expected.logits.abs().max()

    @_only(_is_exact)
    def test_training_over_a_bfloat16_tower(self, frozen: Frozen, named: NamedCase) -> None:
        clip = load_clip("debug", "random", dtype=torch.bfloat16)
        method, exact = named.build(Frozen(clip, frozen.video_encoder)), named.build(frozen)
        batch = random_videos(3)
        loss, expected = total_loss(method, method, batch), total_loss(exact, exact, batch)
        torch.testing.assert_close(loss, expected, atol=0.1, rtol=0.1)
        loss.backward()  # type: ignore[no-untyped-call]
        for parameter in method.parameters():
            assert parameter.grad is not None
            assert parameter.dtype == parameter.grad.dtype == torch.float32

    @_only(_is_trained)
    def test_activation_checkpointing_keeps_gradients(self, frozen: Frozen, named: NamedCase) -> None:
        clip = load_clip("debug", "random", activation_checkpointing=True)
        gradients = []
        for networks in (Frozen(clip, frozen.video_encoder), frozen):
            method = named.build(networks)
            # Equal seeds: the recomputed forward pass must drop the same activations.
            torch.manual_seed(0)
            total_loss(method, method, random_videos(3)).backward()  # type: ignore[no-untyped-call]
            gradients.append([p.grad for p in method.parameters()])
        for ours, expected in zip(*gradients, strict=True):
            if expected is None:
                assert ours is None
                continue
            tolerance = 1e-4 * expected.abs().max().item() + 1e-6
            torch.testing.assert_close(ours, expected, atol=tolerance, rtol=1e-4)


def check_caches(config: MethodConfig, frozen: Frozen, monkeypatch: pytest.MonkeyPatch) -> None:
    """Check that the cache keys of a config describe what the method reads.

    Class texts must be those of `template`. Features that are computed from their spec alone, the content of
    the cache key, must give the logits that the pixels give.
    """
    texts: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(FrozenCLIP, "encode_text_raw", _recording_texts(FrozenCLIP.encode_text_raw, texts))
        method = build(config, frozen).eval()
    if "class_text" in config.caches and texts:
        expected = class_texts(CLASSES, getattr(config, "template", "{}"))
        assert texts == expected, f"class texts are cached as {expected}, but {texts} are encoded"
    experiment = ExperimentConfig.load(
        {
            "data": {"manifest": "none", "bank": 1},
            "backbone": {"name": "debug", "pretrained": "random"},
            "method": config.model_dump(),
        }
    )
    pixels = random_videos(3).pixels
    features: dict[str, Any] = {}
    with torch.no_grad():
        for field, spec in feature_specs(experiment, "val", torch.device("cpu")).items():
            if field == "frame_features":
                assert spec.normalization is not None
                images = prepare_frames(frozen.clip, pixels, spec.normalization)
                features[field] = frozen.clip.encode_frames(images)
            else:
                features[field] = _video_map(pixels, frozen)
                if spec.kind == "video_mean":
                    features[field] = features[field].mean((2, 3, 4), keepdim=True)
        computed = method(VideoBatch(pixels)).logits
        read = method(VideoBatch(None if "frame_features" in features else pixels, **features)).logits
    torch.testing.assert_close(read, computed, atol=1e-3, rtol=0)


def check_last_product(method: Method, output: MethodOutput) -> None:
    """Check that the logits of a forward pass under autocast were computed in float32.

    The error of a tower in bfloat16 is larger than that of the last product, so a bound on the error cannot
    tell them apart. Rounding leaves another trace: a value of bfloat16 has 8 bits, and float32 has 24. Logits
    that all lie on the coarse grid, as they are or divided by a logit scale, were rounded. By chance this has
    a probability of less than 2^-100 for 12 logits.
    """
    assert output.logits.dtype == torch.float32, f"logits under autocast are {output.logits.dtype}"
    scales = {"1": 1.0, "CLIP's logit scale": method.frozen.clip.logit_scale}
    # A method may train a scale of its own, CLIP's logarithm or the factor itself.
    for name, value in method.named_parameters():
        if "scale" in name and value.numel() == 1:
            scales |= {name: value.item(), f"exp({name})": value.exp().item()}
    for name, scale in scales.items():
        cosines = output.logits / scale
        assert not _is_rounded(cosines), f"logits / {name} are rounded to bfloat16: compute them in float32"
    if output.video_features is not None:
        assert not _is_rounded(output.video_features), "video features are rounded to bfloat16"


def _is_rounded(values: Tensor) -> bool:
    # A product with the scale in float32 and the division by it may change the last bits.
    return torch.allclose(values, values.bfloat16().float(), rtol=2**-20, atol=0)


def trained(named: NamedCase, frozen: Frozen, num_frames: int = 8) -> tuple[Method, VideoBatch]:
    """Return the method in eval mode after two steps on three videos (none if it does not train)."""
    method, batch = named.build(frozen, num_frames), random_videos(3, num_frames)
    if _is_trained(named):
        train(method, batch, steps=2, lr=1e-3)
    return method.eval(), batch


def seeded_logits(method: Method, batch: VideoBatch, seed: int) -> Tensor:
    """Return the logits of a pass that draws its random numbers from `seed`."""
    torch.manual_seed(seed)
    logits: Tensor = method(VideoBatch(batch.pixels)).logits
    return logits


def cached_features(batch: VideoBatch, frozen: Frozen) -> dict[str, Any]:
    """Return the frozen features of a batch by field of `VideoBatch`; for odd T without the video map."""
    assert batch.pixels is not None
    with torch.no_grad():
        features = {"frame_features": frozen.clip.encode_frames(frozen.clip.prepare(batch.pixels))}
        # The video encoder reads pairs of frames.
        if batch.pixels.shape[1] % 2 == 0:
            features["video_map"] = _video_map(batch.pixels, frozen)
    return features


def fingerprint(frozen: Frozen) -> str:
    """Return the SHA-256 of every tensor of the frozen networks, buffers included."""
    modules = [frozen.clip, frozen.video_encoder]
    states = [module.state_dict(keep_vars=True) for module in modules if module is not None]
    tensors = [value.detach() for state in states for value in state.values()]
    return hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in tensors)).hexdigest()


def tiny_resnet() -> FrozenCLIP:
    """Return a CLIP with a small ResNet: the image tower with batch statistics."""
    model = open_clip.CLIP(
        embed_dim=32,
        vision_cfg={"layers": [1, 1, 1, 1], "width": 16, "image_size": 64},
        text_cfg={"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1},
        quick_gelu=True,
    )
    model.visual.preprocess_cfg = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    return FrozenCLIP(model, tokenizer, name="tiny ResNet", embed_dim=32, weights="random")


def _video_map(pixels: Tensor | None, frozen: Frozen) -> Tensor:
    assert pixels is not None
    assert frozen.video_encoder is not None
    video_map: Tensor = frozen.video_encoder(frozen.video_encoder.prepare(pixels))
    return video_map


def _counted(function: Callable[..., Any], calls: list[str]) -> Callable[..., Any]:
    def wrapper(*arguments: Any, **keywords: Any) -> Any:
        calls.append(function.__qualname__)
        return function(*arguments, **keywords)

    return wrapper


def _recording_texts(function: Callable[..., Any], texts: list[str]) -> Callable[..., Any]:
    def wrapper(clip: FrozenCLIP, encoded: Sequence[str], **keywords: Any) -> Any:
        texts.extend(encoded)
        return function(clip, encoded, **keywords)

    return wrapper
