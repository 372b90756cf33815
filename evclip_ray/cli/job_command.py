"""A command line that will run as a job on the head of a cluster, validated before anything is sent."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from evclip_ray.config import ConfigError


class JobCommand:
    """A validated command. `arguments` follow `evclip-ray`. `out` is its output folder, if it has one."""

    def __init__(self, arguments: Sequence[str], options: dict[str, Any], out: Path | None) -> None:
        self.arguments, self._options, self.out = list(arguments), options, out

    @classmethod
    def parse(cls, main: click.Command, arguments: Sequence[str]) -> "JobCommand":
        """Parse a command as the command line would, without running it.

        Args:
            main: The group `evclip-ray`. A parameter, because importing it here would be an import cycle.
            arguments: The command with its options, without `evclip-ray`.

        Raises:
            ConfigError: The command cannot run on a cluster, or its output folder would be on one node only.
        """
        options = _options(main, arguments)
        address = options.get("address")
        if address is not None and address != "auto":
            raise ConfigError(f"submit: the command runs on the cluster itself. Remove --address {address}")
        out = options.get("out")
        if "out" in options and (out is None or not Path(out).is_absolute()):
            raise ConfigError(
                "submit: --out must be a folder on the storage that the cluster's nodes share, such as "
                f"/shared/studies/mine, got {out}"
            )
        # `auto` is the cluster on which the job's process runs.
        return cls(
            [*arguments, *([] if address else ["--address", "auto"])], options, Path(out) if out else None
        )

    def local_files(self, working_dir: Path) -> list[Path]:
        """Return the files of the working directory that the command refers to, as relative paths.

        Raises:
            ConfigError: A relative path is outside the working directory, so it would not be sent.
        """
        files = []
        for name in ("space", "config", "data"):
            value = self._options.get(name)
            # Absolute paths and URIs must exist on the cluster already; only relative files are sent.
            if value is None or "://" in str(value) or Path(value).is_absolute():
                continue
            path = Path(value)
            if (working_dir / path).is_file() and not os.path.normpath(path).startswith(".."):
                files.append(path)
            elif path.exists() or name == "data":
                raise ConfigError(
                    f"submit: {path} is not a file in the working directory, and the cluster has no such "
                    "path. Put it on the storage that the nodes share and give its absolute path"
                )
        return files


def _options(main: click.Command, arguments: Sequence[str]) -> dict[str, Any]:
    if not arguments:
        raise ConfigError("submit: needs a command, for example: evclip-ray submit -- tune ev_clip --out ...")
    assert isinstance(main, click.Group)
    with main.make_context("evclip-ray", list(arguments)) as top:
        name, command, rest = main.resolve_command(top, [*top._protected_args, *top.args])
        assert command is not None
        if "address" not in {parameter.name for parameter in command.params}:
            raise ConfigError(f"submit: {name} does not run on a cluster (it has no --address)")
        with command.make_context(name, rest, parent=top) as context:
            return dict(context.params)
