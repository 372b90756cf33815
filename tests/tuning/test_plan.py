import pytest

from evclip_ray.config import ConfigError
from evclip_ray.data.manifest.manifest import ManifestError
from evclip_ray.tuning.search_space import SearchSpace
from evclip_ray.tuning.tuner import StudyRun

MACHINES = [{"CPU": 4.0, "memory": 8e9}]
LONG = "very " * 80 + "long"


@pytest.fixture
def plan(tmp_path):
    """Return a function that plans a study on files that are no videos: nothing is decoded."""

    def make(labels=("walk", "wave"), *, same=False, **search):
        rows = ["path,label,split"]
        for split in ("train", "val", "test"):
            for label in labels:
                name = f"{split}-{len(rows)}.mp4"
                (tmp_path / name).write_bytes(b"same" if same else name.encode() * len(rows))
                rows.append(f"{name},{label},{split}")
        (tmp_path / "videos.csv").write_text("\n".join(rows) + "\n")
        fixed = {
            "data.manifest": str(tmp_path / "videos.csv"),
            "backbone.name": "debug",
            "backbone.pretrained": "random",
        }
        if "method.name" not in search:
            fixed["method.video_encoder.name"] = "swin3d_debug"
        space = SearchSpace.load("mine", {"fixed": fixed, "search": search, "study": {"trials": 2}})
        return StudyRun(space, tmp_path / "study", cache=tmp_path / "cache").plan(MACHINES)

    return make


def test_class_text_beyond_the_context_is_found_in_the_plan(plan):
    with pytest.raises(
        ConfigError, match=r"method ev_clip on backbone debug: .* 77 tokens of debug, the first"
    ):
        plan(("walk", LONG), **{"optim.lr": {"uniform": [0.1, 1.0]}})


def test_largest_number_of_vectors_decides_in_the_plan(plan):
    search = {"method.name": {"choice": ["coop"]}, "method.num_vectors": {"int": [4, 16]}}
    assert plan(("walk", "far " * 50 + "away"), **search).trials == 2
    search["method.num_vectors"] = {"int": [4, 32]}
    with pytest.raises(ConfigError, match="32 learned vectors must fit"):
        plan(("walk", "far " * 50 + "away"), **search)


def test_equal_bytes_in_two_splits_are_found_by_the_plan(plan):
    planned = plan(same=True, **{"optim.lr": {"uniform": [0.1, 1.0]}})
    with pytest.raises(
        ManifestError, match=r"equal content of 'train-1.mp4' \(train\) and 'val-3.mp4' \(val\)"
    ):
        planned.check_leaks()


def test_different_videos_have_no_leaks(plan):
    plan(**{"optim.lr": {"uniform": [0.1, 1.0]}}).check_leaks()
