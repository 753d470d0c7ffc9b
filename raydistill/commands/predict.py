"""raydistill predict: classes and probabilities for images or arrays, into a table.

Comes in: arguments. Goes out: the table (predict.py), and lines that say what became of the inputs.
"""

from __future__ import annotations

import argparse
from contextlib import closing
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `raydistill predict` beside the folder."""
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="images (files, folders, globs), or arrays shaped as the training's: .npz (x), .npy, .parquet (vectors)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help=".parquet or .csv: a row an input; .npz: all probabilities; left out, of one .npz: INPUT.predicted.npz",
    )
    parser.add_argument(
        "--model",
        choices=("student", "teacher", "ensemble"),
        default="student",
        help="which one answers; teacher and ensemble mean the same",
    )
    parser.add_argument("--top", type=int, default=1, metavar="N", help="classes of a row, the most probable ones")
    parser.add_argument("--x-column", help="of Parquet files: the column of vectors, where there are several")


def run_predict(given: argparse.Namespace) -> str:
    """Predict as asked; returns what to tell the user. Raises RaydistillError."""
    from raydistill.deployment.predict import predict
    from raydistill.display import open_display

    with closing(open_display()) as display:
        return predict(
            given.folder,
            given.inputs,
            given.output,
            model=given.model,
            top=given.top,
            x_column=given.x_column,
            display=display,
        )
