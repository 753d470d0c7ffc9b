"""What a run folder may name: files in itself, nothing else.

Comes in: names that were read from a file, or a folder on disk. Goes out: nothing, or a RunFolderError. A folder may
have come from somebody else: what it names must not make this process read or write elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from raydistill.errors import RunFolderError


def stays_inside(name: str) -> bool:
    """Whether a relative path with forward slashes, such as '000/weights.safetensors', is one below its folder."""
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and not {"\\", "\0"} & set(name)


def check_names(manifest: Path, stages: Mapping[str, Any]) -> None:
    """Raise RunFolderError if a stage's record names a file outside the stage's folder. manifest: where it was read."""
    for stage, record in stages.items():
        for name in record["files"]:
            if not stays_inside(name):
                raise RunFolderError(
                    f"run_dir: {str(manifest)!r} names {name!r} as a file of stage {stage!r}, which is outside the run"
                    " folder; raydistill writes no such name, do not use this folder"
                )


def check_links(folder: Path) -> None:
    """Raise RunFolderError if a symbolic link below the folder leads out of it; the folder itself may be one."""
    inside = folder.resolve()
    for link in _find_links(folder):
        target = Path(os.path.realpath(link))  # as resolve(), which raises at a loop of links
        if not target.is_relative_to(inside):
            raise RunFolderError(
                f"run_dir: {str(link)!r} is a link to {str(target)!r}, outside the run folder; writing would change"
                " that: put the files themselves there, or remove the link"
            )


def _find_links(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):  # does not follow links
        for name in (*folders, *files):
            path = Path(parent, name)
            if path.is_symlink():
                yield path
