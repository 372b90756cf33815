"""Tests of path_label, mmaction and ev_clip_shots, of class tables and of the file search."""

import os
import pickle
import sys
import types

import pytest

from evclip_ray.class_names import normalized_name
from evclip_ray.config import ConfigError
from evclip_ray.data.importers import import_dataset
from evclip_ray.data.importers.annotation_files import AnnotationError
from evclip_ray.data.importers.class_names import FileNameParser, read_class_names
from evclip_ray.data.importers.ev_clip_shots import read_shots
from evclip_ray.data.manifest.leaks import find_leaks

RECORD = "dassl.data.datasets.base_dataset"


@pytest.fixture
def dump(monkeypatch):
    """Pickle records of the published class, which exists only during this call."""
    for name in ("dassl", "dassl.data", "dassl.data.datasets", RECORD):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    record = type("Datum_video", (), {"__module__": RECORD})
    sys.modules[RECORD].Datum_video = record

    def dump(items, protocol=pickle.HIGHEST_PROTOCOL):
        records = []
        for path, label, class_name in items:
            one = record()
            one.__dict__ = {"_impath": path, "_label": label, "_domain": 0, "_classname": class_name}
            records.append(one)
        return pickle.dumps({"train": records}, protocol=protocol)

    return dump


class Malicious:
    """Object whose pickle calls a function."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def test_swapped_labels_are_reported_with_their_rows(write):
    """Published ViFi lists have kick = 0 and kick_ball = 1, the published names the opposite."""
    names = [
        "A_kick_f_cm_np1_ba_bad_0.avi",
        "B_kick_ball_f_cm_np1_ba_bad_0.avi",
        "C_wave_f_cm_np1_ba_bad_0.avi",
    ]
    root = write(
        {
            "labels.csv": "id,name\r\n0,kick ball\r\n1,kick\r\n2,wave\r\n",
            "val1.txt": "".join(f"{name} {label}\r\n" for label, name in enumerate(names)),
        },
        names,
    )
    report = import_dataset("path_label", root, lists=root.parent, labels="labels.csv", test="val1.txt")
    assert [row.partition(": ")[2] for row in report.mislabelled] == [
        f"{names[0]} is labelled 'kick ball', but named 'kick'",
        f"{names[1]} is labelled 'kick', but named 'kick ball'",
    ]
    assert "val1.txt, line 1" in report.mislabelled[0]


def test_shots_from_another_split_leak_into_the_test_list(write):
    names = [f"F{k}_kick_f_cm_np1_ba_bad_0.avi" for k in range(3)]
    root = write(
        {
            "l.csv": "id,name\n0,kick\n",
            "shots.txt": f"{names[0]} 0\n{names[1]} 0\n",
            "val2.txt": f"{names[1]} 0\n{names[2]} 0\n",
        },
        names,
    )
    report = import_dataset(
        "path_label", root, lists=root.parent, labels="l.csv", train="shots.txt", test="val2.txt"
    )
    leaks = find_leaks(report.manifest)
    assert [(leak.kind, leak.rows) for leak in leaks] == [("path", (1, 2)), ("group", (1, 2))]


def test_import_without_a_list_is_refused(write):
    root = write({"l.csv": "id,name\n0,kick\n"}, ["a.mp4"])
    with pytest.raises(ConfigError, match="name at least one list"):
        import_dataset("path_label", root, lists=root.parent, labels="l.csv")


@pytest.mark.parametrize(
    ("line", "path"),
    [
        ("a b/c.mp4 0", "a b/c.mp4"),
        ("a b/c.mp4,0", "a b/c.mp4"),
        ("'a b/c.mp4' 0", "a b/c.mp4"),
        ('"a b/c.mp4", 0  ', "a b/c.mp4"),
        ("a b/c.mp4\t0", "a b/c.mp4"),
        ("/far/away/a b/c.mp4 0", "a b/c.mp4"),
        ("-x, y #1!.webm 0", "-x, y #1!.mp4"),
    ],
)
def test_paths_may_contain_spaces_and_symbols(write, line, path):
    root = write({"l.csv": "id,name\n0,kick\n", "t.txt": f"{line}\n"}, [path])
    report = import_dataset("path_label", root, lists=root.parent, labels="l.csv", train="t.txt")
    assert report.manifest.column("path") == [path]


def test_same_name_in_another_folder_is_another_video(write):
    root = write(
        {"l.csv": "id,name\n0,kick\n", "t.txt": "kick/001.mp4 0\nkick/002.mp4 0\n"},
        ["punch/001.mp4", "kick/002.mp4"],
    )
    report = import_dataset("path_label", root, lists=root.parent, labels="l.csv", train="t.txt")
    assert report.missing == ("kick/001.mp4",)
    assert report.unlisted == ("punch/001.mp4",)


def test_name_in_the_other_unicode_form_is_found(write):
    root = write(
        {"l.csv": "id,name\n0,kick\n", "t.txt": "caf\u00e9/caf\u00e9.mp4 0\n"}, ["cafe\u0301/cafe\u0301.mp4"]
    )
    report = import_dataset("path_label", root, lists=root.parent, labels="l.csv", train="t.txt")
    assert report.manifest.column("path") == ["cafe\u0301/cafe\u0301.mp4"]


def test_two_equally_good_matches_are_refused(write):
    root = write({"l.csv": "id,name\n0,kick\n", "t.txt": "001.mp4 0\n"}, ["a/001.mp4", "b/001.mp4"])
    with pytest.raises(AnnotationError, match=r"'001.mp4' may be 'a/001.mp4' or 'b/001.mp4'"):
        import_dataset("path_label", root, lists=root.parent, labels="l.csv", train="t.txt")


def test_file_with_most_matching_folders_is_chosen(write):
    root = write(
        {"l.csv": "id,name\n0,kick\n", "t.txt": "/x/train/kick/001.mp4 0\n"},
        ["val/kick/001.mp4", "train/kick/001.mp4"],
    )
    report = import_dataset("path_label", root, lists=root.parent, labels="l.csv", train="t.txt")
    assert report.manifest.column("path") == ["train/kick/001.mp4"]


@pytest.mark.parametrize("frames", ["0", "-3"])
def test_frame_folder_without_frames_is_refused(write, frames):
    root = write({"l.txt": "kick\n", "t.txt": f"a {frames} 0\n"}, ["a.mp4"])
    with pytest.raises(AnnotationError, match=r"line 1: the number of frames must be at least 1"):
        import_dataset("mmaction", root, lists=root.parent, labels="l.txt", train="t.txt", frames=True)


def test_mmaction_video_lists_are_read(write):
    root = write({"l.txt": "kick\nrun\n", "t.txt": "some/path/000.mp4 1\n"}, ["some/path/000.mp4"])
    report = import_dataset("mmaction", root, lists=root.parent, labels="l.txt", train="t.txt")
    assert report.manifest.column("label") == ["run"]


@pytest.mark.parametrize(
    "text",
    [
        "id,name\n0,ApplyEyeMakeup\n1,kick_ball\n",
        "\ufeffname,id\r\n kick_ball ,1\r\nApply Eye Makeup,0\r\n",
        '"id","name"\n1,"Apply eye makeup"\n2,"kick ball"\n',
        "id,key,instances,category\n0,apply-eye-makeup,\"['a']\",x\n1,kick ball,\"['b']\",y\n",
        'SNo,Class Name,GPT3 discription\n1,ApplyEyeMakeup,"one,\n""two"""\n2,kick_ball,x\n',
        "1 ApplyEyeMakeup\n2 kick_ball\n",
        "ApplyEyeMakeup\nkick_ball\n",
    ],
)
def test_class_tables_of_every_form_are_read(tmp_path, text):
    (tmp_path / "t.txt").write_text(text)
    assert [normalized_name(name) for name in read_class_names(tmp_path / "t.txt")] == [
        "applyeyemakeup",
        "kickball",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,name\n0,a\n2,b\n", r"ids must count from 0 or 1 without a gap, but 1 has no name"),
        ("id,name\n5,a\n6,b\n", r"but 5 has no name|ids are 5 to 6"),
        ("id,name\n0,a\n0,b\n", r"line 3: class id 0 is listed twice, as 'a' too"),
        (
            "id,name\n0,kick_ball\n1,KickBall\n",
            r"line 3: class name 'KickBall' is listed twice, with id 0 too",
        ),
        ("id,name\n0,a\nx,b\n", r"line 3: the class id must be a whole number, got 'x'"),
        ("id,name\n0,a,b\n", r"line 2: must have 2 cells, got 3"),
        ('id,name\n0,"a\n', r"line \d: not a valid CSV"),
        ("id,name\n", "contains no rows"),
        ("number,what\n0,a\n", "the header must name an id and a name column"),
    ],
)
def test_broken_class_tables_are_refused(tmp_path, text, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(AnnotationError, match=message):
        read_class_names(tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("path", "label"),
    [
        ("x/v_HandStandPushups_g01_c01.avi", "Handstand Pushups"),
        ("Foo_sword_exercise_f_nm_np1_fr_med_0.avi", "sword exercise"),
        ("sword_exercise_sword_f_nm_np1_fr_med_0.avi", "sword"),
        ("a/Drink_11_1.avi", "drink"),
        ("a/Sword_Exercise/holiday.avi", "sword exercise"),
        ("a/b/holiday.avi", None),
    ],
)
def test_class_is_read_from_file_names(path, label):
    named = FileNameParser(["Handstand Pushups", "sword", "sword exercise", "drink"]).read(path)
    assert (named and named.label) == label


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_published_shots_are_read_without_their_classes(dump, tmp_path, monkeypatch, protocol):
    (tmp_path / "s.pkl").write_bytes(dump([("a/b.avi", 3, "kick")], protocol))
    for name in [name for name in sys.modules if name.startswith("dassl")]:
        monkeypatch.delitem(sys.modules, name)
    (shot,) = read_shots(tmp_path / "s.pkl")
    assert (shot.path, shot.label, shot.class_name, shot.split) == ("a/b.avi", 3, "kick", "train")


@pytest.mark.parametrize(
    "call",
    [
        (os.system, "touch {sign}"),
        (eval, "open('{sign}', 'w')"),
        (exec, "open('{sign}', 'w')"),
        (open, "{sign}", "w"),
        (__import__, "os"),
        (getattr, "x", "upper"),
        (os.mkdir, "{sign}"),
    ],
    ids=lambda call: call[0].__name__,
)
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_pickle_with_a_call_is_refused_without_calling(tmp_path, call, protocol):
    sign = tmp_path / "sign"
    function, *arguments = call
    formatted = [text.format(sign=sign) if isinstance(text, str) else text for text in arguments]
    evil = {"train": [Malicious(function, *formatted)]}
    (tmp_path / "s.pkl").write_bytes(pickle.dumps(evil, protocol=protocol))
    with pytest.raises(
        AnnotationError, match=r"s.pkl: not a few-shot list of EV-CLIP \(it refers to \w+\.\w+"
    ):
        read_shots(tmp_path / "s.pkl")
    assert not sign.exists()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not a pickle",
        b"\x80\x05",
        b"cdassl.data.datasets.base_dataset\nDatum_video.__init__.__globals__\n.",
        b"cevclip_ray.data.importers.ev_clip_shots\npickle\n.",
        b"\x80\x05\x8c\x02os\x8c\x06system\x93\x8c\x02ls\x85R.",
        b"P0\n.",
        b"\x82\x01.",
        b"cdassl.data.datasets.base_dataset\nDatum\n.",
    ],
)
def test_damaged_and_crafted_pickles_are_refused(tmp_path, data):
    (tmp_path / "s.pkl").write_bytes(data)
    with pytest.raises(AnnotationError, match=r"s\.pkl"):
        read_shots(tmp_path / "s.pkl")


