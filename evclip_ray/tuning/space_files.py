"""Files of search spaces: the shipped ones and those of the user. Imports neither PyTorch nor OpenCLIP."""

from pathlib import Path

from evclip_ray.config import ConfigError, nearest


def find_space(name: str) -> Path:
    """Return the file of a space, given by its path or by the name of a shipped space.

    Args:
        name: Path, or a name such as `quickstart` or `search_spaces/quickstart.yaml`.

    Raises:
        ConfigError: There is no such file or shipped space. The message gives the nearest name.
    """
    path = Path(name)
    if path.is_file():
        return path
    shipped = shipped_spaces()
    if path.stem in shipped and path.suffix in {"", ".yaml"} and str(path.parent) in {".", "search_spaces"}:
        return shipped[path.stem]
    raise ConfigError(
        f"search space {name!r}: neither a file nor a shipped space; {nearest(path.stem, list(shipped))}"
    )


def shipped_spaces() -> dict[str, Path]:
    """Return the files of the shipped spaces, by name."""
    package = Path(__file__).resolve().parents[1]
    # A wheel contains the folder inside the package; in a checkout it is next to it.
    installed, checkout = package / "search_spaces", package.parent / "search_spaces"
    folder = installed if installed.is_dir() else checkout
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}
