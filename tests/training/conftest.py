"""Plans of lists of videos."""

import pytest

from evclip_ray.training.experiment import ExperimentConfig
from evclip_ray.training.video_plan import plan_videos


@pytest.fixture
def plan_tiny(make_experiment, tmp_path):
    """Return a function that plans the tiny videos."""

    def planned(splits=("train", "val"), **overrides):
        return plan_videos(make_experiment(**overrides), cache=tmp_path / "cache", splits=splits)

    return planned


@pytest.fixture
def plan_list(tmp_path, monkeypatch):
    """Return a function that plans a list without videos: `counts` is split -> videos per class."""
    monkeypatch.setattr("evclip_ray.training.video_lists.check_files", lambda *_: None)

    def make(counts, *, classes=5, group=False, options=None, **overrides):
        lines = ["path,label,split,group" if group else "path,label,split"]
        for label in range(classes):
            for split, count in counts.items():
                for number in range(count):
                    name = f"c{label}/{split}_{number}.avi"
                    lines.append(
                        f"{name},c{label},{split}" + (f",c{label} {split} {number // 2}" if group else "")
                    )
        manifest = tmp_path / "list.csv"
        manifest.write_text("\n".join(lines))
        dotted = {path.replace("__", "."): value for path, value in overrides.items()}
        experiment = ExperimentConfig.load({"data": {"manifest": str(manifest)}}, dotted)
        return plan_videos(experiment, cache=tmp_path / "cache", **(options or {}))

    return make
