"""Lists as people have them: separators, encodings, names of columns, and numbers of spreadsheets."""

import logging

import pyarrow as pa
import pytest
from pyarrow import parquet

from evclip_ray.data.manifest.manifest import ManifestError, read_manifest

PLAIN = [("a.mp4", "hug"), ("b.mp4", "shake hands")]


@pytest.fixture
def read(tmp_path):
    """Return a function that writes a list and reads it."""

    def read(text, name="list.csv", **options):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_manifest(path, **options)

    return read


def rows(manifest):
    return list(zip(manifest.column("path"), manifest.column("label"), strict=True))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("path;label\na.mp4;hug\nb.mp4;shake hands\n", "list.csv"),
        ("sep=;\npath;label\na.mp4;hug\nb.mp4;shake hands\n", "list.csv"),
        ("path\tlabel\na.mp4\thug\nb.mp4\tshake hands\n", "list.tsv"),
        ("path|label\na.mp4|hug\nb.mp4|shake hands\n", "list.txt"),
        ("a.mp4 hug\nb.mp4 shake hands\n", "list.txt"),
        ("path label\na.mp4 hug\n\nb.mp4\tshake hands\n", "list.txt"),
        ("path,label\na.mp4,hug\nb.mp4,shake hands\n".encode("utf-16"), "list.csv"),
        ("path\tlabel\r\na.mp4\thug\r\nb.mp4\tshake hands\r\n".encode("utf-16-be"), "list.csv"),
        ("path, label\na.mp4, hug\nb.mp4, shake hands\n", "list.csv"),
        ('path, label\na.mp4, "hug"\nb.mp4, "shake hands"\n', "list.csv"),
        (",path,label\n0,a.mp4,hug\n1,b.mp4,shake hands\n", "list.csv"),
        ("Unnamed: 0,File Name,Class\n0,a.mp4,hug\n1,b.mp4,shake hands\n", "list.csv"),
        ("\n\npath,label\na.mp4,hug\nb.mp4,shake hands\n", "list.csv"),
    ],
)
def test_usual_formats_give_the_same_rows(read, text, name):
    assert rows(read(text, name)) == PLAIN


@pytest.mark.parametrize("path", ["video", "file", "filename", "FilePath", " video_path "])
@pytest.mark.parametrize("label", ["class", "Target", "action", "category", "Label "])
def test_usual_names_of_columns_are_understood(read, path, label):
    assert rows(read(f"{path},{label}\na.mp4,hug\nb.mp4,shake hands\n")) == PLAIN


@pytest.mark.parametrize("name", ["subset", "Set", "fold"])
def test_splits_have_usual_names(read, name):
    assert read(f"path,label,{name}\na,x,Train\nb,x,test\n").splits() == ("train", "test")


def test_other_columns_are_ignored_with_one_line(read, caplog):
    with caplog.at_level(logging.WARNING):
        manifest = read("path,label,fold,person id\na,x,1,7\nb,x,2,8\n")
    assert manifest.splits() == ()
    assert [record.message.partition(": ")[2] for record in caplog.records] == [
        "ignored columns 'person id', 'fold'"
    ]


def test_chosen_columns_come_before_usual_ones(read):
    text = "klip,label,kind\na.mp4,1,hug\nb.mp4,2,shake hands\n"
    assert rows(read(text, columns={"path": "klip", "label": "kind"})) == PLAIN
    with pytest.raises(ManifestError, match=r"data.label_column is 'kinds', .* did you mean 'kind'"):
        read(text, columns={"path": "klip", "label": "kinds"})


def test_whole_numbers_of_pandas_are_read(read, tmp_path):
    manifest = read("path,label,start_frame,end_frame\na,x,0.0,10.0\nb,x,,\nc,x,4.,20\n")
    assert manifest.column("start_frame") == [0, None, 4]
    assert manifest.column("end_frame") == [10, None, 20]
    table = pa.table({"filename": ["a"], "target": [3], "start_frame": [4.0], "__index_level_0__": [0]})
    parquet.write_table(table, tmp_path / "m.parquet")
    listed = read_manifest(tmp_path / "m.parquet")
    assert (listed.classes, listed.column("start_frame")) == (("3",), [4])


def test_semicolons_allow_decimal_commas(read):
    assert read("path;label;start_seconds\na;x;1,5\n").column("start_seconds") == [1.5]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.mp4,hug\nb.mp4,hug\n", "has no header, its first line is 'a.mp4,hug'; .* 'path,label'"),
        ("path label\na.mp4 hug\n", "its first line 'path label' has no separator"),
        ("path:label\na.mp4:hug\n", "its first line 'path:label' has no separator"),
        (
            "path,label,splt\na,x,train\n",
            "no such column 'splt'; did you mean 'split'.*data.split_column=splt",
        ),
        ("path,label,start\na,x,1\n", "'start' may be in seconds or in frames"),
        ("file,video,label\na,b,x\n", "'file' and 'video' may both be the path"),
        (
            "path,label,start_frame\na,x,1\nb,x,10.5\n",
            "row 2: start_frame must be a whole number, got '10.5'",
        ),
        ("path,label\na,x\nb,shake, hands\n", "row 2 has 3 cells, but the header has 2; quote a cell"),
        (b"path,label\na,x\nb,caf\xe9\n", "line 3 must be UTF-8"),
        (b"PK\x03\x04\0\0\0\0path", "no text|no header|no separator"),
        ("name,kind\na.txt,x\n", "column 'path' is missing; it has name, kind"),
    ],
)
def test_message_names_the_place_and_the_fix(read, text, message):
    with pytest.raises(ManifestError, match=message):
        read(text)


def test_text_lines_may_have_folders_and_quoted_paths(read):
    text = '# ours\nv/a b.MP4 3\nframes/x 4\n"c d.xyz" hug\n'
    assert rows(read(text, "list.txt")) == [("v/a b.MP4", "3"), ("frames/x", "4"), ("c d.xyz", "hug")]
    with pytest.raises(ManifestError, match="row 2 must be a path, a blank and a label, got 'b'"):
        read("a.mp4 hug\nb\n", "list.txt")
