"""Conformance suite of the importers: rules that hold for all, on small trees in the official formats.

`TREES` has one tree per importer and `FORMS` adds other formats of the same data sets. Each test runs on
every form. Rules of single importers are in `test_import_datasets` and `test_import_community`.
"""

import dataclasses
import json
import os
import pickle
import shutil
import sys
import types
from pathlib import Path

import pytest

from evclip_ray.config import ConfigError
from evclip_ray.data.importers import DATASETS, import_dataset
from evclip_ray.data.importers.annotation_files import AnnotationError


@dataclasses.dataclass(frozen=True)
class Tree:
    """Small data set on disk, and edits that break it.

    Attributes:
        lists: File name -> content of each list.
        videos: Video files. A name that ends with a slash is a folder of frames.
        labels: Expected classes.
        options: Options of the importer.
        missing_list: List that the importer needs.
        truncated: Edit that shortens a line: (file, old text, new text, error message).
        out_of_range: Edit that sets a class number out of range.
        nameless: Edit that removes a class name. Empty if classes come from file names.
    """

    lists: dict
    videos: tuple
    labels: tuple
    options: dict = dataclasses.field(default_factory=dict)
    missing_list: str = ""
    truncated: tuple = ()
    out_of_range: tuple = ()
    nameless: tuple = ()

    def write(self, root):
        for name, text in self.lists.items():
            path = root / "lists" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text if isinstance(text, bytes) else text.encode())
        for name in self.videos:
            path = root / "videos" / name
            if name.endswith("/"):  # A folder of frames.
                path = path / "img_00001.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return root

    def load(self, root, dataset):
        return import_dataset(dataset, root / "videos", lists=root / "lists", **self.options)


def pickled(items, module="dassl.data.datasets.base_dataset", name="Datum_video"):
    """Return a pickle as the published code wrote it, of a class that exists only during this call."""
    record = type(name, (), {"__module__": module})
    parts = module.split(".")
    fakes = {".".join(parts[: k + 1]): types.ModuleType(".".join(parts[: k + 1])) for k in range(len(parts))}
    setattr(fakes[module], name, record)
    records = []
    for path, label, class_name in items:
        one = record()
        one.__dict__ = {
            "_impath": path,
            "_label": label,
            "_domain": 0,
            "_classname": class_name,
            "_clip": -1,
            "_crop": -1,
            "_timestamp": None,
        }
        records.append(one)
    with pytest.MonkeyPatch.context() as patch:
        for key, fake in fakes.items():
            patch.setitem(sys.modules, key, fake)
        return pickle.dumps({"train": records}, protocol=pickle.HIGHEST_PROTOCOL)


EPIC = (
    "narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,start_frame,"
    "stop_frame,narration,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes\n"
)
SSV2_TRAIN = [
    {
        "id": "78687",
        "label": "holding a next to b",
        "template": "Holding [something] next to [something]",
        "placeholders": ["potato", "vicks"],
    },
    {"id": "42", "label": "x", "template": "Pushing [something]", "placeholders": ["x"]},
]

