"""Checks of this machine: what a study needs, each with its fix."""

import contextlib
import dataclasses
import os
import platform
import resource
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import av
import numpy as np
import ray
import torch

from evclip_ray.artifacts import provenance
from evclip_ray.cluster.connection import connect
from evclip_ray.cluster.local_ray import check_loopback, temporary_base
from evclip_ray.config import ConfigError
from evclip_ray.data.video.decode import decoder_name
from evclip_ray.data.video.reader import VideoReader
from evclip_ray.formatting import binary_size, counted, duration
from evclip_ray.models.weight_status import WeightStatus, clip_weight_status, encoder_weight_status
from evclip_ray.progress import stage
from evclip_ray.termination import ray_may_die
from evclip_ray.training.experiment import ExperimentConfig

State = Literal["ok", "warning", "failed"]

_GIB = 2**30
_OBJECT_STORE = 300 * 2**20
_CODECS = ("h264", "hevc", "mpeg4", "vp9", "av1")
_FRAMES = 8
_TIMEOUT = 5.0


@dataclasses.dataclass(frozen=True)
class Check:
    """Result of one check.

    Attributes:
        name: Subject.
        state: "failed" if no study can run, "warning" if some cannot or would be slow.
        text: What was found.
        fix: What to do, empty if the state is "ok".
    """

    name: str
    state: State
    text: str
    fix: str = ""


def check_machine(
    experiment: ExperimentConfig, *, cache: Path, out: Path, with_ray: bool = True
) -> Iterator[Check]:
    """Yield the result of each check as soon as it is known. Ray, which takes longest, comes last.

    Args:
        experiment: Experiment whose weights must be available.
        cache: Folder of decoded videos and cached features.
        out: Folder of the results.
        with_ray: Whether to start and stop a local Ray.
    """
    checks: list[tuple[str, Callable[[], Check]]] = [
        ("versions", _versions),
        ("CPU and memory", _memory),
        ("GPU", _gpu),
        ("decoder", _decoder),
        ("cache", lambda: _disk("cache", cache, 10 * _GIB, "--cache, EVCLIP_RAY_CACHE")),
        ("output", lambda: _disk("output", out, 2 * _GIB, "--out")),
        ("temporary folder", _temporary),
        ("shared memory", _shared_memory),
        ("open files", _open_files),
        ("home folder", _home),
        ("loopback", _loopback),
        *_weights(experiment),
    ]
    if with_ray:
        checks.append(("Ray", _ray))
    for name, check in checks:
        try:
            yield check()
        # One check that crashes must not hide the results of the others.
        except Exception as error:
            reason = " ".join(str(error).split())[:300].rstrip(".")
            yield Check(name, "failed", f"{type(error).__name__}: {reason}", "Report this as a bug.")


def _versions() -> Check:
    versions = {"python": platform.python_version(), **provenance()["versions"]}
    return Check("versions", "ok", ", ".join(f"{name} {version}" for name, version in versions.items()))


def _memory() -> Check:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError):
        # The limit of a container; "max" is no number.
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    text = f"{counted(len(os.sched_getaffinity(0)), 'CPU')}, {binary_size(total)} of memory"
    if total >= 4 * _GIB:
        return Check("CPU and memory", "ok", text)
    fix = "A trial needs about 1.5 GiB (--memory-per-worker), and Ray 1 GiB."
    return Check("CPU and memory", "warning", text, fix)


