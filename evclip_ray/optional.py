"""Imports of packages that an extra of the installation brings."""

import importlib
from types import ModuleType

from evclip_ray.config import ConfigError


def require(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Import a package that the base installation does not contain.

    Args:
        module: Name to import, such as "altair".
        extra: Extra of evclip-ray that installs the package, such as "report".
        purpose: Subject of the error message, such as "a report".

    Raises:
        ConfigError: The package is not installed. The message names the extra.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        # A missing dependency of the package is another fault, which must not be hidden.
        if error.name != module.partition(".")[0]:
            raise
        raise ConfigError(
            f"{purpose} needs the package {error.name!r}, which is not installed. "
            f'Install it with: pip install "evclip-ray[{extra}]"'
        ) from None