TREES = {
    "ucf101": Tree(
        lists={
            "classInd.txt": "1 ApplyEyeMakeup\n2 HandstandPushups\n3 YoYo\n",
            "trainlist01.txt": "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1\n"
            "HandstandPushups/v_HandStandPushups_g09_c02.avi 2\nYoYo/v_YoYo_g10_c01.avi 3\n",
            "testlist01.txt": "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi\n"
            "HandstandPushups/v_HandStandPushups_g01_c01.avi\n",
        },
        videos=(
            "UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi",
            "UCF-101/HandstandPushups/v_HandStandPushups_g09_c02.avi",
            "UCF-101/YoYo/v_YoYo_g10_c01.avi",
            "UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi",
            "UCF-101/HandstandPushups/v_HandStandPushups_g01_c01.avi",
        ),
        labels=("apply eye makeup", "handstand pushups", "yo yo"),
        missing_list="testlist01.txt",
        truncated=(
            "trainlist01.txt",
            "v_YoYo_g10_c01.avi 3",
            "v_YoYo_g1",
            r"trainlist01.txt, line 3: must be",
        ),
        out_of_range=("trainlist01.txt", ".avi 3", ".avi 4", r"line 3: the class id must be 1 to 3, got 4"),
        nameless=("classInd.txt", "3 YoYo", "3 ", r"classInd.txt, line 3: class 3 has no name"),
    ),
    "hmdb51": Tree(
        lists={
            "kick_test_split1.txt": "!!Kicks_kick_f_cm_np1_ba_bad_0.avi 1 \nB_kick_f_cm_np1_ba_bad_1.avi 2 \n"
            "C_kick_f_cm_np1_le_med_2.avi 0 \n",
            "kick_ball_test_split1.txt": "#20_Rhythm_kick_ball_u_nm_np1_fr_goo_2.avi 1 \n",
        },
        videos=(
            "kick/!!Kicks_kick_f_cm_np1_ba_bad_0.avi",
            "kick/B_kick_f_cm_np1_ba_bad_1.avi",
            "kick/C_kick_f_cm_np1_le_med_2.avi",
            "kick_ball/#20_Rhythm_kick_ball_u_nm_np1_fr_goo_2.avi",
        ),
        labels=("kick", "kick ball"),
        missing_list="kick_test_split1.txt",
        truncated=(
            "kick_test_split1.txt",
            "bad_1.avi 2 ",
            "bad_1.av",
            r"kick_test_split1.txt, line 2: must be",
        ),
        out_of_range=("kick_test_split1.txt", "bad_1.avi 2", "bad_1.avi 3", r"line 2: .* 1 train, 2 test"),
    ),
    "arid": Tree(
        lists={
            "mapping_table.txt": "0\tDrink\n1\tJump\n",
            "ARID_split1_train.txt": "0\t0\tDrink/Drink_11_1.avi\n1\t1\tJump/Jump_1_2.avi\n",
            "ARID_split1_test.txt": "0\t0\tDrink/Drink_2_1.avi\n",
            "ARID_split1_other.txt": "0\t1\tJump/Jump_9_9.avi\n",
        },
        videos=("Drink/Drink_11_1.avi", "Jump/Jump_1_2.avi", "Drink/Drink_2_1.avi", "Jump/Jump_9_9.avi"),
        labels=("Drink", "Jump"),
        missing_list="ARID_split1_train.txt",
        truncated=("ARID_split1_train.txt", "1\t1\tJump/Jump_1_2.avi", "1\t1\tJu", r"line 2: must be a row"),
        out_of_range=("ARID_split1_train.txt", "1\t1\t", "1\t11\t", r"line 2: .* must be 0 to 1, got 11"),
        nameless=("mapping_table.txt", "1\tJump", "1\t", r"mapping_table.txt, line 2: class 1 has no name"),
    ),
    "egtea": Tree(
        lists={
            "raw_annotations/cls_label_index.csv": "# Action ID; Action Label; Verb Label; Noun Label(s)\n"
            "0; Cut tomato; Cut; tomato\n1; Inspect/Read recipe; Inspect/Read; recipe\n",
            "raw_annotations/action_labels.csv": "# Clip ID; Clip Prefix (Unique); Video Session; Start; End;"
            " Action Label; Verb Label; Noun Label(s)\n1; OP01-R01-PastaSalad-66680-68130; session;"
            " 66680; 68130; Cut tomato; Cut; tomato\n",
            "train_split1.txt": "OP01-R01-PastaSalad-66680-68130-F001597-F001639 1 1 1 \n"
            "P05-R02-Pizza-1-20-F000001-F000030 2 2 2 3\n",
            "test_split1.txt": "P07-R01-Pizza-1-20-F000001-F000030 2 2 2\n",
        },
        videos=(
            "OP01-R01-PastaSalad/OP01-R01-PastaSalad-66680-68130-F001597-F001639.mp4",
            "P05-R02-Pizza/P05-R02-Pizza-1-20-F000001-F000030.mp4",
            "P07-R01-Pizza/P07-R01-Pizza-1-20-F000001-F000030.mp4",
        ),
        labels=("Cut tomato", "Inspect/Read recipe"),
        missing_list="train_split1.txt",
        truncated=("train_split1.txt", "2 2 2 3", "2 2", r"train_split1.txt, line 2: must be <session>"),
        out_of_range=("train_split1.txt", "F000030 2", "F000030 3", r"line 2: .* must be 1 to 2, got 3"),
        nameless=(
            "raw_annotations/cls_label_index.csv",
            "; Cut tomato;",
            "; ;",
            r"line 2: class 0 has no name",
        ),
    ),
    "epic_kitchens": Tree(
        lists={
            "EPIC_100_verb_classes.csv": "id,key,instances,category\n"
            "0,take,\"['collect-from', 'take', 'grab']\",x\n"
            "1,put,\"['put', 'put-on']\",x\n",
            "EPIC_100_train.csv": EPIC
            + "P01_11_0,P01,P01_11,00:00:00.560,00:00:00.00,00:00:01.89,1,113,take plate,take,0,plate,2,"
            "['plate'],[2]\n"
            "P01_11_1,P01,P01_11,00:00:02,00:01:00.50,01:00:01.25,1,113,put it,put-on,1,a,2,"
            "\"['a', 'b']\",\"[2, 3]\"\n",
            "EPIC_100_validation.csv": EPIC
            + "P01_12_0,P01,P01_12,00:00:00.560,00:00:00.14,00:00:03.37,8,202,grab it,grab,0,a,2,['a'],[2]\n",
        },
        videos=("P01/videos/P01_11.MP4", "P01/videos/P01_12.MP4"),
        labels=("take", "put"),
        missing_list="EPIC_100_validation.csv",
        truncated=(
            "EPIC_100_train.csv",
            ",put-on,1,a,2,\"['a', 'b']\",\"[2, 3]\"",
            ",put-on",
            r"line 3: must have 15 cells",
        ),
        out_of_range=(
            "EPIC_100_train.csv",
            ",put-on,1,",
            ",put-on,97,",
            r"line 3: .* must be 0 to 1, got 97",
        ),
        nameless=("EPIC_100_verb_classes.csv", "0,take,", "0,,", r"line 2: class 0 has no name"),
    ),
    "ssv2": Tree(
        lists={
            "something-something-v2-labels.json": json.dumps(
                {"Holding something next to something": "0", "Pushing something": "1"}, indent=0
            ),
            "something-something-v2-train.json": json.dumps(SSV2_TRAIN, indent=0),
            "something-something-v2-validation.json": json.dumps(
                [{"id": "7", "label": "y", "template": "Pushing [something]"}]
            ),
        },
        videos=("78687.webm", "42.webm", "7.webm"),
        labels=("Holding something next to something", "Pushing something"),
        missing_list="something-something-v2-validation.json",
        truncated=(
            "something-something-v2-train.json",
            '"x"\n]\n}\n]',
            '"x"',
            r"train.json, line \d+: not valid JSON",
        ),
        out_of_range=(
            "something-something-v2-labels.json",
            '"1"',
            '"174"',
            r"ids must count from 0 .* 1 has no name",
        ),
        nameless=(
            "something-something-v2-train.json",
            "Pushing [",
            "Pulling [",
            r"item 2: .* be in labels.json",
        ),
    ),
    "kinetics": Tree(
        lists={
            "train.csv": "label,youtube_id,time_start,time_end,split\njavelin throw,--07WQ2iBlw,1,11,train\n"
            '"""air, drumming""",-0aB#!_c,68,78,train\n',
            "validate.csv": "label,youtube_id,time_start,time_end,split\n"
            "javelin throw,zZfJghfIz8,0,10,validate\n",
        },
        videos=(
            "train/javelin_throw/--07WQ2iBlw_000001_000011.mp4",
            "train/air, drumming/-0aB#!_c_000068_000078.mp4",
            "val/javelin throw/zZfJghfIz8_000000_000010.mp4",
        ),
        labels=("air, drumming", "javelin throw"),
        missing_list="train.csv",
        truncated=("train.csv", ",68,78,train", ",68", r"train.csv, line 3: must have 5 cells, got 3"),
        out_of_range=("train.csv", ",68,78,", ",78,68,", r"line 3: .* end after it starts"),
        nameless=("train.csv", "javelin throw,--", ",--", r"line 2: the label must not be blank"),
    ),
    "path_label": Tree(
        lists={
            "hmdb_51_labels.csv": 'id,name\n0,brush_hair\n1,"kick, ball"\n',
            "train1_few_shot_2.txt": "April_09_brush_hair_u_nm_np1_ba_goo_0.avi 0\nsome dir/-x!#1.mp4 1\n",
            "val1.txt": '"val dir/b c.mp4",1\n',
        },
        videos=(
            "brush_hair/April_09_brush_hair_u_nm_np1_ba_goo_0.avi",
            "some dir/-x!#1.mp4",
            "val dir/b c.mp4",
        ),
        labels=("brush hair", "kick, ball"),
        options={"labels": "hmdb_51_labels.csv", "train": "train1_few_shot_2.txt", "test": "val1.txt"},
        missing_list="val1.txt",
        truncated=(
            "train1_few_shot_2.txt",
            "-x!#1.mp4 1",
            "-x!",
            r"few_shot_2.txt, line 2: must be a path and",
        ),
        out_of_range=("train1_few_shot_2.txt", ".mp4 1", ".mp4 2", r"line 2: .* must be 0 to 1, got 2"),
        nameless=("hmdb_51_labels.csv", "0,brush_hair", "0,", r"line 2: class 0 has no name"),
    ),
    "mmaction": Tree(
        lists={
            "label_map.txt": "brush_hair\ncartwheel\n",
            "train.txt": "some/directory-1 163 1\nsome/directory 2 122 0\n",
            "val.txt": "some/directory-3 258 1\n",
        },
        videos=("some/directory-1.mp4", "some/directory 2.webm", "some/directory-3.avi"),
        labels=("brush hair", "cartwheel"),
        options={"labels": "label_map.txt", "train": "train.txt", "test": "val.txt", "frames": True},
        missing_list="train.txt",
        truncated=("train.txt", "directory 2 122 0", "directory-2", r"train.txt, line 2: must be a folder"),
        out_of_range=("train.txt", "163 1", "163 -1", r"line 1: .* must be 0 to 1, got -1"),
        nameless=("train.txt", "122 0", "122 2", r"must be 0 to 1"),
    ),
    "ez_clip": Tree(
        lists={
            "gpt.csv": "SNo,Class Name,GPT3 discription\n"
            '1,brush_hair,"Hair, brushed\nby ""hand"""\n2,kick,A kick\n',
            "train.txt": "/home/x/HMDB/brush_hair/April_09_brush_hair_u_nm_np1_ba_goo_0.avi 45 0\n"
            "/home/x/UCF/kick/v_kick_g01_c01 164 1\n",
            "test.txt": "/home/x/UCF/kick/v_kick_g02_c01 164 1\n",
        },
        videos=(
            "brush_hair/April_09_brush_hair_u_nm_np1_ba_goo_0.avi",
            "kick/v_kick_g01_c01.avi",
            "kick/v_kick_g02_c01.avi",
        ),
        labels=("brush hair", "kick"),
        options={"labels": "gpt.csv", "train": "train.txt", "test": "test.txt"},
        missing_list="test.txt",
        truncated=("train.txt", "c01 164 1", "c01 164", r"train.txt, line 2: must be a folder"),
        out_of_range=("train.txt", "164 1", "164 2", r"line 2: .* must be 0 to 1, got 2"),
        nameless=("gpt.csv", "2,kick,", "2,,", r"gpt.csv, line 4: class 2 has no name"),
    ),
    "ev_clip_shots": Tree(
        lists={
            "shot_2-seed_1.pkl": pickled(
                [
                    ("/data/hmdb51/brush hair/April_09_brush_hair_u_nm_np1_ba_goo_0.avi", 0, "brush_hair"),
                    ("/data/hmdb51/video_data/kick/K_kick_f_cm_np1_ba_bad_0.avi", 1, "kick"),
                ]
            ),
            "val1.txt": "L_kick_f_cm_np1_ba_bad_0.avi 1\n",
        },
        videos=(
            "brush_hair/April_09_brush_hair_u_nm_np1_ba_goo_0.avi",
            "kick/K_kick_f_cm_np1_ba_bad_0.avi",
            "kick/L_kick_f_cm_np1_ba_bad_0.avi",
        ),
        labels=("brush hair", "kick"),
        options={"shots": "shot_2-seed_1.pkl", "test": "val1.txt"},
        missing_list="shot_2-seed_1.pkl",
        truncated=("val1.txt", "bad_0.avi 1", "bad_0", r"val1.txt, line 1: must be a path and"),
        out_of_range=("val1.txt", ".avi 1", ".avi 2", r"line 1: .* must be 0 to 1, got 2"),
    ),
}


