"""Version of the package. A module of its own, because the package itself imports all layers lazily."""

__version__ = "0.1.0"
