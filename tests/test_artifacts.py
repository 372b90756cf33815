import json
import math

import pytest

from evclip_ray.artifacts import (
    ArtifactError,
    check_writable,
    digest,
    file_digest,
    format_csv,
    read_history,
    read_json,
    read_ledger,
    replacing,
    write_ledger,
)


def test_digest_ignores_the_order_of_keys():
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})


def test_failed_write_keeps_the_old_file(tmp_path):
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


def test_ledger_has_key_skipped_rows_and_versions(tmp_path):
    write_ledger(
        tmp_path, "shards", inputs={"rows": 3}, counts={"videos": 2}, skipped=[{"path": "a", "reason": "b"}]
    )
    ledger = read_ledger(tmp_path, "shards")
    assert ledger["key"] == digest({"rows": 3})
    assert ledger["skipped"] == [{"path": "a", "reason": "b"}]
    assert "torch" in ledger["provenance"]["versions"]


def test_ledger_of_another_stage_is_refused(tmp_path):
    write_ledger(tmp_path, "shards", inputs={})
    with pytest.raises(ArtifactError, match="its ledger has the stage 'shards'"):
        read_ledger(tmp_path, "study")


@pytest.mark.parametrize("content", ["{", "", "\x00"])
def test_damaged_ledger_is_named(tmp_path, content):
    (tmp_path / "ledger.json").write_text(content)
    with pytest.raises(ArtifactError, match=r"ledger\.json"):
        read_ledger(tmp_path, "study")


def test_json_is_read_as_written(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps({"a": [1]}))
    assert read_json(tmp_path / "x.json") == {"a": [1]}
    assert len(file_digest(tmp_path / "x.json")) == 16


def test_csv_has_empty_cells_for_missing_values():
    rows = [[1.23456789, None, math.nan], [math.inf, "a,b", True]]
    assert format_csv(["x", "y", "z"], rows) == 'x,y,z\n1.23456789,,\ninf,"a,b",True\n'
    assert format_csv(["x", "y", "z"], rows, digits=3) == 'x,y,z\n1.23,,\ninf,"a,b",True\n'


def test_history_skips_only_a_cut_last_line(tmp_path):
    path = tmp_path / "history.jsonl"
    assert read_history(path) == []
    path.write_text('{"epoch": 1}\n{"epo')
    assert read_history(path) == [{"epoch": 1}]
    path.write_text('{"epo\n{"epoch": 2}\n')
    with pytest.raises(ArtifactError, match=r"history\.jsonl: line 1 is not JSON"):
        read_history(path)


def test_unwritable_folder_is_refused_with_the_hint(tmp_path):
    check_writable(tmp_path / "new" / "folder", "choose another")
    assert list((tmp_path / "new" / "folder").iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match=r"file/folder: cannot be written to \(.*\); choose another"):
        check_writable(tmp_path / "file" / "folder", "choose another")
