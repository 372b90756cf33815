"""Rules of single importers of official data sets. Rules of all are in the conformance suite."""

import json

import pytest

from evclip_ray.config import ConfigError
from evclip_ray.data.importers import import_dataset
from evclip_ray.data.importers.annotation_files import AnnotationError
from evclip_ray.data.manifest.leaks import find_leaks

EPIC = (
    "narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,start_frame,"
    "stop_frame,narration,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes\n"
)
KINETICS = "label,youtube_id,time_start,time_end,split\n"


def ucf(write, number=1, train_id=1, test="TaiChi/v_TaiChi_g01_c01.avi\n"):
    return write(
        {
            "ucfTrainTestlist/classInd.txt": "1 TaiChi\n2 HandstandPushups\n",
            f"ucfTrainTestlist/trainlist0{number}.txt": f"TaiChi/v_TaiChi_g08_c01.avi {train_id}\n"
            "HandstandPushups/v_HandStandPushups_g08_c01.avi 2\n",
            f"ucfTrainTestlist/testlist0{number}.txt": test,
        },
        [
            "TaiChi/v_TaiChi_g08_c01.avi",
            "HandstandPushups/v_HandStandPushups_g08_c01.avi",
            "TaiChi/v_TaiChi_g01_c01.avi",
        ],
    )


def test_ucf_lists_next_to_videos_and_groups_per_class(write):
    report = import_dataset("ucf101", ucf(write))
    assert report.manifest.column("group") == ["tai chi/g08", "handstand pushups/g08", "tai chi/g01"]
    assert report.manifest.column("split") == ["train", "train", "test"]
    assert find_leaks(report.manifest) == []


def test_ucf_test_lists_may_contain_ids(write):
    plain = import_dataset("ucf101", ucf(write)).manifest.digest()
    assert (
        import_dataset("ucf101", ucf(write, test="TaiChi/v_TaiChi_g01_c01.avi 1\n")).manifest.digest()
        == plain
    )


def test_ucf_id_of_another_class_is_reported(write):
    report = import_dataset("ucf101", ucf(write, train_id=2))
    assert len(report.mislabelled) == 1
    assert "trainlist01.txt, line 1: TaiChi/v_TaiChi_g08_c01.avi is labelled" in report.mislabelled[0]
    assert "'handstand pushups', but named 'tai chi'" in report.mislabelled[0]


def test_ucf_has_three_splits(write):
    root = ucf(write, number=3)
    assert len(import_dataset("ucf101", root, split=3).manifest) == 3
    with pytest.raises(AnnotationError, match=r"no trainlist02.txt in .*--lists"):
        import_dataset("ucf101", root, split=2)
    with pytest.raises(ConfigError, match="split must be one of 1, 2, 3, got 4"):
        import_dataset("ucf101", root, split=4)


def test_ucf_class_without_a_name_is_reported(write):
    with pytest.raises(AnnotationError, match=r"line 1: class 'Yoga' is not in classInd.txt"):
        import_dataset("ucf101", ucf(write, test="Yoga/v_Yoga_g01_c01.avi\n"))


def test_hmdb_groups_are_films_within_a_class(write):
    files = {
        "kick": [
            "Finding_Forrester_3_kick_f_cm_np1_ba_bad_0.avi",
            "Goal_kick_ball_2_kick_f_cm_np1_ba_bad_1.avi",
        ],
        "kick_ball": ["Finding_Forrester_3_kick_ball_u_nm_np1_fr_goo_14.avi"],
    }
    write(
        {
            "testTrainMulti_7030_splits/kick_test_split2.txt": "".join(f"{x} 1 \n" for x in files["kick"]),
            "testTrainMulti_7030_splits/kick_ball_test_split2.txt": f"{files['kick_ball'][0]} 2 \n",
        }
    )
    root = write(videos=[f"{label}/{name}" for label, names in files.items() for name in names])
    report = import_dataset("hmdb51", root, split=2)
    assert report.manifest.column("label") == ["kick", "kick", "kick ball"]
    assert report.manifest.column("group") == [
        "kick/Finding_Forrester_3",
        "kick/Goal_kick_ball_2",
        "kick ball/Finding_Forrester_3",
    ]
    assert report.mislabelled == ()
    assert find_leaks(report.manifest) == []


def test_hmdb_videos_may_be_in_one_flat_folder(write):
    write({"splits/kick_test_split1.txt": "a_kick_f_cm_np1_ba_bad_0.avi 1\n"})
    root = write(videos=["a_kick_f_cm_np1_ba_bad_0.avi"])
    assert import_dataset("hmdb51", root).manifest.column("path") == ["a_kick_f_cm_np1_ba_bad_0.avi"]


