"""The version of the package; part of every stage's key."""

__version__ = "0.3.0"
