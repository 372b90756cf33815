"""Commands and links at the top of a report."""

import pytest
from made_studies import write_study

from evclip_ray.artifacts import read_json, write_json, write_text
from evclip_ray.reports.sections.next_steps import Videos, links, next_commands, videos_of
from evclip_ray.results import Study

VIDEOS = Videos(has_test=True, example="a b.mp4")


def commands(root, videos=VIDEOS, *, is_tested=False):
    return [command.line for command in next_commands(Study.load(root), videos, is_tested=is_tested)]


def test_commands_apply_to_the_state_of_the_study(tmp_path):
    root = write_study(tmp_path / "my study", states=("running",))
    assert commands(root) == []
    write_text(root / "best" / "adapter.safetensors", "")
    best = f"'{root}/best'"
    use = [
        f"evclip-ray predict {best} 'a b.mp4'",
        f"evclip-ray export {best} --out '{root}/best.onnx'",
    ]
    test = f"evclip-ray evaluate {best} --split test"
    assert commands(root) == [test, *use]
    assert commands(root, is_tested=True) == use
    assert commands(root, Videos(example="a b.mp4")) == use
    write_json(root / "ledger.json", read_json(root / "ledger.json") | {"command": "evclip-ray tune debug"})
    assert commands(root) == ["evclip-ray tune debug", test, *use]
    write_json(root / "trials" / "trial-0000" / "result.json", {"state": "complete"})
    assert commands(root) == [test, *use]


def test_links_name_files_that_exist(tmp_path):
    study = Study.load(write_study(tmp_path))
    assert [link.target for link in links(study)] == ["best/"]
    write_text(tmp_path / "best.yaml", "")
    assert [link.target for link in links(study, "rungs/a/")] == ["rungs/a/best.yaml", "rungs/a/best/"]


@pytest.mark.parametrize(
    ("rows", "data", "expected"),
    [
        ("path,label,split\na.mp4,x,train\nb.mp4,y,test\n", {}, (True, "b.mp4")),
        ("path,label,split\na.mp4,x,train\nb.mp4,y,val\n", {}, (False, "b.mp4")),
        ("path,label\na.mp4,x\nb.mp4,y\n", {}, (True, "b.mp4")),
        ("path,label\na.mp4,x\nb.mp4,y\n", {"test_fraction": 0}, (False, "b.mp4")),
        ("path,label\nc.mp4,x\nd.mp4,y\n", {}, (True, "my.mp4")),
        ("nothing\n", {}, (False, "my.mp4")),
    ],
    ids=["test", "no_test", "drawn", "none_drawn", "no_file", "damaged"],
)
def test_videos_are_looked_up_in_the_list(tmp_path, rows, data, expected):
    write_text(tmp_path / "list.csv", rows)
    write_text(tmp_path / "b.mp4", "")
    record = {"experiment": {"data": {"manifest": str(tmp_path / "list.csv"), **data}}}
    videos = videos_of(record, tmp_path / "cache")
    assert (videos.has_test, videos.example.removeprefix(f"{tmp_path}/")) == expected


def test_videos_that_are_not_drawn_yet_have_no_example(tmp_path):
    record = {"experiment": {"data": {"world": {"domain": "clutter", "test_videos": 30}}}}
    assert videos_of(record, tmp_path) == Videos(has_test=True)
    assert videos_of({}, tmp_path) == Videos()
    assert not list(tmp_path.iterdir())
