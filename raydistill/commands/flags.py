"""The command line's flags: a parser whose complaints are one line, and settings from a file and dotted flags.

Comes in: arguments. Goes out: a `Config` and the command's own flags, or a ConfigError.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from raydistill.errors import ConfigError
from raydistill.settings.config import Config, build_config
from raydistill.settings.sections import read_config_file, suggest_field
from raydistill.storage.job import runs_as_job, settle


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaint is one line that names the nearest right flag."""

    def error(self, message: str) -> NoReturn:
        """Raise ConfigError instead of printing the usage."""
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown == message:
            raise ConfigError(f"{message}; see {self.prog} --help")
        flag = unknown.split()[0]
        known = [name.removeprefix("--") for name in self._option_string_actions]
        raise ConfigError(f"{flag}: unknown argument; {suggest_field(flag.lstrip('-').partition('=')[0], known)}")


def read_settings(command: str, argv: list[str], description: str = "") -> tuple[Config, argparse.Namespace]:
    """Settings from --config and dotted flags (flags win), and the command's own flags."""
    parser, source = build_settings_parser(command, description)
    given = parser.parse_args(argv)
    flags = source(parsed_args=given)()
    file_values = read_config_file(given.config) if given.config else {}
    return settle_folders(build_config(merge_settings(file_values, flags)), given), given


def build_settings_parser(command: str, description: str = "") -> tuple[Parser, Any]:
    """The parser of run or plan, and the source that turns what it parsed into settings."""
    from pydantic_settings import CliSettingsSource

    usage = f"raydistill {command} --data DATA --run-dir DIR [--config FILE] [--SECTION.SETTING VALUE ...]"
    parser = Parser(f"raydistill {command}", usage=usage, description=description, allow_abbrev=False)
    add_run_flags(parser, command)
    source = CliSettingsSource[Any](
        make_flags_model(),
        root_parser=parser,
        parse_args_method=Parser.parse_args,
        cli_hide_none_type=True,
        cli_avoid_json=True,
        cli_kebab_case=False,
    )
    add_kebab_flags(parser)
    return parser, source


def add_run_flags(parser: Parser, command: str) -> None:
    """The flags of run and plan that are no settings."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML file of settings; flags override it")
    parser.add_argument(
        "--on-change",
        choices=("refuse", "redo"),
        default="refuse",
        help="what to do with a run folder of other settings: refuse it, or redo the stages that the change reaches",
    )
    parser.add_argument(
        "--start-from",
        metavar="DIR",
        help="another run folder; a new run takes over its finished stages that these settings do not change",
    )
    if command == "run":
        from raydistill.storage.run_folder import STAGES

        parser.add_argument("--until", choices=STAGES, default="report", help="the last stage; left out: all of them")
    parser.add_argument(
        "--dry-run", action="store_true", help="check everything, say what would be done and why, and train nothing"
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="let Ray and torch speak")


def settle_folders(config: Config, given: argparse.Namespace) -> Config:
    """In a Ray job, take relative run folders from where jobs have them, and say so; else the settings as they are."""
    if not runs_as_job():
        return config
    given.start_from = given.start_from and settle(given.start_from)
    grow_from = config.grow_from and settle(config.grow_from)
    config = config.model_copy(update={"run_dir": settle(config.run_dir), "grow_from": grow_from})
    print(f"run folder: {config.run_dir}", flush=True)
    return config


def make_flags_model() -> Any:
    """Config as pydantic-settings wants it. Flags are read as text, and validated together with the file's values."""
    from pydantic import create_model
    from pydantic_settings import BaseSettings

    return create_model("Flags", __base__=(BaseSettings, Config))


def add_kebab_flags(parser: argparse.ArgumentParser) -> None:
    """Let --run-dir stand for --run_dir, and so on."""
    for action in list(parser._actions):
        for flag in list(action.option_strings):
            kebab = flag.replace("_", "-")
            if kebab != flag:
                action.option_strings = [kebab, *action.option_strings]
                parser._option_string_actions[kebab] = action


def merge_settings(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` on top of `base`, section by section; the options of a model are replaced as a whole."""
    merged = dict(base)
    for name, value in over.items():
        inner = merged.get(name)
        deep = isinstance(value, Mapping) and isinstance(inner, Mapping) and name != "options"
        merged[name] = merge_settings(inner, value) if deep else value  # type: ignore[arg-type]
    return merged
