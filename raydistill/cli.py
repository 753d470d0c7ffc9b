"""The command line: raydistill ingest | run | plan | status | report | predict | export | serve.

Comes in: arguments. Goes out: an exit code: 0 done; 2 bad input or a full disk, told in one line; 130 interrupted by
Ctrl-C, 143 by SIGTERM; 141 the reader of the output has gone; 1 anything unexpected. Heavy modules are imported by the
command that needs them, so that --help answers at once.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from raydistill.config import Config, build_config
from raydistill.credentials import hide_credentials
from raydistill.errors import ConfigError, RaydistillError
from raydistill.job import runs_as_job, settle
from raydistill.sections import read_config_file, suggest_field
from raydistill.termination import EXIT_CODE, Terminated, exit_on_sigterm
from raydistill.version import __version__

INTERRUPTED = "raydistill: interrupted; the same command goes on from here"
COMMANDS = {
    "ingest": "image folders, Parquet or Hugging Face datasets into arrays that may be larger than memory",
    "run": "the whole way from data to student; the same command resumes",
    "plan": "generalist, confusions, groups, and a forecast of what each group could gain; no fan-out",
    "status": "which stages of a run are finished",
    "report": "the headline table of a run, and where its page is",
    "predict": "classes and probabilities for images or arrays, by student or teacher, as Parquet, CSV or .npz",
    "export": "the student as safetensors, torch.export, ONNX or int8 file, reloaded and compared, with a model card",
    "serve": "answers over HTTP by student or teacher, in batches, on Ray Serve",
}


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


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return the exit code."""
    given = list(sys.argv[1:] if argv is None else argv)

    def run() -> int:
        command, arguments = split_command(given)
        return _HANDLERS[command](arguments)

    return end_well(run)


