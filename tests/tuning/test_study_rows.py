"""Rows of a study: on record by content, refused after a change, taken over by a fork."""

import pytest

from evclip_ray.artifacts import ArtifactError
from evclip_ray.data.manifest.row_record import RowRecord
from evclip_ray.training.zero_shot import videos_key
from evclip_ray.tuning.study_folder import StudyFolder
from evclip_ray.tuning.study_rows import StudyRows
from evclip_ray.tuning.warm_start import measured_on


@pytest.fixture
def clips(tmp_path):
    """Return a function that adds files to a folder without splits, one per number in each of two classes."""

    def fill(numbers):
        for label in ("run", "walk"):
            (tmp_path / "clips" / label).mkdir(parents=True, exist_ok=True)
            for number in numbers:
                (tmp_path / "clips" / label / f"{number}.mp4").write_bytes(f"{label} {number}".encode())
        return tmp_path / "clips"

    return fill


@pytest.fixture
def rows_of(make_experiment, clips, tmp_path):
    """Return a function that opens the rows of a study over the clips, planned."""
    experiment = make_experiment(**{"data.manifest": str(clips(range(8))), "data.synthetic": None})

    def open_rows(name="study", **options):
        folder = StudyFolder(tmp_path / name)
        rows = StudyRows(folder, cache=tmp_path / "cache", **options)
        return rows, rows.plan(experiment), videos_key(experiment)

    return open_rows


def splits(plan):
    paths, assigned = plan.manifest.column("path"), plan.manifest.column("split")
    return dict(zip(paths, assigned, strict=True))


def test_record_is_written_once_and_passes_the_next_check(rows_of, tmp_path):
    rows, _, key = rows_of()
    file, record = rows.write(key)
    assert file == tmp_path / "study" / "rows" / f"{key}.parquet"
    assert RowRecord.read(file).keys() == record.keys()
    assert set(record.keys()) == {"train", "val"}
    again, _, _ = rows_of()
    again.check()


def test_grown_folder_is_refused_with_the_difference(rows_of, clips):
    rows, before, key = rows_of()
    rows.write(key)
    clips(range(8, 14))
    rows, plan, _ = rows_of()
    assert splits(before).items() <= splits(plan).items()
    with pytest.raises(ArtifactError, match=r"that it began with \(\d+ added: .*\.mp4.*--fork NEW_OUT"):
        rows.check()


def test_removed_and_changed_videos_are_refused(rows_of, clips):
    rows, plan, key = rows_of()
    rows.write(key)
    train, val = (
        next(clips([]) / path for path, name in splits(plan).items() if name == split)
        for split in ("train", "val")
    )
    train.unlink()
    val.write_bytes(b"another video")
    rows, _, _ = rows_of()
    with pytest.raises(ArtifactError, match=r"1 removed: .*; 1 with other content: "):
        rows.check()


def test_moved_folder_is_the_same_study(rows_of, clips, make_experiment, tmp_path):
    rows, _, key = rows_of()
    _, record = rows.write(key)
    moved = clips([]).rename(tmp_path / "elsewhere")
    rows = StudyRows(StudyFolder(tmp_path / "fork"), cache=tmp_path / "cache", fork_of=tmp_path / "study")
    plan = rows.plan(make_experiment(**{"data.manifest": str(moved), "data.synthetic": None}))
    assert record.assignment() == splits(plan)


@pytest.fixture
def moved_rows(rows_of, clips, make_experiment, tmp_path):
    """Return a function that opens the rows of a study with moved videos, their splits and their folder."""
    rows, plan, key = rows_of()
    rows.write(key)
    location = make_experiment(**{"data.manifest": str(clips([])), "data.synthetic": None}).data.location
    moved = clips([]).rename(tmp_path / "elsewhere")

    def open_rows(manifest=moved):
        experiment = make_experiment(**{"data.manifest": str(manifest), "data.synthetic": None})
        rows = StudyRows(StudyFolder(tmp_path / "study"), cache=tmp_path / "cache", begun_location=location)
        return rows, rows.plan(experiment), videos_key(experiment)

    return open_rows, splits(plan), moved


def test_moved_videos_are_the_same_study(moved_rows, tmp_path, caplog):
    open_rows, before, moved = moved_rows
    rows, plan, key = open_rows()
    rows.check()
    assert f"have moved from {tmp_path / 'clips'} to {moved}; they are the same" in caplog.text
    assert splits(plan) == before
    assert rows.write_moved() == {key: measured_on(plan)}
    assert RowRecord.read(tmp_path / "study" / "rows" / f"{key}.parquet").root == moved
    # The next call finds the new record.
    again, _, _ = open_rows()
    again.check()
    assert again.write_moved() == {}


def test_other_videos_at_the_new_place_are_refused(moved_rows):
    open_rows, _, moved = moved_rows
    for path in moved.rglob("*.mp4"):
        # As long as before: the content decides, not the size.
        path.write_bytes(path.read_bytes()[::-1])
    with pytest.raises(ArtifactError, match=r"\d+ with other content"):
        open_rows()[0].check()


def test_list_with_other_paths_keeps_the_splits(moved_rows, tmp_path):
    open_rows, before, moved = moved_rows
    listed = tmp_path / "links.csv"
    lines = [f"{moved / path},{path.split('/')[0]}" for path in before]
    listed.write_text("\n".join(["path,label", *lines]) + "\n")
    rows, plan, _ = open_rows(listed)
    rows.check()
    # Paths below the list's folder are stored relative to it.
    assert splits(plan) == {f"{moved.name}/{path}": split for path, split in before.items()}