def framed(tree, *folders, **changes):
    """Return the same lists with folders of frames."""
    return dataclasses.replace(tree, videos=folders, **changes)


# Other formats of the same data sets: different labels and folders of frames.
FORMS = TREES | {
    "arid as UG2 has it": Tree(
        lists={
            "mapping_table_t1.txt": "0\tDrink\n1\tJump\n",
            "ARID1.1_t1_train_pub.csv": "VideoID,Video,ClassID\n0,Drink/Drink_11_1.mp4,0\n"
            "1,Jump/Jump_1_2.mp4,1\n",
            "ARID1.1_t1_validation_gt_pub.csv": "VideoID,Video,ClassID\n0,0.mp4,1\n",
        },
        videos=("train_data/Drink/Drink_11_1.mp4", "train_data/Jump/Jump_1_2.mp4", "test_data/0.mp4"),
        labels=("Drink", "Jump"),
        options={"version": "1.1"},
        missing_list="ARID1.1_t1_validation_gt_pub.csv",
        truncated=("ARID1.1_t1_train_pub.csv", "_2.mp4,1", "_2.mp4", r"line 3: must have 3 cells, got 2"),
        out_of_range=("ARID1.1_t1_train_pub.csv", ".mp4,1", ".mp4,11", r"line 3: .* must be 0 to 1, got 11"),
        nameless=("mapping_table_t1.txt", "1\tJump", "1\t", r"line 2: class 1 has no name"),
    ),
    "egtea verbs": dataclasses.replace(
        TREES["egtea"],
        lists={"raw_annotations/verb_idx.txt": "Cut 1\nInspect/Read 2\n"} | TREES["egtea"].lists,
        labels=("Cut", "Inspect/Read"),
        options={"label": "verb"},
        out_of_range=("train_split1.txt", "F000030 2 2", "F000030 2 3", r"line 2: .* must be 1 to 2, got 3"),
        nameless=("raw_annotations/verb_idx.txt", "Cut 1", "1", r"line 1: class 1 has no name"),
    ),
    "egtea nouns": dataclasses.replace(
        TREES["egtea"],
        lists={"raw_annotations/noun_idx.txt": "tomato 1\nrecipe 2\n"} | TREES["egtea"].lists,
        labels=("tomato", "recipe"),
        options={"label": "noun"},
        out_of_range=("train_split1.txt", " 2 2 2 3", " 2 2 9 3", r"line 2: .* must be 1 to 2, got 9"),
        nameless=("raw_annotations/noun_idx.txt", "tomato 1", "1", r"line 1: class 1 has no name"),
    ),
    "epic_kitchens nouns": dataclasses.replace(
        TREES["epic_kitchens"],
        lists={
            name.replace("verb", "noun"): text.replace(",a,2,", ",plate,1,").replace(",plate,2,", ",cup,0,")
            for name, text in TREES["epic_kitchens"].lists.items()
            if "verb" not in name
        }
        | {
            "EPIC_100_noun_classes.csv": "id,key,instances,category\n0,cup,\"['cup', 'mug']\",x\n"
            "1,plate,\"['plate']\",x\n"
        },
        labels=("cup", "plate"),
        options={"label": "noun"},
        truncated=(
            "EPIC_100_train.csv",
            ",put-on,1,plate,1,\"['a', 'b']\",\"[2, 3]\"",
            ",put-on",
            r"line 3: must have 15 cells",
        ),
        out_of_range=("EPIC_100_train.csv", ",plate,1,", ",plate,300,", r"line 3: .* 0 to 1, got 300"),
        nameless=("EPIC_100_noun_classes.csv", "0,cup,", "0,,", r"line 2: class 0 has no name"),
    ),
    "epic_kitchens frames": framed(
        TREES["epic_kitchens"],
        "P01/rgb_frames/P01_11/",
        "P01/rgb_frames/P01_12/",
        lists={
            name: text.replace("1,113,put it", "30,145,put it")
            for name, text in TREES["epic_kitchens"].lists.items()
        },
        options={"frames": True},
    ),
    "ssv2 frames": framed(TREES["ssv2"], "78687/", "42/", "7/"),
    "mmaction frames": framed(
        TREES["mmaction"], "some/directory-1/", "some/directory 2/", "some/directory-3/"
    ),
    "ez_clip frames": framed(
        TREES["ez_clip"],
        "brush_hair/April_09_brush_hair_u_nm_np1_ba_goo_0.avi/",
        "kick/v_kick_g01_c01/",
        "kick/v_kick_g02_c01/",
    ),
    "ev_clip_shots frames": framed(
        TREES["ev_clip_shots"], *(f"{video.removesuffix('.avi')}/" for video in TREES["ev_clip_shots"].videos)
    ),
}


