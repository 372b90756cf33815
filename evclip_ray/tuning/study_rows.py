"""Videos of a study: chosen as its record of rows says, and compared with it by content.

    rows/KEY.parquet    the rows of one variant of the `data` and `view` settings, see `RowRecord`; KEY is the
                        `videos_key` of the variant

A study goes on with the videos that it began with. Where the list has changed, it is refused with the
difference; `fork_of` takes the assignment of splits over into a new study, so that no old video moves. A list
that has moved goes on if its videos have equal content, parts, labels and uses. Its key is another one then,
and it gets a record of its own.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evclip_ray.artifacts import ArtifactError
from evclip_ray.data.manifest.row_record import RowRecord
from evclip_ray.formatting import shell
from evclip_ray.progress import Progress
from evclip_ray.training.experiment import ExperimentConfig
from evclip_ray.training.video_lists import list_videos
from evclip_ray.training.video_plan import VideoPlan, plan_videos, record_rows
from evclip_ray.training.zero_shot import videos_key
from evclip_ray.tuning.study_folder import StudyFolder
from evclip_ray.tuning.trial_folder import warn_once
from evclip_ray.tuning.warm_start import measured_on


class VideosChanged(ArtifactError):
    """Refusal of a study whose videos have changed.

    Args:
        root: Folder of the study.
        difference: Difference from the videos that it began with, as text.
    """

    def __init__(self, root: Path, difference: str) -> None:
        self.difference = difference
        super().__init__(
            f"{root}: its videos are not those that it began with ({difference}). Trials on different videos "
            f"cannot be compared. Restore the list, or add --fork NEW_OUT to {shell('--out', root)}: this "
            "begins a new study on the new videos, which starts with the best points of this one and moves "
            "no old video to another split."
        )


class StudyRows:
    """Rows of each variant of a study's videos.

    Args:
        folder: Folder of the study.
        cache: Folder of the small world's videos.
        fork_of: Folder of the study whose splits a new study takes over.
        begun_location: Location of the videos when the study began, if it is another one now, see
            `equal_settings.begun_location`.
    """

    def __init__(
        self,
        folder: StudyFolder,
        *,
        cache: Path,
        fork_of: Path | None = None,
        begun_location: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder, self._cache = folder, cache
        self._begun_location = begun_location
        # Key of a variant whose videos have moved -> its record under the key that it began with.
        self._moved: dict[str, RowRecord] = {}
        self._fork_of = None if fork_of is None else StudyFolder(fork_of)
        # A study is planned, prepared and warm-started: the list is read once for all of them.
        self._plans: dict[str, VideoPlan] = {}
        self._records: dict[str, RowRecord] = {}

    def plan(self, experiment: ExperimentConfig, progress: Progress | None = None) -> VideoPlan:
        """Return the rows of an experiment. Videos that the study knows keep their split.

        Args:
            experiment: Settings of the run.
            progress: Progress of drawing missing videos of the small world.

        Raises:
            ArtifactError: The study that is forked has no record of its rows.
        """
        key = videos_key(experiment)
        if key not in self._plans:
            self._plans[key] = self._draw(experiment, key, progress)
        return self._plans[key]

    def _draw(self, experiment: ExperimentConfig, key: str, progress: Progress | None) -> VideoPlan:
        self._find_moved(experiment, key, progress)
        recorded = self._recorded(key) or self._forked(key)
        is_legacy = recorded is None and self._is_legacy(key)

        def plan(legacy: bool) -> VideoPlan:
            return plan_videos(
                experiment,
                cache=self._cache,
                recorded=recorded,
                legacy=legacy,
                cross_validate=True,
                progress=progress,
            )

        drawn, measured = plan(is_legacy), self._measured.get(key)
        if recorded is None and measured not in (None, measured_on(drawn)):
            # A damaged record does not tell which version drew the splits.
            other = plan(not is_legacy)
            drawn = other if measured_on(other) == measured else drawn
        return drawn

    def check(self, progress: Progress | None = None) -> None:
        """Compare all planned variants with the record of the study.

        Args:
            progress: Progress of reading new or touched files.

        Raises:
            VideosChanged: The videos have changed since the study began.
        """
        for key, plan in self._plans.items():
            recorded = self._recorded(key)
            if recorded is not None:
                record = self._record(key, progress)
                if difference := recorded.difference(record):
                    raise VideosChanged(self.folder.root, str(difference))
                if key in self._moved:
                    warn_once(
                        f"{self.folder.root}: its videos have moved from {recorded.source} to "
                        f"{record.source}; they are the same by content, and the study goes on"
                    )
            elif self._begun_location is not None:
                raise VideosChanged(self.folder.root, "their location is another one, and it has no record")
            # Studies of earlier versions recorded a digest of the rows alone.
            elif self._measured.get(key) not in (None, measured_on(plan)):
                raise VideosChanged(self.folder.root, "the digest of its rows is another one")

    def write(self, key: str, progress: Progress | None = None) -> tuple[Path, RowRecord]:
        """Write the record of a planned variant, unless it exists; return its file and content."""
        file = self._file(self.folder, key)
        record = self._recorded(key)
        if record is None or key in self._moved:
            record = self._record(key, progress)
            record.write(file)
        return file, record

    def write_moved(self) -> dict[str, str]:
        """Write the records of variants whose videos have moved; return the digests of `measured_on`."""
        for key in self._moved:
            self.write(key)
        return {key: measured_on(self._plans[key]) for key in self._moved}

    @property
    def _measured(self) -> Mapping[str, str]:
        measured: Mapping[str, str] = (
            self.folder.ledger().get("measured", {}) if self.folder.has_ledger else {}
        )
        return measured

    def _is_legacy(self, key: str) -> bool:
        """Whether a version that recorded no rows drew the splits of a variant, in another way."""
        measured = self._measured
        has_records = (self.folder.root / "rows").is_dir()
        # The present version writes the records of all variants before the digests. A digest without a record
        # is therefore from an earlier version, also where a process was killed between two records.
        return bool(measured) and (key in measured or not has_records)

    def _record(self, key: str, progress: Progress | None) -> RowRecord:
        if key not in self._records:
            # Moved files are read: a copy may have the size and the time of another file.
            known = None if key in self._moved else self._recorded(key) or self._forked(key)
            self._records[key] = record_rows(self._plans[key], known=known, progress=progress)
        return self._records[key]

    def _recorded(self, key: str) -> RowRecord | None:
        """Return the record of a variant; None if there is none or it is damaged.

        A damaged one is written again, if the videos have the digest in the ledger.
        """
        if key in self._moved:
            return self._moved[key]
        return self._read(key)

    def _find_moved(self, experiment: ExperimentConfig, key: str, progress: Progress | None) -> None:
        """Note the record of a variant under the location that its videos had, if they have moved."""
        if self._begun_location is None or self._file(self.folder, key).is_file():
            return
        data = experiment.data.model_copy(update=dict(self._begun_location))
        record = self._read(videos_key(experiment.model_copy(update={"data": data})))
        if record is not None:
            listed = list_videos(experiment, cache=self._cache, allow_same_labels=True, progress=progress)
            self._moved[key] = record.with_paths_of(listed)

    def _read(self, key: str) -> RowRecord | None:
        file = self._file(self.folder, key)
        try:
            return RowRecord.read(file) if file.is_file() else None
        except ArtifactError as problem:
            warn_once(f"{problem}; the videos are compared by the digest in the ledger")
            return None

    def _forked(self, key: str) -> RowRecord | None:
        """Return the record of the forked study: that of the same settings, or of the same splits."""
        if self._fork_of is None:
            return None
        file = self._file(self._fork_of, key)
        files = [file] if file.is_file() else sorted((self._fork_of.root / "rows").glob("*.parquet"))
        records = [RowRecord.read(path) for path in files]
        # Variants such as several values of data.shots share their splits. Their keys contain the place of
        # the list, so none of them is found by its key after the list has moved.
        if records and all(record.assignment() == records[0].assignment() for record in records[1:]):
            return records[0]
        problem = (
            "has no record of its videos, because an earlier version began it"
            if not files
            else "was searched over several sets of videos with different splits, none with these settings"
        )
        raise ArtifactError(
            f"--fork: the study {self._fork_of.root} {problem}. Begin a new study, whose splits are drawn "
            f"again, with --out NEW_OUT {shell('--warm-start', self._fork_of.root)}."
        )

    @staticmethod
    def _file(folder: StudyFolder, key: str) -> Path:
        return folder.root / "rows" / f"{key}.parquet"
