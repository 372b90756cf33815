"""Version of the package. A separate module, because the package itself imports all layers lazily."""

__version__ = "0.1.0"
