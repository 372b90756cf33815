"""Jobs on a running cluster, through its dashboard: submitted, followed, stopped, asked about.

A job is a process on the cluster's head: it goes on whatever becomes of the shell that submitted it.
"""

import asyncio
import dataclasses
import logging
import shlex
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import ray
import requests
from ray.job_submission import JobDetails, JobSubmissionClient

from evclip_ray.cluster.address import check_answers
from evclip_ray.cluster.jobs.working_dir import Packed
from evclip_ray.config import ConfigError

# It would tell of each upload, in words of its own.
logging.getLogger("ray.dashboard.modules.dashboard_sdk").setLevel(logging.WARNING)

OUT = "evclip_ray_out"
_SECONDS_BETWEEN, _TIMEOUT = 1.0, 60.0


@dataclasses.dataclass(frozen=True)
class JobState:
    """`state`: PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED; `out`: the folder it writes, if it said."""

    id: str
    state: str
    message: str
    command: str
    seconds: float
    out: str | None

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come of it."""
        return self.state in ("STOPPED", "SUCCEEDED", "FAILED")


class _Client(JobSubmissionClient):
    """Ray's client, which would wait for ever at the end of a broken tunnel."""

    def _do_request(self, *arguments: Any, **options: Any) -> Any:
        return super()._do_request(*arguments, **{"timeout": _TIMEOUT, **options})


class Jobs:
    """The jobs of one cluster. `address`: of its dashboard, `http://HOST:8265`."""

    def __init__(self, address: str) -> None:
        """Raises: ConfigError: no Ray of our version answers there, or it refuses our token."""
        self.address = check_answers(address)
        with _told(address):
            self._client = _Client(self.address)
            there = self._client._server_ray_version
        if there != ray.__version__:
            raise ConfigError(
                f"--address {address}: the cluster has Ray {there}, here it is {ray.__version__}; "
                "install the same version here and there"
            )

    def submit(
        self, arguments: Sequence[str], packed: Packed, *, environment: Mapping[str, str], out: Path | None
    ) -> str:
        """Start `evclip-ray ARGUMENTS` on the head, in a copy of the packed files; gives the job's id."""
        with tempfile.TemporaryDirectory() as folder:
            archive = Path(folder) / "working_dir.zip"
            packed.write(archive)
            with _told(self.address):
                return str(
                    self._client.submit_job(
                        entrypoint=shlex.join(["evclip-ray", *arguments]),
                        runtime_env={"working_dir": str(archive), "env_vars": dict(environment)},
                        metadata={OUT: str(out)} if out else {},
                    )
                )

    def state(self, job: str) -> JobState:
        """How it is. Raises: ConfigError: there is no such job."""
        with _told(self.address, job):
            return _state(self._client.get_job_info(job))

    def all(self) -> list[JobState]:
        """Every job that was submitted to this cluster, the latest first."""
        with _told(self.address):
            found = [_state(job) for job in self._client.list_jobs() if job.submission_id]
        return sorted(found, key=lambda job: job.seconds)

    def stop(self, job: str, *, seconds: float = 60.0) -> JobState:
        """End it, and wait until it has ended; what it finished is kept."""
        with _told(self.address, job):
            self._client.stop_job(job)
        end = time.monotonic() + seconds
        while not (state := self.state(job)).is_over and time.monotonic() < end:
            time.sleep(_SECONDS_BETWEEN)
        return state

    def logs(self, job: str) -> str:
        """Everything that it has printed so far."""
        with _told(self.address, job):
            return str(self._client.get_job_logs(job))

    def follow(self, job: str, write: Callable[[str], None]) -> JobState:
        """Write what it prints, as it comes, until it ends; a broken connection is taken up again."""
        written = 0
        while True:
            try:
                written = asyncio.run(self._tail(job, write, written))
            except (aiohttp.ClientError, OSError, RuntimeError):
                # A tunnel that broke; the state tells whether the cluster is still there.
                time.sleep(_SECONDS_BETWEEN)
            state = self.state(job)
            if state.is_over:
                write(self.logs(job)[written:])
                return state
            time.sleep(_SECONDS_BETWEEN)

    async def _tail(self, job: str, write: Callable[[str], None], written: int) -> int:
        """Each connection tells all from the beginning; `written` characters are known already."""
        seen = 0
        async for text in self._client.tail_job_logs(job):
            new = text[max(0, written - seen) :]
            seen += len(text)
            if new:
                write(new)
                written = seen
        return max(written, seen)


def _state(job: JobDetails) -> JobState:
    end = (job.end_time or time.time() * 1000) / 1000
    return JobState(
        str(job.submission_id), str(job.status.value), str(job.message or ""), str(job.entrypoint),
        end - (job.start_time or end * 1000) / 1000, (job.metadata or {}).get(OUT),
    )  # fmt: skip


@contextmanager
def _told(address: str, job: str | None = None) -> Iterator[None]:
    """What the client raises, in one line."""
    try:
        yield
    except (requests.RequestException, ConnectionError):
        raise ConfigError(f"--address {address}: the dashboard does not answer any more; try again") from None
    except RuntimeError as error:
        told = str(error).strip().splitlines()
        if job is not None and "404" in told[0]:
            raise ConfigError(
                f"job {job}: there is none at {address}; see 'evclip-ray submit status'"
            ) from None
        raise ConfigError(f"--address {address}: {told[-1] if told else error}") from None
