"""Training of one experiment: its record of rows, and a run whose videos have changed."""

import shutil

import pytest

from evclip_ray.artifacts import ArtifactError
from evclip_ray.data.manifest.row_record import FILE as ROWS
from evclip_ray.data.manifest.row_record import RowRecord
from evclip_ray.training.train import _plan_rows, train_experiment

MACHINES = [{"CPU": 2.0, "memory": 8 * 2.0**30}]


@pytest.fixture
def train(make_experiment, tiny_manifest, tiny_cache, tiny_videos, tmp_path):
    """Return a function that trains one epoch on some lines of the tiny manifest."""
    listed = tmp_path / "listed.csv"

    def run(lines, folder="run", root=tiny_manifest.parent, **options):
        listed.write_text("\n".join(lines) + "\n")
        experiment = make_experiment(
            **{"data.manifest": str(listed), "data.root": str(root), "optim.epochs": 1}
        )
        places = {"folder": tmp_path / folder, "cache": tiny_cache, "machines": MACHINES}
        resources = {"on_cluster": False, "workers": 1, "min_workers": None, "cpus": 1.0, "gpus": 0.0}
        callbacks = {"decoding": None, "on_epoch": lambda metrics: None}
        return train_experiment(experiment, **places, **resources, **callbacks, **options)

    return run


def test_run_refuses_other_videos_and_a_fork_takes_them(train, tiny_manifest, local_ray, tmp_path, caplog):
    lines = tiny_manifest.read_text().splitlines()
    train(lines)
    checkpoints = [tmp_path / "run" / name for name in ("best", "last")]
    records = [RowRecord.read(folder / "rows.parquet") for folder in (tmp_path / "run", *checkpoints)]
    assert len({str(record.keys()) for record in records}) == 1
    shutil.copytree(tiny_manifest.parent, tmp_path / "moved")
    train(lines, root=tmp_path / "moved")
    assert "its videos have moved from" in caplog.text
    exchanged = [line.replace("train", "X").replace("val", "train").replace("X", "val") for line in lines]
    with pytest.raises(ArtifactError, match=r"began with \(\d+ moved between splits: .*--fork NEW_OUT"):
        train(exchanged)
    dropped = next(number for number, line in enumerate(lines) if '"train"' in line)
    fewer = lines[:dropped] + lines[dropped + 1 :]
    with pytest.raises(ArtifactError, match=r"1 removed: "):
        train(fewer)
    train(fewer, "fork", splits_of=tmp_path / "run")
    assert len(RowRecord.read(tmp_path / "fork" / "best" / "rows.parquet").table) == len(lines) - 2


def test_repeated_trial_keeps_its_splits_under_other_paths(make_experiment, tmp_path):
    def plan(manifest, folder, splits_of=None):
        experiment = make_experiment(**{"data.manifest": str(manifest), "data.synthetic": None})
        planned, record = _plan_rows(
            experiment, tmp_path / folder, cache=tmp_path, splits_of=splits_of, progress=None
        )
        columns = (planned.manifest.table[name].to_pylist() for name in ("path", "split"))
        return record, dict(zip(*columns, strict=True))

    for label in ("run", "walk"):
        (tmp_path / "clips" / label).mkdir(parents=True)
        for number in range(8):
            (tmp_path / "clips" / label / f"{number}.mp4").write_bytes(f"{label} {number}".encode())
    record, before = plan(tmp_path / "clips", "trial")
    (tmp_path / "best").mkdir()
    record.write(tmp_path / "best" / ROWS)
    (tmp_path / "clips").rename(tmp_path / "moved")
    lines = [f"moved/{path},{path.split('/')[0]}" for path in before]
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *lines, ""]))
    _, after = plan(tmp_path / "list.csv", "run", tmp_path / "best")
    assert after == {f"moved/{path}": split for path, split in before.items()}