@pytest.fixture(params=sorted(FORMS))
def form(request):
    return request.param


@pytest.fixture
def dataset(form):
    return form.split()[0]


@pytest.fixture
def tree(form):
    return FORMS[form]


def remove(path):
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def edit(root, name, old, new):
    path = root / "lists" / name
    text = path.read_bytes().decode()
    assert old in text
    path.write_bytes(text.replace(old, new).encode())


def facts(report):
    return (
        report.manifest.digest(),
        report.missing,
        report.unlisted,
        len(report.duplicates),
        report.mislabelled,
    )


def test_suite_contains_every_importer():
    assert set(TREES) == set(DATASETS)


def test_complete_data_set_is_imported_without_warnings(tree, dataset, tmp_path):
    report = tree.load(tree.write(tmp_path), dataset)
    assert report.classes == tree.labels
    assert set(report.manifest.classes) == set(tree.labels)
    assert report.manifest.splits() == ("train", "test")
    assert report.manifest.root == tmp_path / "videos"
    assert all((tmp_path / "videos" / path).exists() for path in report.manifest.column("path"))
    assert (report.missing, report.unlisted, report.duplicates, report.mislabelled) == ((), (), (), ())


def test_missing_list_is_reported(tree, dataset, tmp_path):
    root = tree.write(tmp_path)
    (root / "lists" / tree.missing_list).unlink()
    if dataset == "hmdb51":  # The list of another split still defines the class.
        (root / "lists" / "kick_test_split2.txt").write_text("a.avi 1\n")
    # One list of Kinetics may contain all splits, so the rows of 'train' are missing, not a file.
    message = "'train'" if dataset == "kinetics" else tree.missing_list.replace("something-something-v2-", "")
    with pytest.raises(AnnotationError, match=message):
        tree.load(root, dataset)


