"""The command line: raydistill COMMAND …, the commands being those of COMMANDS.

Comes in: arguments. Goes out: an exit code: 0 done; 2 bad input or a full disk, told in one line; 130 interrupted by
Ctrl-C, 143 by SIGTERM; 141 the reader of the output has gone; 1 anything unexpected, or what doctor found. Heavy
modules are imported by the command that needs them, so that --help answers at once.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from raydistill.commands.flags import Parser, build_settings_parser, read_settings
from raydistill.errors import ConfigError, RaydistillError
from raydistill.execution.termination import EXIT_CODE, Terminated, exit_on_sigterm
from raydistill.settings.config import Config
from raydistill.settings.credentials import hide_credentials
from raydistill.storage.job import settle
from raydistill.version import __version__

if TYPE_CHECKING:
    from raydistill.storage.run_folder import RunFolder

INTERRUPTED = "raydistill: interrupted; the same command goes on from here"
START = """\
raydistill COMMAND --help explains each. To begin:
  raydistill doctor                                     is this machine ready?
  raydistill run --data digits --run-dir runs/first     a run of a minute, on data that are here
  raydistill run --data npz:FILE --run-dir runs/mine --dry-run    what would be done with yours"""
COMMANDS = {
    "ingest": "image folders, Parquet or Hugging Face datasets into arrays that may be larger than memory",
    "run": "the whole way from data to student; the same command resumes",
    "plan": "generalist, confusions, groups, and a forecast of what each group could gain; no fan-out",
    "status": "which stages of a run are finished",
    "report": "the headline table of a run, and where its page is",
    "compare": "finished runs side by side: settings, figures, significance, cost",
    "predict": "classes and probabilities for images or arrays, by student or teacher, as Parquet, CSV or .npz",
    "export": "the student as safetensors, torch.export, ONNX or int8 file, reloaded and compared, with a model card",
    "serve": "answers over HTTP by student or teacher, in batches, on Ray Serve",
    "doctor": "whether packages, machine, storage and cluster are ready for a run, and what to do where they are not",
    "completion": "a script that completes commands and settings in bash, zsh or fish",
}


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
    lines = [f"  {name:10} {text}" for name, text in COMMANDS.items()]
    parser = Parser(
        "raydistill",
        description="Trains a generalist, specialists for the classes that it confuses, and one student that ships.",
        epilog="\n".join(["commands:", *lines, "", START]),
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
        nearest = difflib.get_close_matches(argv[0], COMMANDS, n=1, cutoff=0.5)
        remedy = f"did you mean {nearest[0]!r}?" if nearest else f"give one of {', '.join(COMMANDS)}"
        raise ConfigError(f"{argv[0]}: unknown command; {remedy}")
    parser.parse_args(argv)
    raise ConfigError(f"command: missing; give one of {', '.join(COMMANDS)}")


def run_command(argv: list[str]) -> int:
    """raydistill run."""
    config, given = read_settings("run", argv, COMMANDS["run"])
    return finish_run(config, given)


def finish_run(config: Config, given: argparse.Namespace) -> int:
    """Run the pipeline and print its table."""
    if given.dry_run:
        return dry_run(config, given, given.until)
    from raydistill.commands.launch import launch

    run = launch(
        config, on_change=given.on_change, start_from=given.start_from, verbose=given.verbose, until=given.until
    )
    if given.until != "report":
        print(f"stopped after {given.until}, as --until asks; without it, the same command goes on")
        print(f"next:   raydistill status {run.location} tells what is done")
        return 0
    print_report(run)
    return 0


def dry_run(config: Config, given: argparse.Namespace, until: str) -> int:
    """Print what would be done; 2 where it would be refused."""
    from raydistill.commands.dry_run import forecast_run
    from raydistill.commands.forecast_text import format_forecast
    from raydistill.display import Silent

    forecast = forecast_run(
        config,
        display=Silent(),
        on_change=given.on_change,
        start_from=given.start_from,
        until=until,
        verbose=given.verbose,
    )
    print(format_forecast(forecast))
    return 2 if forecast.obstacles else 0


def plan_command(argv: list[str]) -> int:
    """raydistill plan."""
    config, given = read_settings("plan", argv, COMMANDS["plan"])
    if given.dry_run:
        return dry_run(config, given, "groups")
    from raydistill.commands.launch import format_plan, launch

    run = launch(config, on_change=given.on_change, start_from=given.start_from, verbose=given.verbose, until="groups")
    print(format_plan(run))
    print(f"\nnext:   raydistill run with the same flags goes on from here (--run-dir {run.location})")
    return 0


def ingest_command(argv: list[str]) -> int:
    """raydistill ingest."""
    from raydistill.commands.ingest import run_ingest

    print(run_ingest(build_parser("ingest").parse_args(argv)))
    return 0


def status_command(argv: list[str]) -> int:
    """raydistill status."""
    from raydistill.commands.status import describe_status

    print(describe_status(build_parser("status").parse_args(argv).folder))
    return 0


def report_command(argv: list[str]) -> int:
    """raydistill report."""
    from raydistill.storage.run_folder import RunFolder

    run = RunFolder(build_parser("report").parse_args(argv).folder)
    run.read_manifest()
    print_report(run)
    return 0


def print_report(run: RunFolder) -> None:
    """The table, where the page is, and what comes next."""
    from raydistill.report import format_table, read_report

    print(format_table(read_report(run)))
    print(f"\nreport: {run.stage_folder('report') / 'report.html'}")
    print(f"next:   raydistill export {run.location} --format pt2")


def compare_command(argv: list[str]) -> int:
    """raydistill compare."""
    from raydistill.commands.compare import run_compare

    return run_compare(build_parser("compare").parse_args(argv))


def predict_command(argv: list[str]) -> int:
    """raydistill predict."""
    from raydistill.commands.predict import run_predict

    print(run_predict(build_parser("predict").parse_args(argv)))
    return 0


def export_command(argv: list[str]) -> int:
    """raydistill export."""
    from raydistill.commands.export import run_export

    print(run_export(build_parser("export").parse_args(argv)))
    return 0


def serve_command(argv: list[str]) -> int:
    """raydistill serve."""
    from raydistill.commands.serve import run_serve

    return run_serve(build_parser("serve").parse_args(argv))


def doctor_command(argv: list[str]) -> int:
    """raydistill doctor."""
    from raydistill.commands.doctor import run_doctor

    return run_doctor(build_parser("doctor").parse_args(argv))


def completion_command(argv: list[str]) -> int:
    """raydistill completion."""
    from raydistill.commands.completion import write_completion

    given = build_parser("completion").parse_args(argv)
    print(write_completion(given.shell, {name: build_parser(name) for name in COMMANDS}, COMMANDS))
    return 0


def build_parser(command: str) -> Parser:
    """A command's parser: that of settings, or the arguments of its module, after the run folder if it takes one."""
    if command in _SETTINGS_COMMANDS:
        return build_settings_parser(command, COMMANDS[command])[0]
    parser = Parser(f"raydistill {command}", description=COMMANDS[command], allow_abbrev=False)
    if command in _FOLDER_COMMANDS:
        parser.add_argument("folder", type=settle, metavar="DIR", help=_FOLDER_COMMANDS[command])
    if command not in _WITHOUT_ARGUMENTS:
        importlib.import_module(f"raydistill.commands.{command}").add_arguments(parser)
    return parser


RUN_FOLDER = "run folder, or its URI in an object store"
_SETTINGS_COMMANDS = ("run", "plan")
_FOLDER_COMMANDS = {
    **dict.fromkeys(("status", "report", "export"), RUN_FOLDER),
    **dict.fromkeys(("predict", "serve"), f"{RUN_FOLDER}, or a folder of raydistill export"),
}
_WITHOUT_ARGUMENTS = ("status", "report")
_HANDLERS: dict[str, Callable[[list[str]], int]] = {
    "ingest": ingest_command,
    "run": run_command,
    "plan": plan_command,
    "status": status_command,
    "report": report_command,
    "compare": compare_command,
    "predict": predict_command,
    "export": export_command,
    "serve": serve_command,
    "doctor": doctor_command,
    "completion": completion_command,
}
