"""What a simulated study costs part by part, and where each number is from: one YAML file.

Seconds are of one process, bytes are bytes, and each section says its `source`: measured where and how,
or assumed by whom.
"""

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from evclip_ray.config import Config, read_yaml
from evclip_ray.tuning.search_space import StudyConfig


class TrialCosts(Config):
    """A trial on its GPU."""

    source: str
    start_seconds: float = Field(ge=0, description="a new process, up to its first training step")
    next_seconds: float = Field(0, ge=0, description="a further trial in a process that has its networks")
    epoch_seconds: float = Field(gt=0, description="an epoch's steps and its validation")
    epoch_spread: float = Field(0, ge=0, description="between trials: deviation of the logarithm of that")
    report_seconds: float = Field(
        0, ge=0, description="an epoch's way to the driver and back, without its work"
    )
    checkpoint_bytes: float = Field(0, ge=0, description="written to the shared storage after an epoch")


class DriverCosts(Config):
    """The study's one driver, which takes one event after the other: seconds of its time."""

    source: str
    startup_seconds: float = Field(0, ge=0, description="before it asks for the first trial")
    begin_seconds: float = Field(0, ge=0, description="the searcher's next point")
    begin_per_trial: float = Field(0, ge=0, description="more of that for each trial begun before")
    started_seconds: float = Field(0, ge=0, description="a process says that it is ready")
    result_seconds: float = Field(0, ge=0, description="an epoch's result")
    result_per_trial: float = Field(0, ge=0, description="more of that for each trial that is running")
    end_seconds: float = Field(0, ge=0, description="a trial's end, with the tables that are written")
    end_per_epoch: float = Field(
        0, ge=0, description="more of that for each epoch that the study has recorded"
    )
    finish_seconds: float = Field(0, ge=0, description="after the last trial")


class VideoCosts(Config):
    """The videos, and what is made of them once for all trials; with `count` 0 nothing is."""

    source: str
    count: int = Field(ge=0)
    frames: float = Field(300, gt=0, description="of a video, at the median")
    frames_spread: float = Field(0, ge=0, description="deviation of the logarithm of that")
    bytes: float = Field(1e6, ge=0, description="of a video's file")
    views: int = Field(1, ge=1, description="of a video that are kept")
    sampled_frames: int = Field(8, ge=1, description="of a view")
    view_bytes: float = Field(1, gt=0, description="of a view's frames")
    shard_bytes: float = Field(64 * 2**20, gt=0, description="of a shard at most, as preparing videos has it")
    decode_seconds: float = Field(0, ge=0, description="a frame, decoded or converted, on one core")
    feature_seconds: float = Field(0, ge=0, description="a view through the frozen networks on one GPU")
    feature_bytes: float = Field(0, ge=0, description="of what they say of a view")
    network_seconds: float = Field(0, ge=0, description="a process, up to its first view")
    reads_frames: bool = Field(True, description="trials read frames too, not features alone")

    @property
    def node_bytes(self) -> float:
        """What a node fetches before its first epoch."""
        return self.count * self.views * (self.feature_bytes + self.reads_frames * self.view_bytes)


class ClusterCosts(Config):
    """The machines: GPU nodes, which decode too, CPU nodes, and the storage that they share."""

    source: str
    gpus_per_node: int = Field(1, ge=1)
    cpus_per_node: int = Field(1, ge=0)
    cpu_nodes: int = Field(0, ge=0)
    cpus_per_cpu_node: int = Field(16, ge=1)
    node_start_seconds: float = Field(0, ge=0, description="from asking for a machine to its being there")
    network_bytes: float = Field(gt=0, description="a second, of one transfer at most")
    storage_bytes: float = Field(gt=0, description="a second, of all transfers together")
    losses_per_hour: float = Field(0, ge=0, description="of a GPU node, which then has to be started anew")


class ClusterPlan(Config):
    """A study on a cluster whose number of GPUs is left open."""

    study: StudyConfig
    epochs: int = Field(ge=1, description="of a trial that is not stopped")
    trial: TrialCosts
    driver: DriverCosts
    videos: VideoCosts
    cluster: ClusterCosts

    @classmethod
    def read(cls, path: Path, overrides: dict[str, object] | None = None) -> Self:
        """The plan of a YAML file.

        Raises:
            ConfigError: an unknown key, or a number out of its range.
        """
        return cls.load(read_yaml(path), overrides)

    @model_validator(mode="after")
    def _can_be_simulated(self) -> Self:
        if self.study.trials is None:
            raise ValueError("study.trials must be a number of trials to be simulated, got none")
        cluster = self.cluster
        if self.videos.count and not cluster.cpus_per_node and not cluster.cpu_nodes:
            raise ValueError("nothing can decode: set cluster.cpus_per_node or cluster.cpu_nodes above 0")
        return self

    @property
    def trials(self) -> int:
        """Trials in all."""
        assert self.study.trials is not None
        return self.study.trials