def test_moved_study_without_record_is_refused(moved_rows, tmp_path):
    open_rows, _, _ = moved_rows
    for file in (tmp_path / "study" / "rows").iterdir():
        file.unlink()
    with pytest.raises(ArtifactError, match="it has no record"):
        open_rows()[0].check()


def test_fork_keeps_the_split_of_old_videos(rows_of, clips, tmp_path):
    rows, before, key = rows_of()
    rows.write(key)
    clips(range(8, 20))
    forked, plan, _ = rows_of("fork", fork_of=tmp_path / "study")
    forked.check()
    assert len(plan.manifest) == 40
    assert splits(before).items() <= splits(plan).items()
    forked.write(key)
    # The fork has a record of its own and does not need the first study any more.
    (tmp_path / "study" / "rows" / f"{key}.parquet").unlink()
    again, plan_again, _ = rows_of("fork", fork_of=tmp_path / "study")
    again.check()
    assert splits(plan_again) == splits(plan)


def test_fork_of_a_study_without_record_is_refused(rows_of, tmp_path):
    with pytest.raises(ArtifactError, match=r"has no record of its videos.*--out NEW_OUT --warm-start"):
        rows_of("fork", fork_of=tmp_path / "nowhere")


@pytest.fixture
def old_study(rows_of, tmp_path):
    """Write the ledger of a study of an earlier version, with the rows that this version drew."""
    folder = StudyFolder(tmp_path / "study")
    folder.claim({})
    folder.note(measured={"other": "0"})
    _, plan, key = rows_of()
    folder.note(measured={key: measured_on(plan)})
    return plan


def test_study_without_record_draws_splits_as_before(old_study, rows_of):
    rows, plan, key = rows_of()
    assert splits(plan) == splits(old_study)
    rows.check()
    rows.write(key)
    # From now on the record fixes the splits that were drawn in the old way.
    again, plan, _ = rows_of()
    again.check()
    assert splits(plan) == splits(old_study)


def test_study_without_record_is_refused_on_other_rows(old_study, rows_of, clips):
    clips([8])
    rows, _, _ = rows_of()
    with pytest.raises(ArtifactError, match="the digest of its rows is another one"):
        rows.check()


@pytest.mark.parametrize("content", [None, b"", b"PAR1 cut"], ids=["deleted", "emptied", "cut"])
def test_damaged_record_is_drawn_again_and_compared(content, rows_of, clips, tmp_path):
    folder = StudyFolder(tmp_path / "study")
    folder.claim({})
    rows, before, key = rows_of()
    file, record = rows.write(key)
    folder.note(measured={key: measured_on(before)})
    file.unlink() if content is None else file.write_bytes(content)
    rows, plan, _ = rows_of()
    rows.check()
    assert splits(plan) == splits(before)
    rows.write(key)
    assert RowRecord.read(file).keys() == record.keys()
    file.write_bytes(content or b"")
    clips([8])
    rows, _, _ = rows_of()
    with pytest.raises(ArtifactError, match="the digest of its rows is another one"):
        rows.check()


@pytest.fixture
def two_variants(make_experiment, clips, tmp_path):
    """Return a function that plans two sizes of validation over the clips in a folder of a study."""
    fixed = {"data.manifest": str(clips(range(8))), "data.synthetic": None}

    def open_rows(name="study", setting="data.val_fraction", values=(0.2, 0.3), manifest=None, **options):
        rows = StudyRows(StudyFolder(tmp_path / name), cache=tmp_path / "cache", **options)
        moved = fixed if manifest is None else fixed | {"data.manifest": str(manifest)}
        experiments = [make_experiment(**moved, **{setting: value}) for value in values]
        return rows, {videos_key(one): rows.plan(one) for one in experiments}

    return open_rows


def test_old_study_killed_between_two_records_goes_on(two_variants, tmp_path):
    folder = StudyFolder(tmp_path / "study")
    folder.claim({})
    folder.note(measured={"other": "0"})
    _, old = two_variants()
    folder.note(measured={key: measured_on(plan) for key, plan in old.items()})
    rows, _ = two_variants()
    rows.write(next(iter(old)))
    rows, plans = two_variants()
    rows.check()
    assert [splits(plan) for plan in plans.values()] == [splits(plan) for plan in old.values()]


def test_fork_of_several_variants_follows_a_moved_list(two_variants, clips, tmp_path):
    shots = {"setting": "data.shots", "values": (1, 2)}
    rows, before = two_variants(**shots)
    for key in before:
        rows.write(key)
    moved = clips([]).rename(tmp_path / "elsewhere")
    _, plans = two_variants("fork", **shots, manifest=moved, fork_of=tmp_path / "study")
    assert [splits(plan) for plan in plans.values()] == [splits(plan) for plan in before.values()]


def test_fork_of_variants_with_different_splits_is_refused(two_variants, clips, tmp_path):
    rows, before = two_variants()
    for key in before:
        rows.write(key)
    moved = clips([]).rename(tmp_path / "elsewhere")
    with pytest.raises(ArtifactError, match="several sets of videos with different splits"):
        two_variants("fork", manifest=moved, fork_of=tmp_path / "study")
