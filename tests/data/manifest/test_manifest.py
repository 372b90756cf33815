import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from evclip_ray.data.manifest.manifest import Manifest, ManifestError, read_manifest, write_manifest
from evclip_ray.data.manifest.row_record import RowRecord
from evclip_ray.data.manifest.splits import assign_splits, few_shot
from evclip_ray.data.shards.prepare import videos_digest

ROWS = "path,label,split,group\na/1.mp4,wave,train,g1\na/2.mp4,run,val,g2\nb/3.mp4,wave,test,g3\n"


@pytest.fixture
def write(tmp_path):
    def write(text, name="manifest.csv"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def test_csv_gives_rows_classes_and_splits(write, tmp_path):
    manifest = read_manifest(write(ROWS))
    assert len(manifest) == 3
    assert manifest.classes == ("run", "wave")
    assert manifest.splits() == ("train", "val", "test")
    assert manifest.root == tmp_path
    assert manifest.rows()[1] == {
        "path": "a/2.mp4",
        "label": "run",
        "split": "val",
        "group": "g2",
        "start_seconds": None,
        "end_seconds": None,
        "start_frame": None,
        "end_frame": None,
        "fps": None,
        "mask": None,
    }
    assert manifest.in_split("test").tolist() == [2]


def test_windows_line_ends_and_byte_order_mark_are_ignored(write):
    plain = read_manifest(write(ROWS)).digest()
    assert read_manifest(write(b"\xef\xbb\xbf" + ROWS.replace("\n", "\r\n").encode())).digest() == plain


def test_labels_na_and_null_remain_text(write):
    manifest = read_manifest(write("path,label\na.mp4,NA\nb.mp4,null\nc.mp4,12\n"))
    assert manifest.classes == ("12", "NA", "null")


def test_parquet_and_csv_hold_the_same_rows(write, tmp_path):
    manifest = read_manifest(write(ROWS))
    write_manifest(manifest, tmp_path / "copy.parquet")
    write_manifest(manifest, tmp_path / "copy.csv")
    assert read_manifest(tmp_path / "copy.parquet").digest() == manifest.digest()
    assert read_manifest(tmp_path / "copy.csv").digest() == manifest.digest()
    assert (tmp_path / "copy.csv").read_text().splitlines()[0] == '"path","label","split","group"'


def test_digest_depends_on_rows_only(write, tmp_path):
    path = write(ROWS)
    manifest = read_manifest(path)
    assert read_manifest(path, root=tmp_path / "elsewhere").digest() == manifest.digest()
    assert manifest.select([1, 0, 2]).digest() != manifest.digest()
    assert read_manifest(write(ROWS.replace("wave", "jump"))).digest() != manifest.digest()


def test_selection_keeps_the_requested_order(write):
    selected = read_manifest(write(ROWS)).select(np.array([2, 0]))
    assert selected.column("path") == ["b/3.mp4", "a/1.mp4"]


def test_absolute_paths_under_the_root_become_relative(write, tmp_path):
    manifest = read_manifest(write(f"path,label\n{tmp_path}/a/1.mp4,wave\n./b.mp4,wave\n"))
    assert manifest.column("path") == ["a/1.mp4", "b.mp4"]


def test_absolute_paths_outside_the_root_become_uris(write, tmp_path):
    manifest = read_manifest(write(f"path,label\n{tmp_path.parent}/1.mp4,wave\n"))
    assert manifest.column("path") == [f"file://{tmp_path.parent}/1.mp4"]
    assert manifest.locate(manifest.column("path")[0]) == tmp_path.parent / "1.mp4"


def test_labels_and_groups_are_composed_and_trimmed(write):
    rows = "path,label,group\na,cafe\u0301,e\u0301\nb,caf\u00e9,\u00e9\nc,kick\u200b,\nd,kick \u00a0,\n"
    manifest = read_manifest(write(rows))
    assert manifest.classes == ("caf\u00e9", "kick")
    assert manifest.column("group") == ["\u00e9", "\u00e9", None, None]


def test_splits_may_be_synonyms_in_any_case(write):
    names = ["Training", "TRAIN", "valid", "dev", "Validation", "testing"]
    rows = [f"{k},x,{name}" for k, name in enumerate(names)]
    manifest = read_manifest(write("\n".join(["path,label,split", *rows, ""])))
    assert manifest.column("split") == ["train", "train", "val", "val", "val", "test"]


def test_absent_file_is_not_an_error_on_reading(write):
    assert len(read_manifest(write("path,label\nnowhere.mp4,wave\n"))) == 1


def test_one_video_may_have_several_parts(write):
    manifest = read_manifest(write("path,label,start_seconds,end_seconds\na.mp4,x,0,1\na.mp4,y,1,2.5\n"))
    assert manifest.column("end_seconds") == [1.0, 2.5]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("path,label\n", "contains no rows"),
        ("path,split\na,train\n", "column 'label' is missing; it has path, split"),
        ("path,lable\na,x\n", "column 'label' is missing; .* did you mean 'lable'.* data.label_column=lable"),
        ("path,label,label\na,x,y\n", "appears 2 times"),
        ("path,label\na,x\nb\n", "row 2 has 1 cell, but the header has 2: 'b'"),
        ("path,label\na,x\nb,  \n", "row 2 has a blank label"),
        ("path,label\n,x\n", "row 1 has a blank path"),
        ("path,label\na,x\nb,y\na,x\na,x\n", r"1 video is listed .* 'a', 3 times, in rows 1 to 4"),
        ("path,label\na,x\nb,y\na,x\n", r"'a', 2 times, in rows 1 and 3"),
        ("path,label\na,x\nb,y\na,x\na,z\n", "'a' has two labels, 'x' in row 1 and 'z' in row 4"),
        ("path,label\na,x\n../b,x\n", "row 2: path '../b' is outside the data root"),
        ("path,label\nc/../../b,x\n", "outside the data root"),
        (
            "path,label,start_seconds,end_seconds\na,x,2,2\n",
            "row 1: start_seconds must be less .* 2.0 and 2.0",
        ),
        ("path,label,start_seconds\na,x,-1\n", "start_seconds must be 0 or more, got -1.0"),
        ("path,label,start_seconds\na,x,nan\n", "start_seconds must be 0 or more, got nan"),
        ("path,label,start_seconds\na,x,soon\n", "row 1: start_seconds must be a number, got 'soon'"),
        ("path,label,split\na,x,trian\n", "row 1 has split 'trian'; did you mean 'train'"),
        (
            "path,label,split,group\na,x,train,g1\nb,x,test,g1\nc,x,train,g2\nd,x,val,g2\n",
            "2 groups are in more than one split; the first is 'g1', in test and train",
        ),
        (
            "path,label,split,start_seconds,end_seconds\na,x,train,0,1\na,x,test,1,2\n",
            "1 path is in more than one split; the first is 'a', in test and train",
        ),
        (b"path,label\na,caf\xe9\n", "must be UTF-8"),
    ],
)
def test_invalid_rows_are_reported_with_row_number(write, text, message):
    with pytest.raises(ManifestError, match=message):
        read_manifest(write(text))