@pytest.mark.parametrize(
    "value",
    [
        [],
        {},
        {"train": "x"},
        {"train": [1]},
        {"train": [{"_impath": "a"}]},
        {"other": []},
        {1: []},
        {("a",): 1},
    ],
)
def test_pickle_of_another_shape_is_refused(tmp_path, value):
    (tmp_path / "s.pkl").write_bytes(pickle.dumps(value))
    with pytest.raises(AnnotationError, match=r"s\.pkl"):
        read_shots(tmp_path / "s.pkl")


@pytest.mark.parametrize("item", [(1, 0, "a"), ("a.mp4", "0", "a"), ("a.mp4", True, "a"), ("a.mp4", 0, None)])
def test_invalid_records_are_reported(dump, tmp_path, item):
    (tmp_path / "s.pkl").write_bytes(dump([("ok.mp4", 0, "a"), item]))
    with pytest.raises(AnnotationError, match=r"s.pkl, record 2: a record must have a path"):
        read_shots(tmp_path / "s.pkl")


def test_pickles_do_not_share_record_classes(dump, tmp_path):
    crafted = b"c" + RECORD.encode() + b"\nDatum_video\n(N}V_label\nI7\nsV_impath\nVx\nsV_classname\nVy\nstb."
    (tmp_path / "crafted.pkl").write_bytes(crafted)
    with pytest.raises(AnnotationError):
        read_shots(tmp_path / "crafted.pkl")
    (tmp_path / "empty.pkl").write_bytes(dump([("a.mp4", 0, "a")]).replace(b"_label", b"_lapel"))
    with pytest.raises(AnnotationError, match=r"record 1: a record must have"):
        read_shots(tmp_path / "empty.pkl")


