"""The version of this release; the only place where it stands."""

__version__ = "0.1.0"
