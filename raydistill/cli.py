"""The command line: raydistill ingest | run | plan | status | report | predict | export.

Comes in: arguments. Goes out: an exit code: 0 done; 2 bad input or a full disk, told in one line; 130 interrupted by
Ctrl-C, 143 by SIGTERM; 141 the reader of the output has gone; 1 anything unexpected. Heavy modules are imported by the
command that needs them, so that --help answers at once.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from raydistill.config import Config
from raydistill.credentials import hide_credentials
from raydistill.errors import ConfigError, RaydistillError
from raydistill.flags import Parser, read_settings
from raydistill.job import settle
from raydistill.sections import suggest_field
from raydistill.termination import EXIT_CODE, Terminated, exit_on_sigterm
from raydistill.version import __version__

INTERRUPTED = "raydistill: interrupted; the same command goes on from here"
COMMANDS = {
    "ingest": "image folders, Parquet or Hugging Face datasets into arrays that may be larger than memory",
    "run": "the whole way from data to student; the same command resumes",
    "plan": "generalist, confusions, groups, and a forecast of what each group could gain; no fan-out",
    "status": "which stages of a run are finished",
    "report": "the headline table of a run, and where its page is",
    "predict": "classes and probabilities for the examples of a .npz file",
    "export": "the student as safetensors, torch.export or ONNX file, reloaded and compared",
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


def run_command(argv: list[str]) -> int:
    """raydistill run."""
    config, given = read_settings("run", argv, COMMANDS["run"])
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
    config, given = read_settings("plan", argv, COMMANDS["plan"])
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
    parser = _folder_parser("predict")
    parser.add_argument(
        "input", type=Path, help=".npz file with an array x (or x_test), shaped as the training examples"
    )
    parser.add_argument("--output", type=Path, help="file to write; left out: INPUT with .predicted.npz")
    parser.add_argument("--model", choices=("student", "teacher"), default="student", help="which one answers")
    given = parser.parse_args(argv)
    from raydistill.predict import predict_file

    print(predict_file(given.folder, given.input, given.output, given.model))
    return 0


def export_command(argv: list[str]) -> int:
    """raydistill export."""
    parser = _folder_parser("export")
    parser.add_argument("--format", choices=("safetensors", "pt2", "onnx"), default="safetensors", help="kind of file")
    parser.add_argument("--output", type=Path, help="file to write; left out: student.FORMAT in the run folder")
    given = parser.parse_args(argv)
    from raydistill.export import export_student

    print(export_student(given.folder, given.format, given.output))
    return 0


def _folder_parser(command: str) -> Parser:
    parser = Parser(f"raydistill {command}", description=COMMANDS[command], allow_abbrev=False)
    parser.add_argument("folder", type=settle, metavar="DIR", help="run folder, or its URI in an object store")
    return parser


_HANDLERS: dict[str, Callable[[list[str]], int]] = {
    "ingest": ingest_command,
    "run": run_command,
    "plan": plan_command,
    "status": status_command,
    "report": report_command,
    "predict": predict_command,
    "export": export_command,
}
