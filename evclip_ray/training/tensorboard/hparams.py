"""The records that TensorBoard's HParams plugin reads: what a study searches, and where a run is.

A study writes one experiment record with the domains of what it searches, in its own folder, before its
first trial; a run writes where it is when it begins, and how it ended. Metrics are the scalars of the
runs, so that the comparison fills in while the study goes on.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

METRICS = {
    "val/top1": "top-1", "val/best_top1": "best top-1", "val/top5": "top-5", "val/loss": "loss",
    "train/loss": "training loss",
}  # fmt: skip


def declare_domains(folder: Path, domains: Mapping[str, tuple[str, tuple[Any, ...]]]) -> None:
    """Say, once, what is searched under `folder`: path -> ("choice", values) or ("interval", ends)."""
    if any(folder.glob("events.out.tfevents.*")):
        return
    from tensorboard.plugins.hparams import api_pb2
    from torch.utils.tensorboard import SummaryWriter

    shown = {"val": api_pb2.DATASET_VALIDATION, "train": api_pb2.DATASET_TRAINING}
    metrics = [
        api_pb2.MetricInfo(
            name=api_pb2.MetricName(tag=tag), display_name=title, dataset_type=shown[tag.split("/")[0]]
        )
        for tag, title in METRICS.items()
    ]
    searched = [_hparam(path, *domain) for path, domain in domains.items()]
    writer = SummaryWriter(str(folder))
    writer._get_file_writer().add_summary(
        _record("experiment", api_pb2.Experiment(hparam_infos=searched, metric_infos=metrics))
    )
    writer.close()


def session_start(values: Mapping[str, Any]) -> Any:
    """The record of a run at `values`, path -> value."""
    from tensorboard.plugins.hparams import plugin_data_pb2

    start = plugin_data_pb2.SessionStartInfo()
    for path, value in values.items():
        _set(start.hparams[path], value)
    return _record("session_start_info", start)


def session_end(*, succeeded: bool) -> Any:
    """The record that a run is over."""
    from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2

    status = api_pb2.STATUS_SUCCESS if succeeded else api_pb2.STATUS_FAILURE
    return _record("session_end_info", plugin_data_pb2.SessionEndInfo(status=status))


def _hparam(path: str, kind: str, values: Sequence[Any]) -> Any:
    from google.protobuf import struct_pb2
    from tensorboard.plugins.hparams import api_pb2

    if kind == "interval":
        low, high = values
        interval = api_pb2.Interval(min_value=float(low), max_value=float(high))
        return api_pb2.HParamInfo(name=path, type=api_pb2.DATA_TYPE_FLOAT64, domain_interval=interval)
    listed = struct_pb2.ListValue()
    for value in values:
        _set(listed.values.add(), value)
    return api_pb2.HParamInfo(name=path, type=_type_of(values), domain_discrete=listed)


def _type_of(values: Sequence[Any]) -> Any:
    from tensorboard.plugins.hparams import api_pb2

    if all(isinstance(value, bool) for value in values):
        return api_pb2.DATA_TYPE_BOOL
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return api_pb2.DATA_TYPE_FLOAT64
    return api_pb2.DATA_TYPE_STRING


def _set(place: Any, value: Any) -> None:
    """Into a protobuf Value; what is no number, truth or text is written as text."""
    if isinstance(value, bool):
        place.bool_value = value
    elif isinstance(value, int | float):
        place.number_value = value
    else:
        place.string_value = str(value)


def _record(kind: str, content: Any) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.plugins.hparams import metadata, plugin_data_pb2

    tags = {
        "experiment": metadata.EXPERIMENT_TAG,
        "session_start_info": metadata.SESSION_START_INFO_TAG,
        "session_end_info": metadata.SESSION_END_INFO_TAG,
    }
    data = plugin_data_pb2.HParamsPluginData(version=metadata.PLUGIN_DATA_VERSION, **{kind: content})
    plugin = SummaryMetadata.PluginData(
        plugin_name=metadata.PLUGIN_NAME, content=data.SerializeToString(deterministic=True)
    )
    return Summary(value=[Summary.Value(tag=tags[kind], metadata=SummaryMetadata(plugin_data=plugin))])
