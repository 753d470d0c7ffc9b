"""The errors that raydistill raises on purpose.

    RaydistillError            one line: the field, the value, what is allowed, the remedy
    ├── ConfigError            a setting is unknown, of the wrong type or out of range
    ├── DataError              the examples or labels cannot be used
    ├── ModelError             a model does not fit the data
    ├── RunFolderError         the run folder is in use, of another configuration, or not ours
    └── StorageError           storage refuses to write for longer than is waited for, or gives damaged bytes
        └── DiskFullError      there is no room left

The command line prints the message alone and exits with 2; nothing has been overwritten.
"""


class RaydistillError(Exception):
    """Base class: the input or the setting is at fault, not the program."""


class ConfigError(RaydistillError):
    """A setting is unknown, of the wrong type or out of range."""


class DataError(RaydistillError):
    """The examples or labels cannot be used as they are."""


class ModelError(RaydistillError):
    """A model cannot be built, or does not fit the data."""


class RunFolderError(RaydistillError):
    """The run folder is in use, belongs to another configuration, or is not a run folder."""


class StorageError(RaydistillError):
    """Storage refused for longer than is waited for, or gave damaged bytes; what was written before is whole."""


class DiskFullError(StorageError):
    """There is no room left, or a quota is used up."""


def describe_in_line(error: BaseException) -> str:
    """The message of any error in one line, or its type where it has none."""
    return " ".join(str(error).split()) or type(error).__name__