def test_missing_or_unknown_manifest_file_is_reported(tmp_path, write):
    with pytest.raises(ManifestError, match="no such manifest"):
        read_manifest(tmp_path / "none.csv")
    with pytest.raises(ManifestError, match=r"must be a .csv, a .tsv, .* or a folder, got '.json'"):
        read_manifest(write("{}", "manifest.json"))
    with pytest.raises(ManifestError, match=r"manifest\.parquet"):
        read_manifest(write("not parquet", "manifest.parquet"))


def test_parquet_column_of_wrong_type_is_reported(tmp_path):
    parquet.write_table(pa.table({"path": ["a"], "label": [["x"]]}), tmp_path / "m.parquet")
    with pytest.raises(ManifestError, match=r"m.parquet"):
        read_manifest(tmp_path / "m.parquet")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a,x,-1,5,,,", "row 1: start_frame must be 0 or more and less than end_frame, got -1 and 5"),
        ("a,x,5,5,,,", "row 1: start_frame must be 0 or more and less than end_frame, got 5 and 5"),
        ("a,x,,0,,,", "row 1: start_frame must be 0 or more and less than end_frame, got None and 0"),
        ("a,x,1,5,0.5,,", "row 1: its part is given in frames and in seconds; keep one of them"),
        ("a,x,,,,,0", "row 1: fps must be more than 0, got 0.0"),
    ],
)
def test_invalid_parts_in_frames_are_refused(write, row, message):
    text = f"path,label,start_frame,end_frame,start_seconds,end_seconds,fps\n{row}\n"
    with pytest.raises(ManifestError, match=message):
        read_manifest(write(text))


def test_many_rows_round_trip_through_csv(tmp_path):
    count = 200_000
    table = pa.table(
        {
            "path": [f"class{k % 400}/{k}.mp4" for k in range(count)],
            "label": [f"class{k % 400}" for k in range(count)],
            "split": ["test" if k % 10 == 0 else "train" for k in range(count)],
            "group": [f"group{k % 5000}" for k in range(count)],
        }
    )
    manifest = Manifest(table, tmp_path, "big")
    write_manifest(manifest, tmp_path / "big.csv")
    assert read_manifest(tmp_path / "big.csv").digest() == manifest.digest()


def test_masks_are_kept_by_writing_splits_and_shots(write, tmp_path):
    rows = ["path,label,group,mask"]
    rows += [f"{k}.mp4,wave,g{k},{tmp_path}/masks/{k}.npz" for k in range(6)]
    # An empty cell is a video without masks.
    listed = read_manifest(write("\n".join([*rows, "7.mp4,wave,g7, ", ""])))
    assert listed.column("mask") == [f"masks/{k}.npz" for k in range(6)] + [None]
    split = assign_splits(listed, val_fraction=0.3, test_fraction=0.0, seed=0)
    assert split.column("mask") == listed.column("mask")
    chosen = split.select(few_shot(split, shots=2, seed=0))
    assert [mask.endswith(f"/{path[0]}.npz") for mask, path in masks_and_paths(chosen)] == [True, True]
    for name in ("copy.csv", "copy.parquet"):
        write_manifest(split, tmp_path / name)
        assert read_manifest(tmp_path / name).column("mask") == listed.column("mask")


def masks_and_paths(manifest):
    return zip(manifest.column("mask"), manifest.column("path"), strict=True)


def test_masks_change_no_digest(write):
    plain = read_manifest(write("path,label\na.mp4,wave\n"))
    with_masks = read_manifest(write("path,label,mask\na.mp4,wave,a.npz\n", "masks.csv"))
    assert plain.digest() == with_masks.digest() == "e50afd55a38b71a5"
    assert videos_digest(plain, np.arange(1)) == videos_digest(with_masks, np.arange(1))
    records = [RowRecord.of(manifest, {"train": np.arange(1)}) for manifest in (plain, with_masks)]
    assert records[0].keys() == records[1].keys()


def test_mask_outside_the_root_is_refused(write):
    with pytest.raises(ManifestError, match=r"row 1: mask '\.\./a\.npz' is outside .* move the mask"):
        read_manifest(write("path,label,mask\na.mp4,wave,../a.npz\n"))
