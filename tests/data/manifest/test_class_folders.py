import logging

import pytest

from evclip_ray.data.manifest.manifest import ManifestError, read_manifest


@pytest.fixture
def tree(tmp_path):
    """Return a function that makes empty files, and folders for names that end in a slash."""

    def make(*names):
        for name in names:
            path = tmp_path / name
            (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
            if not name.endswith("/"):
                path.touch()
        return tmp_path

    return make


def test_class_folders_give_a_manifest(tree):
    manifest = read_manifest(tree("run/b.mp4", "run/a.avi", "wave/c.MOV", "wave/notes.txt"))
    assert manifest.column("path") == ["run/a.avi", "run/b.mp4", "wave/c.MOV"]
    assert manifest.column("label") == ["run", "run", "wave"]
    assert manifest.splits() == ()


def test_frame_folders_are_videos_but_loose_pictures_are_not(tree):
    names = ("run/1.mp4", "run/poster_1.jpg", "wave/v_2/img_00001.jpg", "wave/v_2/img_00002.jpg")
    manifest = read_manifest(tree(*names))
    assert manifest.column("path") == ["run/1.mp4", "wave/v_2"]
    assert manifest.column("label") == ["run", "wave"]


def test_hidden_and_system_folders_are_no_classes(tree, caplog):
    clutter = ("__MACOSX/hug/._1.mp4", ".ipynb_checkpoints/1.mp4", "@eaDir/hug/S.mp4", ".Trash-1000/o.mp4")
    root = tree("hug/1.mp4", "hug/._1.mp4", "kick/1.mp4", "kick/notes.txt", "kick/@eaDir/1.mp4", *clutter)
    with caplog.at_level(logging.WARNING):
        manifest = read_manifest(root)
    assert manifest.column("path") == ["hug/1.mp4", "kick/1.mp4"]
    assert "left out 5 system folders, 1 hidden file, 1 .txt file" in caplog.text


@pytest.mark.parametrize("ending", ["MTS", "m2ts", "vob", "ogv", "mxf", "3g2", "divx", "y4m", "m4v"])
def test_endings_that_ffmpeg_reads_are_videos(tree, ending):
    assert len(read_manifest(tree("kick/1.mp4", f"kick/0.{ending}"))) == 2


@pytest.mark.parametrize(
    "names",
    [("train", "validation", "test"), ("Train", "valid", "Test"), ("Training", "dev", "TESTING")],
)
def test_split_folders_above_class_folders_give_splits(tree, names):
    train, val, test = names
    manifest = read_manifest(tree(f"{train}/run/a.mp4", f"{val}/run/b.mp4", f"{test}/wave/c.mp4"))
    by_path = dict(zip(manifest.column("path"), manifest.column("split"), strict=True))
    assert by_path == {f"{train}/run/a.mp4": "train", f"{val}/run/b.mp4": "val", f"{test}/wave/c.mp4": "test"}
    assert manifest.classes == ("run", "wave")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "holds no video"),
        (("run/a.xyz",), r"holds no video.*\(left out: 1 .xyz file\)"),
        (("loose.mp4",), "loose.mp4 is not in a class folder"),
        (("Train/run/a.mp4", "run/b.mp4"), "Train is a split, but run is not"),
        (("run/a.mp4", "wave/"), "1 of 2 class folders holds no video: wave"),
        (("run/a.mp4", "wave/b.xyz"), r"holds no video: wave; .*\(left out: 1 .xyz file\)"),
        (("train/run/a.mp4", "test/wave/"), "holds no video: wave"),
        ((b"caf\xe9/b.mp4".decode("utf-8", "surrogateescape"),), r"not UTF-8, the first is 'caf\\xe9/b.mp4'"),
    ],
)
def test_folder_that_is_no_data_set_is_refused(tree, names, message):
    with pytest.raises(ManifestError, match=message):
        read_manifest(tree(*names))
