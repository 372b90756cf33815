"""Records for TensorBoard's HParams plugin: the searched settings of a study, start and end of each run.

A study writes one experiment record with the domains of the searched settings into its own folder before
its first trial. A run writes its settings when it starts, and its status when it ends. The metrics are
scalars of the runs, so the comparison is filled in while the study is running.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evclip_ray.records import METRICS

if TYPE_CHECKING:
    from tensorboard.plugins.hparams.summary_v2 import Domain


def declare_domains(folder: Path, domains: Mapping[str, tuple[str, tuple[Any, ...]]]) -> None:
    """Write the experiment record into `folder`, unless the folder has event files.

    Args:
        folder: Folder of the study or ladder.
        domains: Path of each searched setting -> ("choice", values) or ("interval", (low, high)).
    """
    # A resumed study has its record already, and each SummaryWriter would add one more event file.
    if any(folder.glob("events.out.tfevents.*")):
        return
    from tensorboard.plugins.hparams.summary_v2 import HParam, Metric, hparams_config_pb
    from torch.utils.tensorboard import SummaryWriter

    searched = [HParam(path, _domain(*domain)) for path, domain in domains.items()]
    split = {"val": Metric.VALIDATION, "train": Metric.TRAINING}
    metrics = [
        Metric(metric.tag, display_name=metric.label, dataset_type=split[metric.tag.split("/")[0]])
        for metric in METRICS.values()
        if metric.direction
    ]
    writer = SummaryWriter(str(folder))
    writer._get_file_writer().add_summary(hparams_config_pb(searched, metrics))
    writer.close()


def session_start(values: Mapping[str, Any]) -> Any:
    """Return the start record of a run with the given value of each setting, by path."""
    from tensorboard.plugins.hparams.summary_v2 import hparams_pb

    # With an empty id the plugin names a run by its folder. The default merges runs of equal settings.
    return hparams_pb({path: _plain(value) for path, value in values.items()}, trial_id="")


def session_end(*, succeeded: bool) -> Any:
    """Return the end record of a run."""
    # TensorBoard's own session_end_pb imports TensorFlow.
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

    status = api_pb2.STATUS_SUCCESS if succeeded else api_pb2.STATUS_FAILURE
    data = plugin_data_pb2.HParamsPluginData(session_end_info=plugin_data_pb2.SessionEndInfo(status=status))
    described = metadata.create_summary_metadata(data)
    return Summary(value=[Summary.Value(tag=metadata.SESSION_END_INFO_TAG, metadata=described)])


def _domain(kind: str, values: Sequence[Any]) -> "Domain":
    """Return the domain of a setting; the plugin wants all values of a choice in one type."""
    from tensorboard.plugins.hparams.summary_v2 import Discrete, RealInterval

    if kind == "interval":
        return RealInterval(*(float(end) for end in values))
    if all(isinstance(value, bool) for value in values):
        return Discrete(values, dtype=bool)
    is_number = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    return Discrete([float(value) if is_number else str(value) for value in values])


def _plain(value: Any) -> bool | int | float | str:
    return value if isinstance(value, bool | int | float | str) else str(value)
