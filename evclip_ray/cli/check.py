"""The command `check`."""

import os
import sys

import click

from evclip_ray.cli.options import example


@click.command(epilog=example("evclip-ray check"))
def check() -> None:
    """Print versions, devices and video decoder of this machine, and validate the shipped spaces."""
    import torch

    from evclip_ray.artifacts import provenance
    from evclip_ray.data.transforms import view_summary
    from evclip_ray.data.video.decode import decoder_name
    from evclip_ray.tuning.search_space import read_space
    from evclip_ray.tuning.space_files import shipped_spaces
    from evclip_ray.tuning.study_view import with_own_view

    versions = provenance()["versions"]
    rows = [("python", sys.version.split()[0]), *versions.items(), ("decoder", decoder_name())]
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    rows += [("GPUs", ", ".join(gpus) or "none: training runs on the CPU"), ("CPUs", str(os.cpu_count()))]
    for name, value in rows:
        click.echo(f"{name:<16} {value}")
    for name, path in shipped_spaces().items():
        # Some spaces name their videos and some do not; validation needs no file.
        space = with_own_view(read_space(path, {"data.manifest": ".", "data.world": None}), [])
        click.echo(f"{'search space':<16} {name}: valid; frames: {view_summary(space.experiment().view)}")
