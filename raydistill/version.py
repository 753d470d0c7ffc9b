"""The version of the package; part of every stage's key."""

__version__ = "0.2.0"
