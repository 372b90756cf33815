"""Downloads of weights: an unreachable host is one error, without minutes of attempts."""

import contextlib
import logging
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import huggingface_hub
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

from evclip_ray.config import ConfigError
from evclip_ray.models.weight_names import RANDOM

HUB_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
"""Names of the weights in a repository of open_clip, if its tag names none."""
_SECONDS = 10


def no_download(network: str, weights: str, reason: object) -> ConfigError:
    """Return the error about weights that cannot be downloaded. It names the settings of both networks.

    Args:
        network: Name of the network, such as "backbone ViT-B-16".
        weights: Name of its weights.
        reason: What went wrong.
    """
    first = (str(reason).strip().splitlines() or [type(reason).__name__])[0]
    return ConfigError(
        f"{network}: the weights {weights!r} are not on this machine and cannot be downloaded "
        f"({first[:200]}). Connect this machine to the network once, or set backbone.pretrained and "
        f"method.video_encoder.weights to local files, or to {RANDOM!r} for untrained weights."
    )


def check_hub(repository: str, file: str) -> None:
    """Check that Hugging Face can be reached, unless the weights are in its cache.

    The download tries again for 40 seconds, which helps where a connection is lost, but not where there is
    none.

    Args:
        repository: Name of the repository.
        file: Name of the file; empty for the usual ones.

    Raises:
        ConnectionError: It cannot. The message has the address.
    """
    names = (file,) if file else HUB_FILES
    if any(isinstance(huggingface_hub.try_to_load_from_cache(repository, name), str) for name in names):
        return
    url = huggingface_hub.hf_hub_url(repository, names[0])
    try:
        huggingface_hub.get_hf_file_metadata(url, timeout=_SECONDS)
    except (HfHubHTTPError, EntryNotFoundError):
        # The host answers: the download knows the other names of the file, and reports its errors.
        return
    except Exception as error:
        # The client's library of the hub has errors of its own, which have changed between its versions.
        raise ConnectionError(f"{huggingface_hub.constants.ENDPOINT}: {error}") from error


def check_url(url: str) -> None:
    """Check that a host can be reached. It is not asked for the file, which the download reports.

    Raises:
        OSError: It cannot.
    """
    with contextlib.suppress(HTTPError):
        urlopen(Request(url, method="HEAD"), timeout=_SECONDS).close()


def repository_of(tag: Mapping[str, Any]) -> tuple[str, str]:
    """Return repository and file of an open_clip tag; the repository is empty for other hosts."""
    repository, _, file = str(tag.get("hf_hub") or "").rpartition("/")
    return repository, file


@contextlib.contextmanager
def quiet_attempts() -> Iterator[None]:
    """Drop the messages of a download, whose last error is raised."""
    # huggingface_hub logs every attempt, and open_clip the last error on the root logger.

    def is_relevant(record: logging.LogRecord) -> bool:
        return (
            record.levelno > logging.ERROR or record.name != "root" or "download" not in record.getMessage()
        )

    root, hub = logging.getLogger(), logging.getLogger("huggingface_hub")
    level = hub.level
    hub.setLevel(logging.CRITICAL)
    root.addFilter(is_relevant)
    try:
        yield
    finally:
        hub.setLevel(level)
        root.removeFilter(is_relevant)
