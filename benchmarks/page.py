"""Pages of results: parts between two marks, each written anew by its own command, in the order of their numbers."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from benchmarks.provenance import describe_machine, read_commit
from raydistill.storage.files import write_text

PART = re.compile(r"<!-- (\w+) -->\n(.*?)\n<!-- /\1 -->", re.DOTALL)


def describe_making(module: str) -> dict[str, str]:
    """Command, commit and machine of the results that this process makes."""
    words = ["python -m", module, *(Path(word).name for word in sys.argv[1:])]
    return {"command": " ".join(words), "commit": read_commit(), "machine": describe_machine()}


def replace_part(page: Path, head: str, name: str, text: str) -> None:
    """Put the text between its marks; parts stand in the order of the numbers that their titles begin with."""
    old = page.read_text(encoding="utf-8") if page.exists() else head
    parts = dict(PART.findall(old)) | {name: text}
    marked = [f"\n<!-- {mark} -->\n{body}\n<!-- /{mark} -->\n" for mark, body in sorted(parts.items(), key=_number)]
    write_text(page, "".join([head, *marked]))


def _number(part: tuple[str, str]) -> tuple[int, str]:
    number = part[1].removeprefix("## ").partition(".")[0]
    return int(number.rstrip("abc")), number  # 4, 4b, 10
