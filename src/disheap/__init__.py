"""disheap: a replicated priority message broker."""

__version__ = "0.1.0"
