"""Write the Sphinx inventories of other projects that these pages refer to, from the table below.

    python docs/make_inventories.py

Sphinx normally downloads an inventory from each project. These pages build without a network, so the few
names in use are listed here with the page on which each is documented. On a Sphinx site the anchor of an
object is its full name. An external reference to a name that is missing here fails the build.
"""

import dataclasses
import zlib
from pathlib import Path

FOLDER = Path(__file__).parent / "inventories"


@dataclasses.dataclass(frozen=True)
class Site:
    """Documentation of another project.

    Attributes:
        project: Name in the inventory.
        url: Address that every page below is relative to.
        pages: Name of an object to its type (`py:class`, `std:label`, ...) and its page. A page without
            an anchor gets the name as its anchor.
    """

    project: str
    url: str
    pages: dict[str, tuple[str, str]]


def _ray(library: str, name: str) -> tuple[str, str]:
    return "py:class", f"{library}/api/doc/{name}.html"


def _optuna(name: str) -> tuple[str, str]:
    return "py:class", f"reference/generated/{name}.html"


SITES = {
    "ray": Site(
        "Ray",
        "https://docs.ray.io/en/latest/",
        {
            "ray.tune.Trainable": _ray("tune", "ray.tune.Trainable"),
            "ray.tune.Tuner": _ray("tune", "ray.tune.Tuner"),
            "ray.train.torch.TorchTrainer": _ray("train", "ray.train.torch.TorchTrainer"),
            "ray.data.Dataset": _ray("data", "ray.data.Dataset"),
            "tune-scheduler-hyperband": (
                "std:label",
                "tune/api/schedulers.html#tune-scheduler-hyperband ASHA in Ray Tune",
            ),
        },
    ),
    "torch": Site(
        "PyTorch",
        "https://docs.pytorch.org/docs/stable/",
        {
            "torch.nn.Module": ("py:class", "generated/torch.nn.Module.html"),
            "torch.nn.parallel.DistributedDataParallel": (
                "py:class",
                "generated/torch.nn.parallel.DistributedDataParallel.html",
            ),
            "torch.optim.AdamW": ("py:class", "generated/torch.optim.AdamW.html"),
            "torch.Tensor": ("py:class", "tensors.html"),
        },
    ),
    "optuna": Site(
        "Optuna",
        "https://optuna.readthedocs.io/en/stable/",
        {
            "optuna.samplers.TPESampler": _optuna("optuna.samplers.TPESampler"),
            "optuna.storages.JournalStorage": _optuna("optuna.storages.JournalStorage"),
            "optuna.study.Study": _optuna("optuna.study.Study"),
        },
    ),
    "torchcodec": Site(
        "TorchCodec",
        "https://meta-pytorch.org/torchcodec/stable/",
        {
            "torchcodec.decoders.VideoDecoder": (
                "py:class",
                "generated/torchcodec.decoders.VideoDecoder.html",
            ),
        },
    ),
    "python": Site(
        "Python",
        "https://docs.python.org/3/",
        {
            "pathlib.Path": ("py:class", "library/pathlib.html"),
            "enum.StrEnum": ("py:class", "library/enum.html"),
        },
    ),
    "pandas": Site(
        "pandas",
        "https://pandas.pydata.org/docs/",
        {"pandas.DataFrame": ("py:class", "reference/api/pandas.DataFrame.html")},
    ),
}


def inventory(site: Site) -> bytes:
    """Return the bytes of a Sphinx inventory, version 2.

    The header is four lines of text. The body is compressed with zlib and has one line per object:
    name, type, priority, address, and the text of a link ("-" for the name itself).

    >>> inventory(SITES["pandas"]).splitlines()[0]
    b'# Sphinx inventory version 2'
    """
    head = (
        "# Sphinx inventory version 2\n"
        f"# Project: {site.project}\n"
        "# Version: \n"
        "# The remainder of this file is compressed using zlib.\n"
    )
    lines = []
    for name, (kind, target) in sorted(site.pages.items()):
        page, _, text = target.partition(" ")
        # "$" at the end of an address is a placeholder for the name.
        lines.append(f"{name} {kind} 1 {page if '#' in page else page + '#$'} {text or '-'}\n")
    return head.encode() + zlib.compress("".join(lines).encode(), 9)


def main() -> None:
    """Write one file per site."""
    FOLDER.mkdir(exist_ok=True)
    for name, site in SITES.items():
        (FOLDER / f"{name}.inv").write_bytes(inventory(site))


if __name__ == "__main__":
    main()
