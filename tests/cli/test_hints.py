"""Commands printed at the end of a study: each names only what exists."""

import json
import shutil
from pathlib import Path

import pytest

from evclip_ray.cli.hints import score_command, study_hints

STUDY = Path(__file__).parents[1] / "data_files" / "old_study"


def test_study_without_a_checkpoint_names_no_file_of_it(tmp_path):
    assert [purpose for purpose, _ in study_hints(tmp_path, tmp_path)] == ["learning curves", "report"]
    (tmp_path / "leaderboard.csv").touch()
    (tmp_path / "best.yaml").touch()
    purposes = [purpose for purpose, _ in study_hints(tmp_path, tmp_path)]
    assert purposes == ["leaderboard", "learning curves", "train the best", "report"]


@pytest.mark.parametrize(("test_fraction", "is_named"), [(0.2, True), (0.0, False)])
def test_scoring_is_named_if_there_are_test_videos(tmp_path, test_fraction, is_named):
    checkpoint = next(STUDY.glob("trials/*/best"), None) or STUDY / "best"
    best = Path(shutil.copytree(checkpoint, tmp_path / "best"))
    record = json.loads((best / "config.json").read_text())
    videos = tmp_path / "list.csv"
    videos.write_text("path,label\n" + "".join(f"{n}.mp4,{'ab'[n % 2]}\n" for n in range(20)))
    data = {"manifest": str(videos), "test_fraction": test_fraction}
    record["experiment"]["data"] = data
    (best / "config.json").write_text(json.dumps(record))
    command = score_command(best, tmp_path)
    scores = f"evclip-ray evaluate {best} --split test"
    # Without the folder of the cache, the videos would be decoded again in the default one.
    assert command == (f"{scores} --cache {tmp_path}" if is_named else None)
    assert score_command(best, None) == (scores if is_named else None)
