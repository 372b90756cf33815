"""The command `predict`: output, failures, exit status and wrong arguments."""

import csv
import io
import itertools
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from click.testing import CliRunner
from numbered_videos import write_numbered
from PIL import Image

from evclip_ray.cli import main, prediction_output
from evclip_ray.cli.display import PlainConsole
from evclip_ray.cli.progress import Bars
from evclip_ray.data.video.decode import probe
from evclip_ray.deploy import cameras
from evclip_ray.deploy.cameras import TimedFrame
from evclip_ray.deploy.recognizer import Recognizer
from evclip_ray.metrics.calibration import Calibration


@pytest.fixture(autouse=True)
def _in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def call(*arguments, status=0, **options):
    result = CliRunner().invoke(main, ["predict", *map(str, arguments)], **options)
    assert result.exit_code == status, result.output
    return result


def records(result):
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.fixture
def without_torch(monkeypatch):
    """Let the import of the recognizer fail, as a proof that it is not reached."""
    monkeypatch.setitem(sys.modules, "evclip_ray.deploy.recognizer", None)


@pytest.fixture(scope="module")
def damaged(tmp_path_factory, videos):
    """Return files that are no videos: text, sound only, no frame, an empty and a cut file."""
    folder = tmp_path_factory.mktemp("damaged")
    (folder / "text.mp4").write_text("not a video")
    (folder / "empty.mp4").touch()
    (folder / "cut.mp4").write_bytes(videos[0].read_bytes()[:2000])
    with av.open(str(folder / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux([*stream.encode(frame), *stream.encode(None)])
    with av.open(str(folder / "no_frames.avi"), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.start_encoding()
    return folder


def test_table_lists_the_classes_of_every_video(checkpoint, videos):
    result = call(checkpoint, *videos, "--device", "cpu")
    expected = Recognizer.load(checkpoint, device="cpu").predict(videos[1], top_k=3).scores
    lines = [line for line in result.stdout.replace("\n", " ").split(str(videos[1])) if line]
    assert all(f"{score.name}" in result.stdout for score in expected)
    assert f"{expected[0].probability:.2f}" in lines[1]
    assert "RANDOM WEIGHTS in clip" in result.stderr
    assert "RANDOM" not in result.stdout


def test_json_lines_are_the_records_of_the_predictions(checkpoint, videos):
    result = call(checkpoint, *videos, "--json", "--top-k", 2)
    recognizer = Recognizer.load(checkpoint)
    for record, video in zip(records(result), videos, strict=True):
        expected = recognizer.predict(video, top_k=2).record()
        assert record["video"] == str(video)
        assert record["scores"] == [
            {"class": score["class"], "probability": pytest.approx(score["probability"], abs=1e-5)}
            for score in expected["scores"]
        ]
        assert "timeline" not in record


def test_windows_have_a_timeline(checkpoint, videos):
    window = ("--window", 1, "--stride", 0.5)
    (record,) = records(call(checkpoint, videos[2], "--json", *window))
    assert [each["start_seconds"] for each in record["windows"]] == [0, 0.5, 1, 1.5, 2]
    assert record["timeline"][0]["start_seconds"] == 0
    assert record["timeline"][-1]["end_seconds"] == 3
    table = call(checkpoint, videos[2], *window).stdout
    for segment in record["timeline"]:
        assert f"{segment['end_seconds']:.2f}  {segment['class']}" in table


def test_csv_has_one_row_per_window_and_failure(checkpoint, videos, damaged):
    call(
        checkpoint,
        videos[1],
        damaged / "text.mp4",
        "--window",
        1,
        "--csv",
        "out/a.csv",
        "--top-k",
        2,
        status=1,
    )
    with Path("out/a.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["start_seconds"] for row in rows] == ["0.000", "1.000", ""]
    assert [row["unknown"] for row in rows] == ["false", "false", ""]
    assert all(float(row["probability_1"]) >= float(row["probability_2"]) for row in rows[:2])
    assert rows[2]["video"].endswith("text.mp4")
    assert "Invalid data" in rows[2]["error"]


def test_broken_files_are_reported_and_the_rest_goes_on(checkpoint, videos, damaged):
    result = call(checkpoint, damaged, videos[0], "--json", status=1)
    *failed, good = records(result)
    assert good["video"] == str(videos[0])
    reasons = {Path(record["video"]).name: record["error"] for record in failed}
    assert set(reasons) == {"cut.mp4", "empty.mp4", "no_frames.avi", "sound.mp4", "text.mp4"}
    assert reasons["sound.mp4"] == "has no video stream"
    assert "no frame decodes" in reasons["no_frames.avi"]
    for name, reason in reasons.items():
        assert f"failed: {damaged / name}: {reason}" in result.stderr
    assert "5 failures in 6 videos" in result.stderr


def test_overlays_and_sheet_are_drawn_for_videos_that_decode(checkpoint, videos, damaged):
    arguments = ("--overlay", "overlays", "--sheet", "sheet.png", "--window", 1)
    call(checkpoint, *videos[:2], damaged / "text.mp4", *arguments, status=1)
    folder = Path("overlays", videos[0].parent.name)
    assert sorted(path.name for path in folder.iterdir()) == ["0.mp4", "1.mp4"]
    for number in range(2):
        copy, video = probe(folder / f"{number}.mp4"), probe(videos[number])
        assert (copy.num_frames, copy.width, copy.height) == (video.num_frames, video.width, video.height)
    assert Image.open("sheet.png").size == (1008, 6 + 2 * 134)


def test_method_without_a_mask_has_labels_only(make_checkpoint, videos):
    call(make_checkpoint("linear_probe"), videos[0], "--overlay", "a.mp4", "--sheet", "sheet.png")
    assert probe("a.mp4").num_frames == 25
    assert Image.open("sheet.png").width == 1008 - 134


def test_sheet_has_a_limited_number_of_rows(checkpoint, videos, monkeypatch):
    monkeypatch.setattr("evclip_ray.deploy.pictures.MAX_ROWS", 2)
    monkeypatch.setattr("evclip_ray.deploy.sheet.MAX_ROWS", 2)
    result = call(checkpoint, *videos, "--sheet", "sheet.png")
    assert "the sheet shows the first 2 of 3 videos" in result.stderr
    assert Image.open("sheet.png").height == 6 + 2 * 134


def test_other_classes_are_predicted(checkpoint, make_checkpoint, videos):
    (record,) = records(call(checkpoint, videos[0], "--json", "--classes", "fly, swim"))
    assert {score["class"] for score in record["scores"]} == {"fly", "swim"}
    Path("names.txt").write_text("hüpfen\nswim\n", encoding="utf-8")
    (record,) = records(call(checkpoint, videos[0], "--json", "--classes-file", "names.txt"))
    assert {score["class"] for score in record["scores"]} == {"hüpfen", "swim"}
    result = call(make_checkpoint("linear_probe"), videos[0], "--classes", "fly,swim", status=1)
    assert "predicts the 4 classes of its training only" in result.stderr


def test_top_k_above_the_number_of_classes_shows_all(checkpoint, videos):
    result = call(checkpoint, videos[0], "--json", "--top-k", 9)
    assert len(records(result)[0]["scores"]) == 4
    assert "--top-k 9: there are only 4 classes" in result.stderr
    assert "--top-k" not in call(checkpoint, videos[0], "--json").stderr


def test_calibration_rejects_unless_it_is_ignored(checkpoint, videos, tmp_path):
    calibrated = shutil.copytree(checkpoint, tmp_path / "best")
    classes = tuple(json.loads((calibrated / "config.json").read_text())["classes"])
    Calibration(
        temperature=2.0,
        classes=classes,
        unknown_below=0.99,
        conformal_level=0.9,
        conformal_quantile=0.999,
    ).write(calibrated)
    (record,) = records(call(calibrated, videos[1], "--json", "--window", 1))
    assert record["unknown"]
    assert [segment["class"] for segment in record["timeline"]] == [None]
    table = call(calibrated, videos[1]).stdout
    assert "unknown" in table
    assert "prediction set" in table
    (record,) = records(call(calibrated, videos[1], "--json", "--no-calibration"))
    assert not record["unknown"]


def test_odd_names_are_read_from_arguments_and_lists(checkpoint, videos):
    names = ["-v.mp4", "a [b] :smile:.mp4", "é\x1b[2J.mp4", os.fsdecode(b"\xe9.mp4")]
    for name in names:
        shutil.copy(videos[0], name)
    result = call(checkpoint, "--json", "--", *names)
    assert [record["video"] for record in records(result)] == names
    listed = call(checkpoint, "-", "--csv", "a.csv", input=b"\n".join(map(os.fsencode, names)))
    assert "\x1b" not in listed.stdout
    assert "a [b] :smile:.mp4" in listed.stdout
    assert b"\n\xe9.mp4," in Path("a.csv").read_bytes()


def test_low_rates_and_short_videos_repeat_frames(checkpoint):
    write_numbered("short.mp4", "libx264", numbers=[1])
    (record,) = records(call(checkpoint, "short.mp4", "--json", "--window", 5))
    assert (record["frames"], len(record["windows"])) == (1, 1)
    assert record["windows"][0]["end_seconds"] == pytest.approx(0.04)


def test_folder_of_frames_needs_its_rate_for_windows(checkpoint):
    Path("frames").mkdir()
    for number in range(1, 9):
        Image.new("RGB", (80, 60), (number, 0, 0)).save(f"frames/{number:03}.png")
    assert len(records(call(checkpoint, "frames", "--json"))) == 1
    failed = call(checkpoint, "frames", "--window", 1, status=1)
    assert "a folder of frames has no times" in failed.stderr
    arguments = ("--window", 1, "--fps", 4, "--overlay", "o.mp4")
    (record,) = records(call(checkpoint, "frames", "--json", *arguments))
    assert [window["end_seconds"] for window in record["windows"]] == [1, 2]
    assert probe("o.mp4").fps == pytest.approx(4)


WRONG = [
    (("none.mp4",), "no such video, folder or object: 'none.mp4'"),
    (("*.avi",), "no video matches this pattern"),
    (("a.mp4", "--window", "0"), "must be a positive number, got 0"),
    (("a.mp4", "--window", "nan"), "must be a positive number, got nan"),
    (("a.mp4", "--window", "1", "--stride", "-1"), "must be a positive number, got -1"),
    (("a.mp4", "--stride", "1"), "--stride needs the length of a window"),
    (("a.mp4", "--top-k", "0"), "0 is not in the range x>=1"),
    (("a.mp4", "--classes", " "), "holds no class name"),
    (("a.mp4", "--classes", "a,A"), "are the same class"),
    (("a.mp4", "--classes-file", "none.txt"), "none.txt: cannot be read"),
    (("a.mp4", "--max-seconds", "1"), "is for a camera or stream"),
    (("camera:0", "--sheet", "a.png"), "need files"),
    (("a.mp4", "--overlay", "a.mp4"), "would replace the video a.mp4"),
    (("a.mp4", "--overlay", "."), "would replace the video a.mp4"),
    (("a.mp4", "--csv", "x/../a.mp4"), "has the ending of a video"),
    (("a.mp4", "--csv", "-", "--json"), "cannot share standard output"),
    (("a.mp4", "--json", "--json-file", "a.json"), "leave it out with --json-file"),
    (("a.mp4", "b.mp4", "--overlay", "c.mp4"), "one file cannot hold 2 videos"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG)
def test_wrong_arguments_are_refused_before_torch_loads(without_torch, arguments, message):
    Path("best").mkdir()
    for name in ("a.mp4", "b.mp4"):
        Path(name).touch()
    result = call("best", *arguments, status=2)
    assert message in result.stderr
    assert result.stdout == ""


def test_missing_checkpoint_is_refused_before_torch_loads(without_torch):
    assert "none: must be the folder of a checkpoint" in call("none", "a.mp4", status=2).stderr


def test_list_without_names_is_refused_before_torch_loads(without_torch):
    Path("best").mkdir()
    assert "standard input holds no names" in call("best", "-", input="\n", status=2).stderr


def test_folder_that_is_no_checkpoint_is_refused(videos, tmp_path):
    assert "must be a checkpoint folder" in call(tmp_path, videos[0], status=1).stderr


def test_checkpoint_of_another_version_is_refused(checkpoint, videos, tmp_path):
    copy = shutil.copytree(checkpoint, tmp_path / "best")
    record = json.loads((copy / "config.json").read_text())
    record["experiment"]["optim"]["new_setting"] = 1
    (copy / "config.json").write_text(json.dumps(record))
    (copy / "checksums.json").unlink()
    result = call(copy, videos[0], status=1)
    assert "new_setting" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_full_disk_ends_with_its_reason(checkpoint, videos):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for arguments in (("--csv", "a.csv"), ("--overlay", "a.mp4"), ("--sheet", "a.png")):
        resource.setrlimit(resource.RLIMIT_FSIZE, (200, before[1]))
        try:
            result = call(checkpoint, videos[0], *arguments, status=1)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert "the limit of the file size is reached" in result.stderr, arguments


def test_closed_pipe_ends_quietly(checkpoint, videos, monkeypatch):
    def write(self, record):
        raise BrokenPipeError

    monkeypatch.setattr(prediction_output.Results, "_write_json", write)
    result = call(checkpoint, *videos, "--json", status=1)
    assert result.stdout == ""
    assert "Error" not in result.stderr


def test_interruption_prints_what_is_done(checkpoint, videos, monkeypatch):
    real = Recognizer.predict_many

    def interrupted(self, videos, **options):
        yield next(real(self, videos, **options))
        raise KeyboardInterrupt

    monkeypatch.setattr(Recognizer, "predict_many", interrupted)
    result = call(checkpoint, *videos, "--sheet", "sheet.png", status=130)
    assert "Interrupted after 1 of 3 videos" in result.stderr
    assert "0.mp4" in result.stdout
    assert Image.open("sheet.png").height == 140


def test_progress_of_a_long_video_shows_its_time(checkpoint, videos, monkeypatch):
    # A terminal is drawn ten times per second, so that a short time may not appear in it.
    console = PlainConsole(file=io.StringIO(), width=140, force_terminal=True)
    # The package has the command under the name of its module.
    monkeypatch.setattr(sys.modules["evclip_ray.cli.predict"], "error_console", console)
    shown = []
    monkeypatch.setattr(Bars, "show", lambda self, *facts: shown.append(facts))
    (record,) = records(call(checkpoint, videos[2], "--json", "--window", 1))
    assert len(record["windows"]) == 3
    times = [facts for step, done, total, facts in shown if step == "videos" and facts.startswith("at")]
    assert times == ["at 1 s", "at 2 s", "at 3 s"]


@pytest.fixture
def camera(monkeypatch):
    """Replace the camera by a source of 10 frames per second that never waits, and return its state."""
    state = {"frames": 35, "error": None}

    class Reader:
        fps, num_dropped = 10.0, 3

        def __init__(self, source, view):
            assert source.camera == 0

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def __iter__(self):
            for number in range(state["frames"]):
                yield TimedFrame(number / 10, np.full((72, 72, 3), number, np.uint8))
            if state["error"] is not None:
                raise state["error"]

    monkeypatch.setattr(cameras, "LiveReader", Reader)
    return state


def test_camera_prints_a_line_for_each_window(checkpoint, camera):
    result = call(checkpoint, "camera:0", "--json", "--window", 1, "--csv", "a.csv")
    found = records(result)
    assert [(record["video"], record["start_seconds"]) for record in found] == [
        ("camera:0", 0),
        ("camera:0", 1),
        ("camera:0", 2),
        # The rest at the end, as of a file.
        ("camera:0", 2.5),
    ]
    assert "3 frames were dropped" in result.stderr
    assert len(Path("a.csv").read_text().splitlines()) == 5
    ended = call(checkpoint, "0", "--json", "--window", 1, "--stride", 0.5, "--max-seconds", 2)
    assert [record["start_seconds"] for record in records(ended)] == [0, 0.5, 1]


def test_camera_in_a_terminal_prints_changes_of_the_class(checkpoint, camera):
    lines = call(checkpoint, "0", "--window", 0.5).stdout.splitlines()
    names = [line.split(" s  ")[1].rpartition("  ")[0] for line in lines]
    assert names[0]
    assert all(one != other for one, other in itertools.pairwise(names))


def test_interrupted_camera_is_a_success_and_a_lost_one_is_not(checkpoint, camera):
    camera["error"] = KeyboardInterrupt()
    assert len(records(call(checkpoint, "0", "--json"))) == 1
    camera["error"] = predict_error()
    result = call(checkpoint, "0", "--json", status=1)
    assert records(result)[-1] == {"video": "0", "error": "the camera stopped"}
    assert "failed: 0: the camera stopped" in result.stderr


def predict_error():
    from evclip_ray.data.video.decode import VideoError

    return VideoError("0", "the camera stopped")


@pytest.mark.slow
def test_head_ends_the_command_without_a_message(checkpoint, videos):
    names = [str(videos[0])]
    for number in range(300):
        Path(f"{number}.mp4").hardlink_to(videos[0])
        names.append(f"{number}.mp4")
    command = [sys.executable, "-m", "evclip_ray", "predict", str(checkpoint), "--json", *names]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert json.loads(process.stdout.readline())["video"] == names[0]
        process.stdout.close()
        errors = process.stderr.read().decode()
    assert process.returncode == 1
    assert "Error" not in errors
    assert "Traceback" not in errors
    assert "Exception ignored" not in errors
