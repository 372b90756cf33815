"""Number of leaking rows in the leaderboard. In a separate file because it trains without Ray."""

import csv
import dataclasses

from evclip_ray.training.loop import Run
from evclip_ray.tuning.study_folder import StudyFolder


def test_leaderboard_rows_contain_the_number_of_leaks(make_experiment, tiny_videos, tmp_path):
    study = StudyFolder(tmp_path)
    for name, leaks in (("trial-0000", 0), ("trial-0001", 4)):
        study.begin(name, {"seed": 0})
        videos = dataclasses.replace(tiny_videos, leaking_rows=leaks)
        experiment = make_experiment(optim__epochs=1)
        Run.start(experiment, videos, folder=study.trial(name)).fit(lambda metrics: None)
        study.finish(name, "complete")
    with (tmp_path / "leaderboard.csv").open() as stream:
        marks = {row["trial"]: row["leaking_rows"] for row in csv.DictReader(stream)}
    assert marks == {"trial-0000": "0", "trial-0001": "4"}
