"""raydistill export: the student as files that run without the run folder.

Comes in: arguments. Goes out: the files (export.py), and lines that say what they are.
"""

from __future__ import annotations

import argparse
from pathlib import Path

FORMATS = ("safetensors", "pt2", "onnx", "int8")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `raydistill export` beside the folder."""
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default="safetensors",
        help="safetensors: a folder for raydistill.load_exported; pt2: torch.export; int8: ONNX in 8-bit integers",
    )
    parser.add_argument(
        "--output",
        type=Path,
        help="folder or file to write; left out: student.FORMAT in DIR/export; a card goes beside",
    )
    parser.add_argument(
        "--card", type=Path, metavar="FILE", help="the model card; left out: README.md beside the model"
    )
    parser.add_argument("--licence", "--license", metavar="ID", help="of the model, for its card, such as apache-2.0")


def run_export(given: argparse.Namespace) -> str:
    """Export as asked; returns what to tell the user. Raises RaydistillError."""
    from raydistill.deployment.export import export_student

    return export_student(given.folder, given.format, given.output, card=given.card, licence=given.licence)
