"""raydistill ingest: a source into a folder of arrays, on Ray or in this process.

Comes in: arguments. Goes out: the folder that `raydistill run --data arrays:DIR` takes (data/ingest.py), and lines that
say what became of the source.
"""

from __future__ import annotations

import argparse
import time
from contextlib import closing
from pathlib import Path
from typing import Literal

from raydistill.data.images import ImageForm
from raydistill.data.ingest_errors import Word, Words
from raydistill.data.ingestion import Ingested, Ingestion, RunBlocks, run_here
from raydistill.data.wanted import Wanted
from raydistill.display import Display, open_display
from raydistill.errors import ConfigError
from raydistill.settings.images import DEFAULT_LIMIT, read_limit

DEFAULT_SIZE = 64
WORDS: Words = {
    "source": Word("source:"),
    "output": Word("output:"),
    "x_column": Word("x_column:", "--x-column, or with ?x=NAME behind the source"),
    "label_column": Word("label_column:", "--label-column, or with ?y=NAME behind the source"),
    "splits.column": Word("split_column:"),
    "splits.keep_apart": Word("keep_apart:"),
    "max_corrupt": Word("max_corrupt:", "--max-corrupt"),
    "size": Word("size:", "--size"),
}
"""What the settings are called here."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `raydistill ingest`."""
    parser.add_argument(
        "source",
        help="folder of class folders of images, Parquet (also s3://… and gs://…), saved dataset, hf:NAME[@CONFIG] or"
        " torchvision:NAME",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder of the arrays; resumes there")
    parser.add_argument("--size", type=int, default=DEFAULT_SIZE, help="height and width of images (default 64)")
    parser.add_argument("--channels", type=int, choices=(1, 3), default=3, help="1: grey, 3: RGB (default)")
    parser.add_argument(
        "--resize",
        choices=("crop", "pad", "stretch"),
        default="crop",
        help="crop (default): the middle of the longer side; pad: all of it, with black; stretch: out of proportion",
    )
    parser.add_argument(
        "--max-corrupt",
        type=read_limit,
        default=DEFAULT_LIMIT,
        metavar="N|SHARE",
        help="corrupt records that are left out at most: a number, or a share such as 0.01 (default) or 1%%",
    )
    parser.add_argument("--x-column", help="of Parquet and datasets: encoded images, or vectors")
    parser.add_argument("--label-column", help="of Parquet and datasets: integers or text")
    parser.add_argument("--split-column", help="of Parquet and datasets: train, confuse, tune or test of each record")
    parser.add_argument("--keep-apart", metavar="COLUMN", help="column kept for splits.keep_apart of runs")
    parser.add_argument("--backend", choices=("ray", "none"), default="ray", help="none: in this process, without Ray")
    parser.add_argument("--address", help="of a Ray cluster; left out: RAY_ADDRESS, else a private Ray on this machine")
    parser.add_argument("-v", "--verbose", action="store_true", help="let Ray speak")


def run_ingest(given: argparse.Namespace) -> str:
    """Ingest as asked; returns what to tell the user. Raises RaydistillError."""
    form = make_form(given.size, given.channels, given.resize)
    columns = (given.x_column, given.label_column, given.split_column, given.keep_apart)
    wanted = Wanted(given.source, form, *columns)
    with closing(open_display()) as display:
        run_blocks = choose_backend(given.backend, given.address, given.verbose)
        result = ingest(wanted, given.output, limit=given.max_corrupt, run_blocks=run_blocks, display=display)
    return describe_result(given.output, result)


def make_form(size: int, channels: int, resize: Literal["crop", "pad", "stretch"]) -> ImageForm:
    """Checked. Raises ConfigError for a size that no image has."""
    if not 1 <= size <= 4096:
        raise ConfigError(f"size: {size} is not allowed; give 1 to 4096 pixels")
    return ImageForm(size, channels, resize)


def choose_backend(backend: str, address: str | None, verbose: bool) -> RunBlocks:
    """Ray, or this process alone."""
    if backend == "none":
        return run_here
    from raydistill.on_ray.ingest import RayBlocks

    return RayBlocks(address, verbose)


def ingest(wanted: Wanted, output: Path, *, limit: int | float, run_blocks: RunBlocks, display: Display) -> Ingested:
    """Ingest a source as the one stage of a display; see `Ingestion`. Raises DataError; nothing is overwritten."""
    output = output.expanduser().absolute()
    began = time.monotonic()
    display.begin_stage("ingest", 1, 1)
    finished = (output / "arrays.json").exists()
    result = Ingestion(wanted, output, limit, run_blocks, display, WORDS).run()
    display.end_stage(time.monotonic() - began, skipped=finished)
    return result


def describe_result(output: Path, result: Ingested) -> str:
    """What the folder holds, and what comes next."""
    record = result.record
    examples, *shape = record["shape"]
    lines = [f"{examples:,} examples, {'x'.join(map(str, shape))} {record['dtype']}, in {output}"]
    if record["corrupt"]:
        lines.append(f"corrupt records left out: {record['corrupt']:,}, listed in {output / 'corrupt.json'}")
    return "\n".join([*lines, f"next:   raydistill run --data arrays:{output} --run-dir DIR"])
