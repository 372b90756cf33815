"""Claims and locks of study and ladder folders."""

import pytest

from evclip_ray.artifacts import ArtifactError
from evclip_ray.claimed_folder import ClaimedFolder


class Folder(ClaimedFolder):
    STAGE = "study"


def test_new_folder_is_claimed_once(tmp_path):
    folder = Folder(tmp_path / "new")
    assert not folder.check({"a": 1})
    assert not folder.root.exists(), "a check writes nothing"
    folder.claim({"a": 1})
    folder.note(fact=2)
    folder.claim({"a": 1})
    assert folder.check({"a": 1})
    assert folder.ledger()["fact"] == 2


def test_another_identity_is_refused_with_the_difference(tmp_path):
    Folder(tmp_path).claim({"a": 1, "fixed": {"optim": {"epochs": 20}, "seed": 0}})
    changed = r"optim\.epochs: 20 -> 5, seed: 0 -> not set"
    with pytest.raises(ArtifactError, match=rf"belongs to another study \(begun with -> given: {changed}\)"):
        Folder(tmp_path).claim({"a": 1, "fixed": {"optim": {"epochs": 5}}})


def test_many_differences_are_counted(tmp_path):
    Folder(tmp_path).claim({f"s{i}": 0 for i in range(9)})
    with pytest.raises(ArtifactError, match=r"s5: 0 -> 1, and 3 more\)"):
        Folder(tmp_path).claim({f"s{i}": 1 for i in range(9)})


def test_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "photo.jpg").write_text("")
    with pytest.raises(ArtifactError, match="holds other files; choose another --out"):
        Folder(tmp_path).check({})


def test_locked_folder_names_its_process(tmp_path):
    with (
        Folder(tmp_path).lock(),
        pytest.raises(ArtifactError, match=r"process \d+ on .* is running this study"),
        Folder(tmp_path).lock(),
    ):
        pass
    with Folder(tmp_path).lock():
        pass