def epic_shots(write, dump, **options):
    root = write(
        {
            "s.pkl": dump(
                [("P03/rgb_frames/P03_119+748+778", 0, "take-from"), ("x/P03_120+1+50", 0, "pick-up")]
            ),
            "verbs.csv": "id,key,instances,category\n0,take,\"['take-from', 'pick-up']\",x\n",
            "rates.csv": "video_id,duration,fps,resolution\nP03_119,1.5,50.0,1x1\nP03_120,9.5,59.94,1x1\n",
        },
        ["P03/videos/P03_119.MP4", "P03/videos/P03_120.MP4"],
    )
    return import_dataset("ev_clip_shots", root, lists=root.parent, shots="s.pkl", **options)


def test_epic_shots_become_parts_with_official_verbs(write, dump):
    report = epic_shots(write, dump, labels="verbs.csv", frame_rates="rates.csv")
    row = report.manifest.rows()[0]
    assert (row["path"], row["label"], row["group"]) == ("P03/videos/P03_119.MP4", "take", "P03_119")
    assert row["start_seconds"] == pytest.approx(747 / 50)
    assert row["end_seconds"] == pytest.approx(778 / 50)
    assert report.mislabelled == ()


def test_narrated_verbs_are_not_class_names(write, dump):
    with pytest.raises(
        AnnotationError, match=r"record 2: class 0 has several names \(pick-up, take-from\); .*labels=FILE"
    ):
        epic_shots(write, dump, frame_rates="rates.csv")
    with pytest.raises(
        AnnotationError,
        match=r"record 1: frames become seconds of .*P03_119.MP4 by its frame rate; .*frame_rates=FILE",
    ):
        epic_shots(write, dump, labels="verbs.csv")


