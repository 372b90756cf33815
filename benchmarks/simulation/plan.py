"""Plan of a simulated study: the cost of each part and the source of each number, read from a YAML file.

Times are in seconds of one process, sizes in bytes. The `source` of each section states how the numbers were
measured, or that they are assumed.
"""

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from evclip_ray.config import Config, read_yaml
from evclip_ray.tuning.search_space import StudyConfig


class TrialCosts(Config):
    """Costs of a trial on its GPU."""

    source: str
    start_seconds: float = Field(ge=0, description="new process, until its first training step")
    next_seconds: float = Field(0, ge=0, description="next trial in a process that has loaded its networks")
    epoch_seconds: float = Field(gt=0, description="steps and validation of an epoch")
    epoch_spread: float = Field(
        0, ge=0, description="standard deviation of log(epoch_seconds) between trials"
    )
    report_seconds: float = Field(
        0, ge=0, description="round trip of a result to the driver, without the driver's work"
    )
    checkpoint_bytes: float = Field(0, ge=0, description="bytes written to the shared storage per epoch")


class DriverCosts(Config):
    """Costs of the study's single driver, in seconds per event. It handles one event at a time."""

    source: str
    startup_seconds: float = Field(0, ge=0, description="before the first trial")
    begin_seconds: float = Field(0, ge=0, description="next point of the searcher")
    begin_per_trial: float = Field(0, ge=0, description="additional time per earlier trial")
    started_seconds: float = Field(0, ge=0, description="a process reports that it is ready")
    result_seconds: float = Field(0, ge=0, description="result of an epoch")
    result_per_trial: float = Field(0, ge=0, description="additional time per running trial")
    end_seconds: float = Field(0, ge=0, description="end of a trial, with the tables that are written")
    end_per_epoch: float = Field(0, ge=0, description="additional time per recorded epoch of the study")
    finish_seconds: float = Field(0, ge=0, description="after the last trial")


class VideoCosts(Config):
    """Costs of the videos and of data prepared once for all trials. `count` 0 disables the preparation."""

    source: str
    count: int = Field(ge=0)
    frames: float = Field(300, gt=0, description="median frames of a video")
    frames_spread: float = Field(0, ge=0, description="standard deviation of log(frames)")
    bytes: float = Field(1e6, ge=0, description="bytes of a video file")
    views: int = Field(1, ge=1, description="cached views per video")
    sampled_frames: int = Field(8, ge=1, description="frames per view")
    view_bytes: float = Field(1, gt=0, description="bytes of the frames of a view")
    shard_bytes: float = Field(
        64 * 2**20, gt=0, description="maximum bytes of a shard, as in the shard stage"
    )
    decode_seconds: float = Field(0, ge=0, description="time to decode or convert a frame on one core")
    feature_seconds: float = Field(0, ge=0, description="time of a view in the frozen networks on one GPU")
    feature_bytes: float = Field(0, ge=0, description="bytes of the features of a view")
    network_seconds: float = Field(0, ge=0, description="new process, until its first view")
    reads_frames: bool = Field(True, description="trials also read frames, not only features")

    @property
    def node_bytes(self) -> float:
        """Bytes that a node copies before its first epoch."""
        return self.count * self.views * (self.feature_bytes + self.reads_frames * self.view_bytes)


class ClusterCosts(Config):
    """Machines: GPU nodes, which also decode, CPU nodes, and their shared storage."""

    source: str
    gpus_per_node: int = Field(1, ge=1)
    cpus_per_node: int = Field(1, ge=0)
    cpu_nodes: int = Field(0, ge=0)
    cpus_per_cpu_node: int = Field(16, ge=1)
    node_start_seconds: float = Field(0, ge=0, description="from requesting a machine until it is ready")
    network_bytes: float = Field(gt=0, description="maximum bytes per second of one transfer")
    storage_bytes: float = Field(gt=0, description="bytes per second of all transfers together")
    losses_per_hour: float = Field(0, ge=0, description="losses of a GPU node, which is then replaced")


class ClusterPlan(Config):
    """A study on a cluster with any number of GPUs."""

    study: StudyConfig
    epochs: int = Field(ge=1, description="epochs of a trial that is not stopped")
    trial: TrialCosts
    driver: DriverCosts
    videos: VideoCosts
    cluster: ClusterCosts

    @classmethod
    def read(cls, path: Path, overrides: dict[str, object] | None = None) -> Self:
        """Read a plan from a YAML file.

        Raises:
            ConfigError: A key is unknown or a number is out of range.
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
        """Number of trials."""
        assert self.study.trials is not None
        return self.study.trials
