"""Jobs on a running cluster, managed through its dashboard.

A job is a process on the head of the cluster. It continues when the shell that submitted it closes.
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
from ray.job_submission import JobDetails, JobSubmissionClient

from evclip_ray.cluster.address import check_answers
from evclip_ray.cluster.jobs.working_dir import FileSelection
from evclip_ray.config import ConfigError
from evclip_ray.optional import require

# Ray's own message about each upload would duplicate ours.
logging.getLogger("ray.dashboard.modules.dashboard_sdk").setLevel(logging.WARNING)

OUT = "evclip_ray_out"
_POLL_SECONDS, _TIMEOUT = 1.0, 60.0


@dataclasses.dataclass(frozen=True)
class JobState:
    """State of a job.

    `state` is PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED. `out` is the output folder of the command,
    None if it has none.
    """

    id: str
    state: str
    message: str
    command: str
    seconds: float
    out: str | None

    @property
    def is_over(self) -> bool:
        """Whether the job has ended."""
        return self.state in ("STOPPED", "SUCCEEDED", "FAILED")


class _Client(JobSubmissionClient):
    """Ray's client with a timeout. Without one it waits forever when a tunnel breaks."""

    def _do_request(self, *arguments: Any, **options: Any) -> Any:
        return super()._do_request(*arguments, **{"timeout": _TIMEOUT, **options})


class Jobs:
    """Jobs of one cluster."""

    def __init__(self, address: str) -> None:
        """Connect to a dashboard.

        Args:
            address: Address of the dashboard, `http://HOST:8265`.

        Raises:
            ConfigError: No Ray of our version answers there, or it rejects our token.
        """
        self.address = check_answers(address)
        with _readable_errors(address):
            self._client = _Client(self.address)
            cluster_version = self._client._server_ray_version
        if cluster_version != ray.__version__:
            raise ConfigError(
                f"--address {address}: the cluster has Ray {cluster_version}, this machine has "
                f"{ray.__version__}; install the same version on both"
            )

    def submit(
        self,
        arguments: Sequence[str],
        selection: FileSelection,
        *,
        environment: Mapping[str, str],
        out: Path | None,
    ) -> str:
        """Start `evclip-ray ARGUMENTS` on the head and return the id of the job.

        Args:
            arguments: The command with its options.
            selection: Files of the working directory of the job.
            environment: Environment variables of the job.
            out: Output folder of the command, stored with the job for `fetch`.
        """
        with tempfile.TemporaryDirectory() as folder:
            archive = Path(folder) / "working_dir.zip"
            selection.write(archive)
            with _readable_errors(self.address):
                return str(
                    self._client.submit_job(
                        # The head runs the entrypoint in a shell, so blanks and quotes must be escaped.
                        entrypoint=shlex.join(["evclip-ray", *arguments]),
                        runtime_env={"working_dir": str(archive), "env_vars": dict(environment)},
                        metadata={OUT: str(out)} if out else {},
                    )
                )

    def state(self, job: str) -> JobState:
        """Return the state of a job.

        Raises:
            ConfigError: The cluster has no such job.
        """
        with _readable_errors(self.address, job):
            return _state(self._client.get_job_info(job))

    def all(self) -> list[JobState]:
        """Return the state of every job that was submitted to this cluster, the latest first."""
        with _readable_errors(self.address):
            # Programs that called `ray.init` are listed too, without a submission id.
            states = [_state(job) for job in self._client.list_jobs() if job.submission_id]
        return sorted(states, key=lambda state: state.seconds)

    def stop(self, job: str, *, seconds: float = 60.0) -> JobState:
        """Stop a job and wait up to `seconds` until it has ended. Its finished work stays."""
        with _readable_errors(self.address, job):
            self._client.stop_job(job)
        # The monotonic clock does not jump when the time of the machine is set.
        end = time.monotonic() + seconds
        while not (state := self.state(job)).is_over and time.monotonic() < end:
            time.sleep(_POLL_SECONDS)
        return state

    def logs(self, job: str) -> str:
        """Return the log of a job so far."""
        with _readable_errors(self.address, job):
            return str(self._client.get_job_logs(job))

    def follow(self, job: str, write: Callable[[str], None]) -> JobState:
        """Pass the log of a job to `write` until the job ends. Reconnects if the connection breaks."""
        written = 0
        while True:
            try:
                written = asyncio.run(self._tail(job, write, written))
            except (aiohttp.ClientError, OSError, RuntimeError):
                # Usually a broken tunnel. The request for the state below fails if the cluster is gone.
                time.sleep(_POLL_SECONDS)
            state = self.state(job)
            if state.is_over:
                # The stream can break before the last lines of the job.
                write(self.logs(job)[written:])
                return state
            time.sleep(_POLL_SECONDS)

    async def _tail(self, job: str, write: Callable[[str], None], written: int) -> int:
        """Stream the log once. Each connection starts at its beginning, so skip `written` characters."""
        received = 0
        async for text in self._client.tail_job_logs(job):
            new = text[max(0, written - received) :]
            received += len(text)
            if new:
                write(new)
                written = received
        return max(written, received)


def _state(job: JobDetails) -> JobState:
    # Ray's times are in milliseconds.
    end = (job.end_time or time.time() * 1000) / 1000
    return JobState(
        id=str(job.submission_id),
        state=str(job.status.value),
        message=str(job.message or ""),
        command=str(job.entrypoint),
        seconds=end - (job.start_time or end * 1000) / 1000,
        out=(job.metadata or {}).get(OUT),
    )


@contextmanager
def _readable_errors(address: str, job: str | None = None) -> Iterator[None]:
    """Convert the exceptions of Ray's client into a ConfigError of one line."""
    requests = require("requests", extra="cluster", purpose="a job on a cluster")
    try:
        yield
    except (requests.RequestException, ConnectionError):
        raise ConfigError(f"--address {address}: the dashboard stopped answering; try again") from None
    except RuntimeError as error:
        lines = str(error).strip().splitlines() or [repr(error)]
        if job is not None and "404" in lines[0]:
            raise ConfigError(
                f"job {job}: there is none at {address}; list them with 'evclip-ray submit status'"
            ) from None
        # Ray's message can be a whole traceback of the server. Its last line is the reason.
        raise ConfigError(f"--address {address}: {lines[-1]}") from None