@pytest.mark.parametrize(("split", "other"), [(0, "others"), (1, "other")])
def test_arid_15_has_one_list_folder_per_split(write, split, other):
    folder = f"list_cvt/split_{split}/split{split}"
    root = write(
        {
            f"{folder}_train.txt": "0\t10\tWave/Wave_10_1.mp4\n",
            f"{folder}_test.txt": "0  0  Drink/Drink_1_1.mp4\n",
            f"{folder}_{other}.txt": "0\t0\tDrink/Drink_2_1.mp4\n",
        },
        ["clips_v1.5/Wave/Wave_10_1.mp4", "clips_v1.5/Drink/Drink_1_1.mp4", "clips_v1.5/Drink/Drink_2_1.mp4"],
    )
    report = import_dataset("arid", root, split=split, version=1.5)
    assert report.manifest.column("label") == ["Wave", "Drink"]
    assert len(report.classes) == 11
    assert report.unlisted == ()
    with pytest.raises(ConfigError, match=r"split of ARID v1.5 must be one of 0, 1, got 3"):
        import_dataset("arid", root, split=3, version="1.5")


def test_arid_id_that_contradicts_its_folder_is_reported(write):
    root = write(
        {
            "list_cvt/ARID_split1_train.txt": "0\t1\tDrink/Drink_11_1.avi\n",
            "list_cvt/ARID_split1_test.txt": "0\t0\tDrink/Drink_1_1.avi\n",
        },
        ["Drink/Drink_11_1.avi", "Drink/Drink_1_1.avi"],
    )
    assert len(import_dataset("arid", root).mislabelled) == 1


def test_egtea_list_ids_start_at_one_for_any_table(write):
    lists = {
        "action_annotation/action_idx.txt": "Cut tomato 1\nWash hand 2\n",
        "action_annotation/train_split2.txt": "P05-R02-Pizza-1-20-F000001-F000030 2 2 2\n",
        "action_annotation/test_split2.txt": "P07-R01-Pizza-1-20-F000001-F000030 1 1 1\n",
    }
    clips = [
        f"{session}/{session}-1-20-F000001-F000030.mp4" for session in ("P05-R02-Pizza", "P07-R01-Pizza")
    ]
    root = write(lists, clips)
    report = import_dataset("egtea", root, split=2)
    assert report.manifest.column("label") == ["Wash hand", "Cut tomato"]
    assert report.manifest.column("group") == ["P05-R02-Pizza", "P07-R01-Pizza"]
    table = "# Action ID; L\n 0; Cut tomato\n 1; Wash hand\n"
    write({"action_annotation/raw_annotations/cls_label_index.csv": table})
    (root.parent / "action_annotation" / "action_idx.txt").unlink()
    assert import_dataset("egtea", root, split=2).manifest.digest() == report.manifest.digest()


def test_egtea_clip_with_another_narration_is_reported(write):
    root = write(
        {
            "action_annotation/action_idx.txt": "Cut tomato 1\nWash hand 2\n",
            "action_annotation/train_split1.txt": "P05-R02-Pizza-1-20-F000001-F000030 2 2 2\n",
            "action_annotation/test_split1.txt": "P05-R02-Pizza-1-20-F000001-F000031 1 1 1\n",
            "raw_annotations/action_labels.csv": "1; P05-R02-Pizza-1-20; s; 1; 20; Cut tomato; Cut; tomato\n",
        },
        [f"P05-R02-Pizza-1-20-F000001-F0000{k}.mp4" for k in (30, 31)],
    )
    with pytest.raises(AnnotationError, match="none of the 2 listed"):
        import_dataset("egtea", root)
    for path in sorted(root.glob("*.mp4")):
        (root / "P05-R02-Pizza").mkdir(exist_ok=True)
        path.rename(root / "P05-R02-Pizza" / path.name)
    report = import_dataset("egtea", root)
    assert len(report.mislabelled) == 1
    assert "is labelled 'Wash hand', but named 'Cut tomato'" in report.mislabelled[0]
    assert [leak.kind for leak in find_leaks(report.manifest)] == ["group"]