@pytest.mark.parametrize("fault", ["truncated", "out_of_range", "nameless"])
def test_broken_line_is_reported_with_file_and_number(tree, dataset, tmp_path, fault):
    if not getattr(tree, fault):
        pytest.skip("this format takes its classes from file names")
    name, old, new, message = getattr(tree, fault)
    root = tree.write(tmp_path)
    edit(root, name, old, new)
    with pytest.raises(AnnotationError, match=message):
        tree.load(root, dataset)


def test_absent_file_is_counted_and_skipped(tree, dataset, tmp_path):
    root = tree.write(tmp_path)
    whole = len(tree.load(root, dataset).manifest)
    remove(root / "videos" / tree.videos[0])
    report = tree.load(root, dataset)
    assert len(report.missing) == whole - len(report.manifest) >= 1
    assert tree.videos[0].rstrip("/") not in report.manifest.column("path")


def test_unlisted_file_is_counted(tree, dataset, tmp_path):
    root = tree.write(tmp_path)
    (root / "videos" / "extra").mkdir()
    (root / "videos" / "extra" / "holiday #1!.mp4").touch()
    (root / "videos" / "extra" / "notes.txt").touch()
    (root / "videos" / "extra" / "frames").mkdir()
    (root / "videos" / "extra" / "frames" / "1.png").touch()
    assert tree.load(root, dataset).unlisted == ("extra/frames", "extra/holiday #1!.mp4")


