import dataclasses
import importlib.metadata
import random

import pytest
import torch

from evclip_ray.artifacts import ArtifactError, file_digest
from evclip_ray.config import ConfigError
from evclip_ray.features.format import is_sound, map_features, write_features
from evclip_ray.features.spec import class_text, frame_features, video_map, view_key
from evclip_ray.models.video_encoder import load_video_encoder

VALUES = torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(0))


def anonymous_bytes():
    with open("/proc/self/status") as status:  # noqa: PTH123
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon")) * 1024


@pytest.mark.parametrize("values", [VALUES, VALUES.bfloat16(), VALUES[:0], VALUES[:, 0]])
def test_mapped_values_equal_the_written_ones(tmp_path, values):
    write_features(tmp_path / "a.arrow", values, "key")
    mapped = map_features(tmp_path / "a.arrow", "key")
    assert mapped.dtype == values.dtype
    assert torch.equal(mapped, values)
    assert is_sound(tmp_path / "a.arrow", "key")


def test_same_values_give_same_bytes(tmp_path):
    for name in "ab":
        write_features(tmp_path / name, VALUES, "key")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_foreign_or_truncated_file_is_refused(tmp_path):
    path = tmp_path / "a.arrow"
    write_features(path, VALUES, "key")
    assert not is_sound(path, "other")
    with pytest.raises(ArtifactError, match="another key"):
        map_features(path, "other")
    path.write_bytes(path.read_bytes()[:-100])
    assert not is_sound(path, "key")
    with pytest.raises(ArtifactError, match="prepare the features again"):
        map_features(path, "key")
    assert not is_sound(tmp_path / "absent", "key")


def test_flipped_bit_is_detected_or_changes_no_value(tmp_path):
    path = tmp_path / "a.arrow"
    write_features(path, VALUES, "key")
    whole = path.read_bytes()
    chance = random.Random(0)
    detected = 0
    for _ in range(400):
        index = chance.randrange(len(whole))
        flipped = bytes([whole[index] ^ (1 << chance.randrange(8))])
        path.write_bytes(whole[:index] + flipped + whole[index + 1 :])
        if is_sound(path, "key"):
            assert torch.equal(map_features(path, "key"), VALUES)
        else:
            detected += 1
    assert detected > 100


def test_reading_takes_no_anonymous_memory(tmp_path):
    path = tmp_path / "a.arrow"
    values = torch.ones(64, 2**18)
    write_features(path, values, "key")
    size = values.nbytes
    del values
    before = anonymous_bytes()
    maps = [map_features(path, "key") for _ in range(4)]
    assert sum(float(values.sum()) for values in maps) == size
    assert anonymous_bytes() - before < 0.1 * size


def test_key_covers_exactly_what_changes_a_value(tmp_path):
    settings = {"precision": "float32", "normalization": "own", "augment": None}
    same = frame_features("debug", "random", **settings)
    changed = [
        frame_features("ViT-B-32", "random", **settings),
        frame_features("debug", "random", **settings | {"precision": "bfloat16"}),
        frame_features("debug", "random", **settings | {"normalization": "imagenet"}),
        video_map("swin3d_debug", "random", backbone="debug", precision="float32", augment=None),
        video_map("swin3d_debug", "random", backbone="ViT-B-32", precision="float32", augment=None),
        class_text("debug", "random"),
        dataclasses.replace(same, device="cuda"),
        frame_features("ViT-B-32", "random", activation="gelu", **settings),
        frame_features("open_clip:ViT-B-32", "random", **settings),
    ]
    keys = {spec.key for spec in [same, *changed]}
    assert len(keys) == len(changed) + 1
    assert len({view_key(same, shard, view) for shard in "ab" for view in (0, 1)}) == 4
    files = {name: tmp_path / name for name in ("a.pt", "b.pt", "c.pt")}
    for name, path in files.items():
        path.write_bytes(b"other" if name == "c.pt" else b"weights")
    of_files = [frame_features("debug", str(path), **settings).key for path in files.values()]
    assert of_files[0] == of_files[1] != of_files[2], "the path of the weights does not matter"
    # The default weights have the same key if they are given by name.
    assert class_text("ViT-B-32", None).key == class_text("ViT-B-32", "openai").key


def test_keys_of_known_weights_are_those_of_earlier_versions():
    spec = frame_features("ViT-B-32", None, precision="float32", normalization="own", augment=None)
    assert spec.inputs == {
        "kind": "frame_features",
        "network": "ViT-B-32",
        "origin": "openai",
        "precision": "float32",
        "crop_size": 224,
        "augment": None,
        "normalization": "own",
        "format": 2,
    }


def test_keys_of_random_weights_hold_the_versions(monkeypatch):
    spec, trained = class_text("debug", "random"), class_text("ViT-B-32", "openai")
    before = spec.key, trained.key
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.0")
    assert spec.inputs["versions"] == {"torch": "0.0", "torchvision": "0.0", "open_clip_torch": "0.0"}
    assert spec.key != before[0]
    assert trained.key == before[1]


def test_activation_changes_a_key_where_it_is_unusual(tmp_path):
    path = tmp_path / "weights.pt"
    path.write_bytes(b"weights")
    settings = {"precision": "float32", "normalization": "own", "augment": None}
    usual, other = (
        frame_features("ViT-B-32", str(path), activation=name, **settings) for name in ("quickgelu", "gelu")
    )
    # Versions without the setting ran local files of this row with QuickGELU.
    assert usual.origin == f"file:{file_digest(path)}"
    assert other.origin == f"{usual.origin} (gelu)"
    assert usual.key != other.key
    with pytest.raises(ConfigError, match="does not state the activation"):
        frame_features("ViT-B-32", str(path), **settings)


def test_spec_of_world_weights_names_their_digest():
    encoder = load_video_encoder("swin3d_world", "world")
    spec = video_map("swin3d_world", "world", backbone="world-s", precision="float32", augment=None)
    assert spec.origin == encoder.weights
    assert spec.origin.startswith("world:")