def epic(write, verb="grab", times="00:00:00.14,01:02:03.37"):
    row = f"P01_11,00:00:00.560,{times},8,202,x,{verb},0,a,2,['a'],[2]\n"
    return write(
        {
            "annotations/verb_classes.csv": "id,key,instances,category\n0,take,\"['take', 'grab']\",x\n",
            "annotations/EPIC_100_train.csv": EPIC + f"P01_11_0,P01,{row}",
            "annotations/EPIC_100_validation.csv": EPIC + f"P01_12_0,P01,{row.replace('P01_11', 'P01_12')}",
        },
        ["P01/videos/P01_11.MP4", "P01/videos/P01_12.MP4"],
    )


def test_epic_segments_are_parts_with_official_class_names(write):
    report = import_dataset("epic_kitchens", epic(write))
    assert report.manifest.rows()[0] == {
        "path": "P01/videos/P01_11.MP4",
        "label": "take",
        "split": "train",
        "group": "P01_11",
        "start_seconds": 0.14,
        "end_seconds": 3723.37,
        "start_frame": None,
        "end_frame": None,
        "fps": None,
        "mask": None,
    }
    assert report.mislabelled == ()
    assert find_leaks(report.manifest) == []


def test_epic_participants_are_shared_by_the_official_splits(write):
    report = import_dataset("epic_kitchens", epic(write), group="participant")
    assert [leak.kind for leak in find_leaks(report.manifest)] == ["group"]


def test_epic_verb_of_another_class_is_reported(write):
    assert len(import_dataset("epic_kitchens", epic(write, verb="wash")).mislabelled) == 2


@pytest.mark.parametrize("times", ["00:00:01,00:00:01", "soon,00:00:01", "00:61:00,00:62:00", "00:00:01.5,"])
def test_invalid_epic_times_are_reported(write, times):
    with pytest.raises(
        AnnotationError, match=r"EPIC_100_train.csv, line 2: (a time must be|must have a video_id)"
    ):
        import_dataset("epic_kitchens", epic(write, times=times))


def test_ssv2_new_file_names_and_answers_give_three_splits(write):
    root = write(
        {
            "labels/labels.json": json.dumps({"Pushing something": "0"}),
            "labels/train.json": json.dumps([{"id": "1", "template": "Pushing [something]"}]),
            "labels/validation.json": json.dumps([{"id": "2", "template": "Pushing [something]"}]),
            "labels/test-answers.csv": "3;Pushing something\n",
        },
        ["a/1.mp4", "b/2.webm", "3.webm"],
    )
    report = import_dataset("ssv2", root, held_out="test")
    assert report.manifest.column("path") == ["a/1.mp4", "b/2.webm", "3.webm"]
    assert report.manifest.column("split") == ["train", "val", "test"]
    published = import_dataset("ssv2", root)
    assert published.manifest.column("split") == ["train", "test"]
    assert published.unlisted == ("3.webm",)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("labels.json", ["a"], "must map templates to ids"),
        ("labels.json", {}, "contains no class"),
        ("train.json", {"id": 1}, "must be a list of videos"),
        ("train.json", [{"id": "1"}], "item 1: an item must have an id and a template"),
        ("train.json", [{"id": " ", "template": "Pushing [something]"}], "item 1: the id must not be blank"),
    ],
)
def test_ssv2_files_of_another_shape_are_refused(write, name, value, message):
    files = {
        "labels.json": {"Pushing something": "0"},
        "train.json": [{"id": "1", "template": "Pushing [something]"}],
        "validation.json": [],
    } | {name: value}
    root = write({f"labels/{name}": json.dumps(value) for name, value in files.items()}, ["1.webm"])
    with pytest.raises(AnnotationError, match=message):
        import_dataset("ssv2", root)


def test_kinetics_csv_uses_validation_rows_as_test(write):
    rows = "run,--a,1,11,train\nrun,b,1.0,11.0,validate\n,c,2,12,test\n"
    root = write(
        {"all.csv": KINETICS + rows}, ["--a_000001_000011.mp4", "b_000001_000011.mkv", "c_000002_000012.mp4"]
    )
    report = import_dataset("kinetics", root, lists=root.parent / "all.csv")
    assert report.manifest.column("split") == ["train", "test"]
    assert report.manifest.column("group") == ["--a", "b"]
    assert report.unlisted == ()
    rows = rows.replace("\n,c", "\nrun,c")
    report = import_dataset(
        "kinetics", write({"all.csv": KINETICS + rows}), lists=root.parent, held_out="test"
    )
    assert report.manifest.column("split") == ["train", "val", "test"]


def test_kinetics_video_in_another_class_folder_is_reported(write):
    lists = {"annotations/k.csv": KINETICS + "run,a,1,11,train\njump rope,b,1,11,val\n"}
    root = write(lists, ["jump_rope/a_000001_000011.mp4", "jump_rope/b_000001_000011.mp4"])
    assert len(import_dataset("kinetics", root).mislabelled) == 1


