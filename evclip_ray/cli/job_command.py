"""A command of evclip-ray as a cluster's head is to run it, checked here before anything is sent."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evclip_ray.config import ConfigError


class JobCommand:
    """`arguments`: after `evclip-ray`; `out`: the folder that it writes, None where it writes none."""

    def __init__(self, arguments: Sequence[str], options: dict[str, Any], out: Path | None) -> None:
        self.arguments, self._options, self.out = list(arguments), options, out

    @classmethod
    def parse(cls, arguments: Sequence[str]) -> "JobCommand":
        """Raises: ConfigError: it cannot run on a cluster, or would write where nobody finds it."""
        options = _options(arguments)
        given = options.get("address")
        if given is not None and given != "auto":
            raise ConfigError(f"submit: the command runs on the cluster itself; leave --address {given} away")
        out = options.get("out")
        if "out" in options and (out is None or not Path(out).is_absolute()):
            raise ConfigError(
                f"submit: --out must be a folder on the storage that the cluster's nodes share, such as "
                f"/shared/studies/mine, got {out}"
            )
        return cls(
            [*arguments, *([] if given else ["--address", "auto"])], options, Path(out) if out else None
        )

    def local_files(self, working_dir: Path) -> list[Path]:
        """The files of the working directory that it names.

        Raises:
            ConfigError: a relative path that nothing sends.
        """
        named = []
        for name in ("space", "config", "data"):
            value = self._options.get(name)
            if value is None or "://" in str(value) or Path(value).is_absolute():
                continue
            path = Path(value)
            if (working_dir / path).is_file() and not os.path.normpath(path).startswith(".."):
                named.append(path)
            elif path.exists() or name == "data":
                raise ConfigError(
                    f"submit: {path} is no file of the working directory, and the cluster has no such path; "
                    "put it on the storage that the nodes share, and name it from / on"
                )
        return named


def _options(arguments: Sequence[str]) -> dict[str, Any]:
    """The options of a command that runs on a cluster, as the command line parses them."""
    from evclip_ray.cli import main

    if not arguments:
        raise ConfigError("submit: needs a command, for example: evclip-ray submit -- tune ev_clip --out ...")
    with main.make_context("evclip-ray", list(arguments)) as top:
        name, command, rest = main.resolve_command(top, [*top._protected_args, *top.args])
        assert command is not None
        if "address" not in {parameter.name for parameter in command.params}:
            raise ConfigError(f"submit: {name} does not run on a cluster (it has no --address)")
        with command.make_context(name, rest, parent=top) as context:
            return dict(context.params)