def test_folder_without_listed_videos_is_refused(tree, dataset, tmp_path):
    root = tree.write(tmp_path)
    for name in tree.videos:
        remove(root / "videos" / name)
    with pytest.raises(
        AnnotationError, match=r"none of the \d+ listed videos is there, the first is .* Point --root"
    ):
        tree.load(root, dataset)


def test_missing_root_folder_is_reported(tree, dataset, tmp_path):
    root = tree.write(tmp_path)
    with pytest.raises(AnnotationError, match=r"no-such: must be the folder of the videos"):
        import_dataset(dataset, root / "no-such", lists=root / "lists", **tree.options)


def test_line_ends_blanks_and_byte_order_mark_are_ignored(tree, dataset, tmp_path):
    plain = facts(tree.load(tree.write(tmp_path), dataset))
    for path in (tmp_path / "lists").rglob("*"):
        if path.suffix in (".txt", ".csv"):
            blanks = b"" if path.suffix == ".csv" else b"  \t"
            data = path.read_bytes().replace(b"\n", blanks + b"\r\n")
            path.write_bytes(b"\xef\xbb\xbf" + data + b"\r\n\r\n")
    again = facts(tree.load(tmp_path, dataset))
    assert again == plain


def test_list_with_invalid_utf8_is_reported_with_its_line(tree, dataset, tmp_path):
    root = tree.write(tmp_path)
    name = next(name for name in tree.lists if name.endswith((".txt", ".csv", ".json")))
    path = root / "lists" / name
    path.write_bytes(path.read_bytes() + "café 1\n".encode("latin-1"))
    lines = path.read_bytes().count(b"\n")
    with pytest.raises(AnnotationError, match=rf"{name}, line {lines}: must be UTF-8 text; save"):
        tree.load(root, dataset)


