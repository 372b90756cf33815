import json

import pytest

from evclip_ray.artifacts import (
    ArtifactError,
    digest,
    file_digest,
    read_json,
    read_ledger,
    replacing,
    write_ledger,
)


def test_a_digest_does_not_depend_on_the_order_of_keys():
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def write_half():
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert path.read_text() == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["file.txt"]


def test_a_ledger_says_what_went_in_what_was_skipped_and_which_versions(tmp_path):
    write_ledger(
        tmp_path, "shards", inputs={"rows": 3}, counts={"videos": 2}, skipped=[{"path": "a", "reason": "b"}]
    )
    ledger = read_ledger(tmp_path, "shards")
    assert ledger["key"] == digest({"rows": 3})
    assert ledger["skipped"] == [{"path": "a", "reason": "b"}]
    assert "torch" in ledger["provenance"]["versions"]


def test_a_ledger_of_another_stage_is_refused(tmp_path):
    write_ledger(tmp_path, "shards", inputs={})
    with pytest.raises(ArtifactError, match="must be a 'study' folder, its ledger says 'shards'"):
        read_ledger(tmp_path, "study")


@pytest.mark.parametrize("content", ["{", "", "\x00"])
def test_a_damaged_ledger_is_named(tmp_path, content):
    (tmp_path / "ledger.json").write_text(content)
    with pytest.raises(ArtifactError, match=r"ledger\.json"):
        read_ledger(tmp_path, "study")


def test_reading_json_gives_what_was_written(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps({"a": [1]}))
    assert read_json(tmp_path / "x.json") == {"a": [1]}
    assert len(file_digest(tmp_path / "x.json")) == 16
