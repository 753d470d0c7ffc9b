"""The command line: a module for each command, the flags, and how a command becomes a running pipeline."""