def test_kinetics_ignores_other_tables(write):
    lists = {
        "annotations/k.csv": KINETICS + "run,a,1,11,train\nrun,b,1,11,val\n",
        "annotations/x.csv": "a,b\n",
    }
    root = write(lists, ["a_000001_000011.mp4", "b_000001_000011.mp4"])
    assert len(import_dataset("kinetics", root).manifest) == 2


def test_epic_parts_are_frame_numbers_or_seconds(write):
    root = epic(write)
    (root / "P01" / "rgb_frames" / "P01_12").mkdir(parents=True)
    for number in range(1, 203):
        (root / "P01" / "rgb_frames" / "P01_12" / f"frame_{number:010d}.jpg").touch()
    video, frames = import_dataset("epic_kitchens", root, frames=True, fps=50).manifest.rows()
    assert (video["path"], video["start_seconds"], video["fps"]) == ("P01/videos/P01_11.MP4", 0.14, None)
    assert (frames["path"], frames["start_frame"]) == ("P01/rgb_frames/P01_12", 7)
    assert (frames["end_frame"], frames["start_seconds"], frames["fps"]) == (202, None, 50.0)
    assert import_dataset("epic_kitchens", root).manifest.rows()[1]["path"] == "P01/videos/P01_12.MP4"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (",8,202,", ",8,x,", "stop_frame must be a whole number"),
        (",8,202,", ",9,8,", "stop_frame must not be"),
    ],
)
def test_invalid_epic_frames_are_reported(write, old, new, message):
    root = epic(write)
    path = root.parent / "annotations" / "EPIC_100_train.csv"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(AnnotationError, match=rf"EPIC_100_train.csv, line 2: {message}"):
        import_dataset("epic_kitchens", root)


def test_epic_nouns_have_official_class_names(write):
    root = epic(write)
    write(
        {
            "annotations/noun_classes.csv": "id,key,instances,category\n0,tap,\"['tap']\",x\n"
            "1,spoon,\"['spoon']\",x\n2,plate,\"['plate', 'a']\",x\n"
        }
    )
    report = import_dataset("epic_kitchens", root, label="noun")
    assert report.manifest.column("label") == ["plate", "plate"]
    assert report.mislabelled == ()
    with pytest.raises(ConfigError, match="label must be one of verb, noun, got 'verbs'"):
        import_dataset("epic_kitchens", root, label="verbs")


def test_egtea_label_is_compared_with_the_narration(write):
    root = write(
        {
            "action_annotation/noun_idx.txt": "tomato 1\ncutting board 2\n",
            "action_annotation/train_split1.txt": "P05-R02-Pizza-1-20-F000001-F000030 7 5 2 1\n",
            "action_annotation/test_split1.txt": "P07-R02-Pizza-1-20-F000001-F000030 7 5 1 2\n",
            "raw_annotations/action_labels.csv": "1; P05-R02-Pizza-1-20; s; 1; 20; Put x; Put; tomato,board\n"
            "2; P07-R02-Pizza-1-20; s; 1; 20; Put x; Put; tomato,board\n",
        },
        [f"{one}-R02-Pizza/{one}-R02-Pizza-1-20-F000001-F000030.mp4" for one in ("P05", "P07")],
    )
    report = import_dataset("egtea", root, label="noun")
    assert report.manifest.column("label") == ["cutting board", "tomato"]
    assert len(report.mislabelled) == 1


def test_arid_11_without_a_table_has_the_paper_classes(write):
    root = write(
        {
            "list_cvt/ARID1.1_t1_train_pub.csv": "VideoID,Video,ClassID\n0,Run/Run_1_1.mp4,5\n",
            "list_cvt/ARID1.1_t1_validation_gt_pub.csv": "VideoID,Video,ClassID\n0,0.mp4,10\n",
        },
        ["Run/Run_1_1.mp4", "test/0.mp4"],
    )
    report = import_dataset("arid", root, version="1.1")
    assert report.manifest.column("label") == ["Run", "Wave"]
    assert report.manifest.column("split") == ["train", "test"]
    with pytest.raises(ConfigError, match=r"split of ARID v1\.1 must be one of 1, got 2"):
        import_dataset("arid", root, version="1.1", split=2)


def test_storage_import_without_list_paths_is_refused():
    with pytest.raises(ConfigError, match=r"s3://bucket/ucf: lists are not looked for .* --lists"):
        import_dataset("ucf101", "s3://bucket/ucf")
