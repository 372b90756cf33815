"""Names of labels that are ids, from files as people have them."""

import pytest

from evclip_ray.data.manifest.label_names import name_labels, read_label_names, warn_of_numbers
from evclip_ray.data.manifest.manifest import ManifestError


@pytest.fixture
def named(make_manifest, tmp_path):
    """Return a function that names labels by a file with a content and returns the new labels."""

    def name(file, content, *labels):
        (tmp_path / file).write_text(content, encoding="utf-8")
        manifest = make_manifest(path=[f"{k}.mp4" for k in range(len(labels))], label=list(labels))
        return name_labels(manifest, tmp_path / file).column("label")

    return name


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("a.csv", "id,name\n0,hug\n1,shake hands\n"),
        ("a.csv", "name;id;note\nhug;0;x\nshake hands;1;y\n"),
        ("a.csv", "0,hug\n1,shake hands\n"),
        ("a.tsv", "hug\t0\nshake hands\t1\n"),
        ("a.txt", "0 hug\n1 shake hands\n"),
        ("a.txt", "\ufeffhug 0\nshake hands 1\n"),
        ("a.txt", "000: hug\n001: shake hands\n"),
        ("a.txt", "hug\nshake hands\n"),
        ("a.json", '{"0": "hug", "1": "shake hands"}'),
        ("a.json", '{"hug": 0, "shake hands": 1}'),
        ("a.json", '["hug", "shake hands"]'),
    ],
)
def test_names_are_read_from_usual_files(named, file, content):
    assert named(file, content, "1", "00", "1") == ["shake hands", "hug", "shake hands"]


def test_ids_may_be_words_and_names_stay(named):
    synsets = "n01,tench\nn02,goldfish\n"
    assert named("a.csv", synsets, "n02", "tench") == ["goldfish", "tench"]


def test_names_without_ids_count_as_the_labels_do(named):
    assert named("a.txt", "hug\nkick\npush\n", "3", "1") == ["push", "hug"]
    with pytest.raises(ManifestError, match=r"fit to ids from 0 and from 1\. Write the id before"):
        named("a.txt", "hug\nkick\npush\n", "1", "2")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("0,hug\n1,kick\n", r"has no name for 1 of 2 labels of manifest\.csv: '7'"),
        ("0,hug\n7,hug\n", r"the labels '0' and '7' of manifest\.csv have one name, 'hug'"),
        ("0,hug\n0,kick\n7,push\n", "the id '0' has two names, 'hug' and 'kick'"),
        ("a,b,c\n0,hug,x\n7,kick,y\n", "the header must name a column of ids and one of names"),
        ("", "has no names; write id,name rows of a CSV"),
    ],
)
def test_file_that_does_not_name_the_labels_is_refused(named, content, message):
    with pytest.raises(ManifestError, match=message):
        named("a.csv", content, "0", "7")


def test_missing_or_other_file_is_one_line(tmp_path):
    with pytest.raises(ManifestError, match=r"none\.csv: cannot be read \(No such file or directory\)"):
        read_label_names(tmp_path / "none.csv")
    (tmp_path / "a.json").write_text('{"0": ["hug"]}')
    with pytest.raises(ManifestError, match="must be "):
        read_label_names(tmp_path / "a.json")


def test_only_numbers_are_warned_of(make_manifest, caplog):
    warn_of_numbers(make_manifest(path=["a", "b"], label=["1", "two"]))
    assert caplog.messages == []
    warn_of_numbers(make_manifest(path=["a", "b"], label=["1", "2"]))
    assert "--class-names FILE" in caplog.text