def _gpu() -> Check:
    driver = _driver()
    if not torch.cuda.is_available():
        if driver is None:
            return Check("GPU", "ok", "none: training runs on the CPU")
        fix = "Install a PyTorch for CUDA that fits the driver (https://pytorch.org/get-started)."
        if torch.version.cuda is not None:
            fix = f"PyTorch needs a driver for CUDA {torch.version.cuda}, and access to /dev/nvidia*."
        return Check("GPU", "warning", f"driver {driver}, but PyTorch {torch.__version__} sees no GPU", fix)
    # A product on the card finds a driver that PyTorch can load but not use.
    product = torch.ones(8, 8, device="cuda") @ torch.ones(8, 8, device="cuda")
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    free, total = torch.cuda.mem_get_info()
    memory = f"{binary_size(free)} of {binary_size(total)} free"
    text = f"{', '.join(names)}; driver {driver or 'unknown'}; {memory}"
    if float(product[0, 0]) != 8:
        return Check("GPU", "failed", f"{text}; a product is wrong", "Replace the GPU or its driver.")
    if free < total / 2:
        return Check("GPU", "warning", text, "Another process uses it: see nvidia-smi.")
    return Check("GPU", "ok", text)


def _driver() -> str | None:
    """Return the version of NVIDIA's driver, None without one."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.partition("\n")[0] or None


def _decoder() -> Check:
    missing = [codec for codec in _CODECS if codec not in av.codecs_available]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tiny.mp4"
        codec = _write_tiny_video(path)
        with VideoReader(path) as video:
            frames = video.read(
                range(_FRAMES), lambda frame: np.asarray(frame.to_ndarray(format="gray"), np.uint8)
            )
    right = sum(abs(float(np.mean(frames[index])) - _grey(index)) < 8 for index in frames)
    text = f"{decoder_name()}: {right} of {_FRAMES} frames of a tiny {codec} video are right"
    fix = "Install PyAV's wheel, which contains FFmpeg: pip install --force-reinstall av"
    if right < _FRAMES:
        return Check("decoder", "failed", text, fix)
    if missing:
        return Check("decoder", "warning", f"{text}; no decoder for {', '.join(missing)}", fix)
    return Check("decoder", "ok", text)


def _grey(index: int) -> int:
    return 30 + 25 * index


def _write_tiny_video(path: Path) -> str:
    """Write a video of grey frames, each of another brightness. Returns the codec."""
    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index in range(_FRAMES):
            pixels = np.full((48, 64, 3), _grey(index), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return "H.264" if codec == "libx264" else "MPEG-4"


def _disk(name: str, folder: Path, needed: int, options: str) -> Check:
    existing = next((part for part in (folder, *folder.parents) if part.exists()), folder)
    fix = f"Choose another folder ({options})"
    try:
        # Permissions alone do not find a read-only file system or a quota.
        with tempfile.TemporaryFile(dir=existing) as probe:
            probe.write(b"\0" * 2**20)
            probe.flush()
    except OSError as error:
        return Check(name, "failed", f"{folder}: cannot be written ({error.strerror})", f"{fix}.")
    free = shutil.disk_usage(existing).free
    text = f"{folder}: {binary_size(free)} free"
    if free >= needed:
        return Check(name, "ok", text)
    return Check(name, "warning", f"{text}, less than {binary_size(needed)}", f"Free some, or {fix.lower()}.")


def _temporary() -> Check:
    try:
        base, problem = temporary_base()
    except ConfigError as error:
        return Check("temporary folder", "failed", str(error), "Set RAY_TMPDIR=/tmp/me.")
    if problem:
        fix = "Set RAY_TMPDIR to a short folder to choose another one."
        return Check("temporary folder", "warning", f"{problem}; Ray uses {base}", fix)
    return _disk("temporary folder", base, _GIB, "TMPDIR, or RAY_TMPDIR for Ray alone")


def _shared_memory() -> Check:
    folder = Path("/dev/shm")
    if not folder.is_dir():
        return Check("shared memory", "warning", "no /dev/shm: Ray uses the disk", "Mount a tmpfs there.")
    free = shutil.disk_usage(folder).free
    text = f"{folder}: {binary_size(free)} free"
    if free >= _OBJECT_STORE:
        return Check("shared memory", "ok", text)
    fix = "Start the container with --shm-size=1g, or remove files of dead processes there."
    return Check("shared memory", "warning", f"{text}, Ray needs {binary_size(_OBJECT_STORE)}", fix)


def _open_files() -> Check:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Ray raises the soft limit to the hard one.
    limit = float("inf") if hard == resource.RLIM_INFINITY else hard
    text = f"limit {soft}, at most {'unlimited' if limit == float('inf') else hard}"
    if limit >= 4096:
        return Check("open files", "ok", text)
    return Check("open files", "warning", text, "Raise it: ulimit -Hn 65536, or LimitNOFILE of the service.")


def _home() -> Check:
    try:
        home = Path.home()
    except RuntimeError:
        fix = "Set HOME to a writable folder, or give --cache and set HF_HOME and TORCH_HOME for weights."
        return Check("home folder", "warning", "this user has none", fix)
    if os.access(home, os.W_OK | os.X_OK):
        return Check("home folder", "ok", str(home))
    fix = "Set HOME to a writable folder, or give --cache and set HF_HOME and TORCH_HOME for weights."
    return Check("home folder", "warning", f"{home}: cannot be written", fix)


def _loopback() -> Check:
    try:
        check_loopback()
    except ConfigError as error:
        return Check("loopback", "failed", str(error), "Enable it: ip link set lo up.")
    return Check("loopback", "ok", "127.0.0.1 answers")


def _weights(experiment: ExperimentConfig) -> Sequence[tuple[str, Callable[[], Check]]]:
    backbone, method = experiment.backbone, experiment.method

    def clip() -> Check:
        status = clip_weight_status(backbone.name, backbone.pretrained)
        return _weight_check(f"weights of {backbone.name}", status, "backbone.pretrained")

    def video_encoder() -> Check:
        encoder = method.video_encoder  # type: ignore[attr-defined]
        status = encoder_weight_status(encoder.name, encoder.weights)
        return _weight_check(f"weights of {encoder.name}", status, "method.video_encoder.weights")

    checks: list[tuple[str, Callable[[], Check]]] = [("weights of CLIP", clip)]
    if method.needs_video_encoder:
        checks.append(("weights of the video encoder", video_encoder))
    return checks


def _weight_check(name: str, status: WeightStatus, setting: str) -> Check:
    if status.is_present:
        return Check(name, "ok", f"{status.origin}: {status.file or 'nothing to download'}")
    if status.host is None:
        text = f"{status.origin or 'none'}: neither a known tag nor a file"
        return Check(name, "failed", text, f"Set {setting} to a tag or a file.")
    try:
        with stage(f"looking for {status.host}"):
            socket.create_connection((status.host, 443), timeout=_TIMEOUT).close()
    except OSError as error:
        text = f"{status.origin}: not on this machine, and {status.host} is unreachable ({error})"
        fix = f"Copy the weights here and set {setting} to the file, or use a world-* backbone."
        return Check(name, "warning", text, fix)
    return Check(name, "ok", f"{status.origin}: will be downloaded from {status.host}")


def _pid() -> int:
    # Ray runs no built-in functions.
    return os.getpid()


def _ray() -> Check:
    begun = time.monotonic()
    try:
        # Otherwise the command line would start the command again, instead of printing the failure.
        with ray_may_die(), stage("checking Ray"), connect(None, num_cpus=1):
            started = time.monotonic() - begun
            ray.get(ray.remote(_pid).remote(), timeout=120)
    # Ray raises bare exceptions where a process of its own fails.
    except Exception as error:
        reason = " ".join(str(error).split())[:300].rstrip(".")
        logs = temporary_base()[0] / "ray" / "session_latest" / "logs"
        fix = f"Look into {logs}. On a busy machine Ray's processes may start too late: try again."
        return Check("Ray", "failed", reason, fix)
    whole = duration(time.monotonic() - begun)
    return Check("Ray", "ok", f"started in {duration(started)}, ran a task and stopped, {whole} in all")
