"""raydistill completion: a script that completes commands, flags, settings and their values in a shell.

Comes in: the parsers of all commands. Goes out: the script, made by shtab from these; it asks nobody at a key press.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel

from raydistill.settings.config import Config

SHELLS = ("bash", "zsh", "fish")
FOLDERS, FILES = ("DIR",), ("FILE",)
EPILOG = """\
bash:  raydistill completion bash > ~/.local/share/bash-completion/completions/raydistill
       (or, for this shell alone: source <(raydistill completion bash))
zsh:   raydistill completion zsh > "${fpath[1]}/_raydistill"
fish:  raydistill completion fish > ~/.config/fish/completions/raydistill.fish"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `raydistill completion`."""
    parser.add_argument("shell", choices=SHELLS, help="the shell that reads the script")
    parser.epilog, parser.formatter_class = EPILOG, argparse.RawDescriptionHelpFormatter


def write_completion(shell: str, parsers: Mapping[str, argparse.ArgumentParser], about: Mapping[str, str]) -> str:
    """The script. parsers: by command; about: a line on each."""
    import shtab

    root = argparse.ArgumentParser("raydistill")
    root.add_argument("--version", action="store_true")
    commands = root.add_subparsers()
    choices = list_choices(Config)
    for name, parser in parsers.items():
        for action in parser._actions:
            prepare_action(action, choices)
        commands.add_parser(name, help=about[name], parents=[parser], add_help=False)
    return str(shtab.complete(root, shell=shell))


def prepare_action(action: argparse.Action, choices: Mapping[str, tuple[str, ...]]) -> None:
    """Tell shtab what an argument's values are; of two spellings of a flag, it completes the one with dashes."""
    import shtab

    kebab = [flag for flag in action.option_strings if "_" not in flag]
    action.option_strings = kebab or action.option_strings
    if action.dest in choices:
        action.choices = choices[action.dest]
    elif action.metavar in FOLDERS or action.dest in ("run_dir", "output"):
        action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    elif action.metavar in FILES or action.dest == "input":
        action.complete = shtab.FILE  # type: ignore[attr-defined]


def list_choices(section: type[BaseModel], prefix: str = "") -> dict[str, tuple[str, ...]]:
    """The values that settings may have, by dotted name, where these can be listed."""
    found: dict[str, tuple[str, ...]] = {}
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found |= list_choices(kind, f"{prefix}{name}.")
        elif values := _list_values(kind):
            found[prefix + name] = values
    return found


def _list_values(kind: Any) -> tuple[str, ...]:
    if kind is bool:
        return ("true", "false")
    return tuple(map(str, get_args(kind))) if get_origin(kind) is Literal else ()
