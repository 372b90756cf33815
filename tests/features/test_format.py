import random

import pytest
import torch

from evclip_ray.artifacts import ArtifactError
from evclip_ray.features.format import is_sound, map_features, write_features
from evclip_ray.features.spec import class_text, frame_features, video_map, view_key

VALUES = torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(0))


def anonymous_bytes():
    with open("/proc/self/status") as status:  # noqa: PTH123
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon")) * 1024


@pytest.mark.parametrize("values", [VALUES, VALUES.bfloat16(), VALUES[:0], VALUES[:, 0]])
def test_what_is_mapped_is_what_was_written(tmp_path, values):
    write_features(tmp_path / "a.arrow", values, "key")
    found = map_features(tmp_path / "a.arrow", "key")
    assert found.dtype == values.dtype
    assert torch.equal(found, values)
    assert is_sound(tmp_path / "a.arrow", "key")


def test_the_same_values_give_the_same_bytes(tmp_path):
    for name in "ab":
        write_features(tmp_path / name, VALUES, "key")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_file_of_another_key_or_cut_short_is_refused(tmp_path):
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


def test_a_flipped_bit_is_found_or_changes_no_value(tmp_path):
    path = tmp_path / "a.arrow"
    write_features(path, VALUES, "key")
    whole = path.read_bytes()
    chance = random.Random(0)
    found = 0
    for _ in range(400):
        place = chance.randrange(len(whole))
        path.write_bytes(
            whole[:place] + bytes([whole[place] ^ (1 << chance.randrange(8))]) + whole[place + 1 :]
        )
        if is_sound(path, "key"):
            assert torch.equal(map_features(path, "key"), VALUES)
        else:
            found += 1
    assert found > 100


def test_reading_a_file_takes_no_memory_of_its_own(tmp_path):
    path = tmp_path / "a.arrow"
    values = torch.ones(64, 2**18)
    write_features(path, values, "key")
    size = values.nbytes
    del values
    before = anonymous_bytes()
    maps = [map_features(path, "key") for _ in range(4)]
    assert sum(float(found.sum()) for found in maps) == size
    assert anonymous_bytes() - before < 0.1 * size


def test_a_key_holds_all_that_changes_a_value_and_nothing_else(tmp_path):
    settings = {"precision": "float32", "normalization": "own", "augment": None}
    same = frame_features("debug", "random", **settings)
    changed = [
        frame_features("ViT-B-32", "random", **settings),
        frame_features("debug", "random", **settings | {"precision": "bfloat16"}),
        frame_features("debug", "random", **settings | {"normalization": "imagenet"}),
        video_map("swin3d_debug", "random", backbone="debug", precision="float32", augment=None),
        video_map("swin3d_debug", "random", backbone="ViT-B-32", precision="float32", augment=None),
        class_text("debug", "random"),
    ]
    keys = {spec.key for spec in [same, *changed]}
    assert len(keys) == len(changed) + 1
    assert len({view_key(same, shard, view) for shard in "ab" for view in (0, 1)}) == 4
    files = {name: tmp_path / name for name in ("a.pt", "b.pt", "c.pt")}
    for name, path in files.items():
        path.write_bytes(b"other" if name == "c.pt" else b"weights")
    of_files = [frame_features("debug", str(path), **settings).key for path in files.values()]
    assert of_files[0] == of_files[1] != of_files[2], "the same weights elsewhere are the same weights"
    # The usual weights by their name or by default.
    assert class_text("ViT-B-32", None).key == class_text("ViT-B-32", "openai").key