def end_well(run: Callable[[], int]) -> int:
    """The exit code of `run`, or the one of what it raised, which is told in a line. Lets SIGTERM interrupt it."""
    exit_on_sigterm()
    try:
        try:
            return run()
        finally:
            sys.stdout.flush()  # help too is noticed to have no reader here, and not while Python ends
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more when it ends
        return 141  # as of a program that SIGPIPE ended, such as `raydistill status DIR | head -1`
    except RaydistillError as error:
        print(f"raydistill: {hide_credentials(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(INTERRUPTED, file=sys.stderr)
        return 130
    except Terminated:
        print(INTERRUPTED, file=sys.stderr)
        return EXIT_CODE


def split_command(argv: list[str]) -> tuple[str, list[str]]:
    """The command and its arguments. Prints help or version and exits where these are asked for."""
    lines = [f"  {name:8} {text}" for name, text in COMMANDS.items()]
    parser = Parser(
        "raydistill",
        description="Trains a generalist, specialists for the classes that it confuses, and one student that ships.",
        epilog="\n".join(["commands:", *lines, "", "raydistill COMMAND --help explains each."]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="raydistill COMMAND ...",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"raydistill {__version__}")
    parser.add_argument("command", nargs="?", help=argparse.SUPPRESS)
    if not argv:
        parser.print_help()
        raise SystemExit(0)
    if argv[0] in COMMANDS:
        return argv[0], argv[1:]
    if not argv[0].startswith("-"):
        raise ConfigError(f"{argv[0]}: unknown command; {suggest_field(argv[0], COMMANDS)}")
    parser.parse_args(argv)
    raise ConfigError(f"command: missing; give one of {', '.join(COMMANDS)}")


def read_settings(command: str, argv: list[str]) -> tuple[Config, argparse.Namespace]:
    """Settings from --config and dotted flags (flags win), and the command's own flags."""
    from pydantic_settings import CliSettingsSource

    usage = f"raydistill {command} --data DATA --run-dir DIR [--config FILE] [--SECTION.SETTING VALUE ...]"
    parser = Parser(f"raydistill {command}", usage=usage, description=COMMANDS[command], allow_abbrev=False)
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
        from raydistill.run_folder import STAGES

        parser.add_argument("--until", choices=STAGES, default="report", help="the last stage; left out: all of them")
    parser.add_argument("-v", "--verbose", action="store_true", help="let Ray and torch speak")
    source = CliSettingsSource[Any](
        make_flags_model(),
        root_parser=parser,
        parse_args_method=Parser.parse_args,
        cli_hide_none_type=True,
        cli_avoid_json=True,
        cli_kebab_case=False,
    )
    add_kebab_flags(parser)
    given = parser.parse_args(argv)
    flags = source(parsed_args=given)()
    file_values = read_config_file(given.config) if given.config else {}
    return settle_folders(build_config(merge_settings(file_values, flags)), given), given


def settle_folders(config: Config, given: argparse.Namespace) -> Config:
    """In a Ray job, take relative run folders from where jobs have them, and say so; else the settings as they are."""
    if not runs_as_job():
        return config
    given.start_from = given.start_from and settle(given.start_from)
    config = config.model_copy(update={"run_dir": settle(config.run_dir)})
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


def run_command(argv: list[str]) -> int:
    """raydistill run."""
    config, given = read_settings("run", argv)
    return finish_run(config, given)


def finish_run(config: Config, given: argparse.Namespace) -> int:
    """Run the pipeline and print its table."""
    from raydistill.launch import launch
    from raydistill.report import format_table, read_report

    run = launch(
        config, on_change=given.on_change, start_from=given.start_from, verbose=given.verbose, until=given.until
    )
    if given.until != "report":
        print(f"stopped after {given.until}, as --until asks; without it, the same command goes on")
        return 0
    print(format_table(read_report(run)))
    print(f"\nreport: {run.stage_folder('report') / 'report.html'}")
    print(f"next:   raydistill export {run.location} --format pt2")
    return 0


def plan_command(argv: list[str]) -> int:
    """raydistill plan."""
    config, given = read_settings("plan", argv)
    from raydistill.launch import format_plan, launch

    run = launch(config, on_change=given.on_change, start_from=given.start_from, verbose=given.verbose, until="groups")
    print(format_plan(run))
    return 0


def ingest_command(argv: list[str]) -> int:
    """raydistill ingest."""
    from raydistill.ingest_command import add_arguments, run_ingest

    parser = Parser("raydistill ingest", description=COMMANDS["ingest"], allow_abbrev=False)
    add_arguments(parser)
    print(run_ingest(parser.parse_args(argv)))
    return 0


def status_command(argv: list[str]) -> int:
    """raydistill status."""
    from raydistill.run_folder import STAGES, RunFolder
    from raydistill.stages.roles import wants_stage

    given = _folder_parser("status").parse_args(argv)
    run = RunFolder(given.folder)
    manifest = run.read_manifest()
    print(f"{run.location}: {manifest['settings']['data']}, {'in use' if run.is_locked() else 'not running'}")
    config = run.read_config()
    for name in (stage for stage in STAGES if wants_stage(config, stage)):
        record = manifest["stages"].get(name)
        began = run.has_begun(name)
        state = f"done in {record['seconds']:.1f} s" if record else "begun" if began else "to do"
        print(f"  {name:12} {state}")
    return 0


def report_command(argv: list[str]) -> int:
    """raydistill report."""
    from raydistill.report import format_table, read_report
    from raydistill.run_folder import RunFolder

    run = RunFolder(_folder_parser("report").parse_args(argv).folder)
    run.read_manifest()
    print(format_table(read_report(run)))
    print(f"\nreport: {run.stage_folder('report') / 'report.html'}")
    return 0


def predict_command(argv: list[str]) -> int:
    """raydistill predict."""
    from raydistill.predict_command import add_arguments, run_predict

    parser = _folder_parser("predict", "run folder, or its URI in an object store, or a folder of raydistill export")
    add_arguments(parser)
    print(run_predict(parser.parse_args(argv)))
    return 0


def export_command(argv: list[str]) -> int:
    """raydistill export."""
    from raydistill.export_command import add_arguments, run_export

    parser = _folder_parser("export")
    add_arguments(parser)
    print(run_export(parser.parse_args(argv)))
    return 0


def serve_command(argv: list[str]) -> int:
    """raydistill serve."""
    from raydistill.serve_command import add_arguments, run_serve

    parser = _folder_parser("serve", "run folder, or its URI in an object store, or a folder of raydistill export")
    add_arguments(parser)
    return run_serve(parser.parse_args(argv))


def _folder_parser(command: str, what: str = "run folder, or its URI in an object store") -> Parser:
    parser = Parser(f"raydistill {command}", description=COMMANDS[command], allow_abbrev=False)
    parser.add_argument("folder", type=settle, metavar="DIR", help=what)
    return parser


_HANDLERS: dict[str, Callable[[list[str]], int]] = {
    "ingest": ingest_command,
    "run": run_command,
    "plan": plan_command,
    "status": status_command,
    "report": report_command,
    "predict": predict_command,
    "export": export_command,
    "serve": serve_command,
}
