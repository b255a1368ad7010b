"""attnlab: published attention mechanisms to read, run, time, explain and re-implement."""

__version__ = "0.1.0"