def test_invalid_frame_rate_is_reported(write, dump, tmp_path):
    write({"bad.csv": "video_id,fps\nP03_119,nan\n"})
    with pytest.raises(AnnotationError, match=r"bad.csv, line 2: fps must be a number above 0, got 'nan'"):
        epic_shots(write, dump, labels="verbs.csv", frame_rates="bad.csv")


def framed(root, name, numbers, template="img_{:05d}.jpg"):
    (root / name).mkdir(parents=True)
    for number in numbers:
        (root / name / template.format(number)).touch()


def test_frame_count_that_differs_from_the_list_is_reported(write):
    root = write({"map.txt": "run\nwave\n", "train.txt": "a/1 3 0\na/2 2 1\n"})
    framed(root, "a/1", range(1, 4))
    framed(root, "a/2", range(1, 4))
    report = import_dataset(
        "mmaction", root, lists=root.parent, labels="map.txt", train="train.txt", frames=True, fps=30
    )
    assert report.manifest.column("fps") == [30.0, 30.0]
    (problem,) = report.miscounted
    assert problem.endswith("train.txt, line 2: a/2 contains 3 frames, the list has 2")


def test_flow_images_are_not_counted_as_frames(write):
    root = write({"map.txt": "run\nwave\n", "train.txt": "a/1 3 0\na/2 3 1\n"})
    for name in ("a/1", "a/2"):
        framed(root, name, range(1, 4))
        for number in range(1, 3):
            (root / name / f"flow_x_{number:05d}.jpg").touch()
    options = {"lists": root.parent, "labels": "map.txt", "train": "train.txt", "frames": True}
    assert import_dataset("mmaction", root, **options).miscounted == ()


@pytest.mark.parametrize(("frames", "expected"), [(True, "kick/7"), (False, "kick/7.mp4")])
def test_frames_next_to_a_video_need_a_list_of_frames(write, frames, expected):
    lists = {"map.txt": "kick\nrun\n", "train.txt": "kick/7 2 0\n" if frames else "x/kick/7.mov 0\n"}
    root = write(lists, ["kick/7.mp4"])
    framed(root, "kick/7", (1, 2))
    options = {"lists": root.parent, "labels": "map.txt", "train": "train.txt", "frames": frames}
    assert import_dataset("mmaction", root, **options).manifest.column("path") == [expected]


def test_invalid_rate_option_is_refused(write):
    root = write({"map.txt": "run\nwave\n", "train.txt": "a/1 3 0\n"})
    framed(root, "a/1", range(1, 4))
    options = {"lists": root.parent, "labels": "map.txt", "train": "train.txt", "frames": True}
    with pytest.raises(ConfigError, match="fps must be above 0, got 0"):
        import_dataset("mmaction", root, fps=0, **options)


def test_epic_shots_in_frames_need_no_rate(write, dump):
    root = write(
        {
            "s.pkl": dump([("P03/rgb_frames/P03_119+748+778", 0, "take-from")]),
            "verbs.csv": "id,key,instances,category\n0,take,\"['take-from']\",x\n",
        }
    )
    framed(root, "P03/rgb_frames/P03_119", range(1, 801), "frame_{:010d}.jpg")
    report = import_dataset("ev_clip_shots", root, lists=root.parent, shots="s.pkl", labels="verbs.csv")
    (row,) = report.manifest.rows()
    assert (row["path"], row["start_frame"], row["end_frame"]) == ("P03/rgb_frames/P03_119", 747, 778)
    assert (row["start_seconds"], row["fps"]) == (None, None)
