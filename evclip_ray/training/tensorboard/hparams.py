"""Records for TensorBoard's HParams plugin: the searched settings of a study, start and end of each run.

A study writes one experiment record with the domains of the searched settings into its own folder before
its first trial. A run writes its settings when it starts, and its status when it ends. The metrics are
scalars of the runs, so the comparison is filled in while the study is running.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evclip_ray.objective import BEST, LAST, describe
from evclip_ray.records import METRICS

if TYPE_CHECKING:
    from tensorboard.plugins.hparams.summary_v2 import Domain


MEAN_TAG = "val/mean_top1"
"""Mean of the validation top-1 over the last epochs, for an objective that needs it."""
_BEST, _LAST = METRICS["best_val_top1"].tag, METRICS["val_top1"].tag


def declare_domains(
    folder: Path, domains: Mapping[str, tuple[str, tuple[Any, ...]]], *, objective: str = BEST
) -> None:
    """Write the experiment record into `folder`, unless the folder has event files.

    The first metric is the validation top-1 of the leaderboard.

    Args:
        folder: Folder of the study or ladder.
        domains: Path of each searched setting -> ("choice", values) or ("interval", (low, high)).
        objective: Objective of the study, which decides the value on the leaderboard.
    """
    # A resumed study has its record already, and each SummaryWriter would add one more event file.
    if any(folder.glob("events.out.tfevents.*")):
        return
    from tensorboard.plugins.hparams.summary_v2 import HParam, hparams_config_pb
    from torch.utils.tensorboard import SummaryWriter

    searched = [HParam(path, _domain(*domain)) for path, domain in domains.items()]
    writer = SummaryWriter(str(folder))
    writer._get_file_writer().add_summary(hparams_config_pb(searched, _metrics(objective)))
    writer.close()


def _metrics(objective: str) -> list[Any]:
    """Return the compared metrics in the order of their columns. TensorBoard shows the last value of each."""
    from tensorboard.plugins.hparams.summary_v2 import Metric

    names = {metric.tag: f"{metric.label}, last epoch" for metric in METRICS.values() if metric.direction}
    names[_BEST] = "top-1, best epoch"
    first = {BEST: _BEST, LAST: _LAST}.get(objective, MEAN_TAG)
    names = {first: f"top-1, {describe(objective)}", **names}
    split = {"val": Metric.VALIDATION, "train": Metric.TRAINING}
    return [
        Metric(tag, display_name=name, dataset_type=split[tag.split("/")[0]]) for tag, name in names.items()
    ]


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