def test_list_in_utf16_is_refused(tree, dataset, tmp_path):
    root = tree.write(tmp_path)
    for name in [name for name in tree.lists if not name.endswith(".pkl")]:
        path = root / "lists" / name
        path.write_bytes(path.read_text().encode("utf-16"))
    with pytest.raises(AnnotationError, match=r"UTF-8|train, val or test|no CSV"):
        tree.load(root, dataset)


def test_empty_list_is_refused(tree, dataset, tmp_path):
    root = tree.write(tmp_path)
    name = tree.truncated[0]
    (root / "lists" / name).write_text("\n \n")
    with pytest.raises(AnnotationError, match=r"is empty|not valid JSON|no row of 'train'|contains no rows"):
        tree.load(root, dataset)


def test_file_name_with_invalid_utf8_is_counted_and_skipped(tree, dataset, tmp_path):
    root = tree.write(tmp_path)
    raw = os.fsencode(root / "videos") + b"/caf\xe9.mp4"
    try:
        with open(raw, "wb"):  # noqa: PTH123
            pass
    except OSError:
        pytest.skip("this file system requires names in UTF-8")
    report = tree.load(root, dataset)
    assert [name.isprintable() and name for name in report.unlisted] == ["caf\\udce9.mp4"]


def test_repeated_row_is_counted_and_imported_once(tree, dataset, tmp_path):
    root = tree.write(tmp_path)
    name = tree.truncated[0]
    if name.endswith(".json"):
        path = root / "lists" / name
        path.write_text(json.dumps(SSV2_TRAIN + SSV2_TRAIN[:1]))
    else:
        path = root / "lists" / name
        lines = path.read_text().splitlines()
        path.write_text("\n".join([*lines, lines[-1]]) + "\n")
    before = len(tree.load(tree.write(tmp_path / "whole"), dataset).manifest)
    report = tree.load(root, dataset)
    if dataset == "hmdb51":  # No split uses the video in the last line.
        assert not report.duplicates
    else:
        assert len(report.duplicates) == 1
        assert path.name in report.duplicates[0]
    assert len(report.manifest) == before


def test_linked_folders_may_form_a_cycle(tree, dataset, tmp_path):
    root = tree.write(tmp_path / "real")
    plain = facts(tree.load(root, dataset))
    linked = tmp_path / "linked"
    (linked / "videos").mkdir(parents=True)
    (linked / "lists").symlink_to(root / "lists")
    for path in (root / "videos").iterdir():
        (linked / "videos" / path.name).symlink_to(path)
    (linked / "videos" / "loop").symlink_to(linked / "videos")
    assert facts(tree.load(linked, dataset)) == plain


def test_unknown_data_set_or_option_names_the_nearest():
    with pytest.raises(ConfigError, match=r"data set 'ucf10' is unknown; did you mean 'ucf101'"):
        import_dataset("ucf10", Path())
    with pytest.raises(ConfigError, match=r"ucf101 has no option 'splits'; did you mean 'split'"):
        import_dataset("ucf101", Path(), splits=1)
    with pytest.raises(ConfigError, match=r"path_label needs the option 'labels'"):
        import_dataset("path_label", Path(), train="x")
