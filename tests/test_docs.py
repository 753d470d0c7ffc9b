"""The documentation does what it says: its commands run, its links lead somewhere, its settings exist, it builds.

Every ```bash and ```python block of a page runs, in order, in a folder of the page's own. `run`, `plan` and `ingest`
get the flags of SHORT where they do not give these themselves, so that a page takes seconds; the slow test runs them
exactly as they are printed. Commands in ```console need what is not here (a cloud, a cluster, the network): of these,
the arguments of `raydistill` are parsed. Before a block, a comment may stand:

    <!-- setup … -->         Python that the page does not show, in place of a block
    <!-- needs NAME -->      run the block only where this package can be imported
    <!-- prints -->          the ```text block that follows is what the commands before it print: the same lines but for
                             their numbers, and … for what is left out
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from raydistill.commands import cli
from raydistill.commands.flags import build_settings_parser
from raydistill.errors import ConfigError
from raydistill.settings.config import Config
from raydistill.settings.sections import list_fields

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(path.name for path in DOCS.glob("*.md"))
TRAINING = {
    "cluster.backend": "none",
    "generalist.epochs": "2",
    "specialists.epochs": "1",
    "search.trials": "2",
    "search.epochs": "1",
    "student.epochs": "2",
    "grouping.bootstraps": "1",
}
SHORT = {"run": TRAINING, "plan": TRAINING, "ingest": {"backend": "none"}}
SUFFIXES = ("json", "onnx", "pt2", "py", "safetensors", "yaml")  # of files whose names look like settings
PART = re.compile(
    r"^<!-- (?P<mark>setup|needs|prints)(?P<told>.*?)-->$|^```(?P<kind>\w+)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A piece of a page. kind: bash, python, console, text (what was printed); needs: a package, or ''."""

    kind: str
    text: str
    line: int
    needs: str = ""


@dataclass(frozen=True)
class Ran:
    """A command or a block that was run. missing: lines that the page says it prints, and it did not."""

    code: int
    printed: str
    missing: list[str] = field(default_factory=list)


def read_blocks(page: str) -> list[Block]:
    """All blocks that a page runs or is held against."""
    text, blocks, needs, prints = (DOCS / page).read_text(), [], "", False
    for found in PART.finditer(text):
        line = text.count("\n", 0, found.start()) + 1
        if found["mark"] == "setup":
            blocks.append(Block("python", found["told"], line))
        elif found["mark"]:
            needs, prints = found["told"].strip(), found["mark"] == "prints"
        else:
            if found["kind"] in ("bash", "python", "console") or (found["kind"] == "text" and prints):
                blocks.append(Block(found["kind"], found["text"], line, needs))
            needs, prints = "", False
    return blocks


def split_commands(text: str) -> list[str]:
    """Commands of a block, with continued lines in one."""
    lines = text.replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]


def split_words(command: str) -> list[str] | None:
    """The words of a plain command; None where it needs a shell."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
    lexer.whitespace_split, lexer.commenters = True, "#"
    words = list(lexer)
    return None if "$" in command or any(set(word) <= set("();<>|&") for word in words) else words


def shorten(words: list[str]) -> list[str]:
    """The arguments of a command with those of SHORT that it does not give."""
    given = {word.removeprefix("--").replace("-", "_") for word in words if word.startswith("--")}
    flags = SHORT.get(words[0], {})
    return [*words, *(part for name in flags if name not in given for part in (f"--{name}", flags[name]))]


def run_command(command: str, *, short: bool) -> Ran:
    """Run a command, that of raydistill in this process."""
    words = split_words(command)
    if words is None or words[0] != "raydistill":
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", command], capture_output=True, text=True, check=False)
        return Ran(done.returncode, done.stdout + done.stderr)
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = cli.main(shorten(words[1:]) if short else words[1:])
    return Ran(code, said.getvalue())


def can_import(package: str) -> bool:
    """Whether a package is there and works."""
    try:
        importlib.import_module(package)
    except Exception:  # torchvision beside another torch: RuntimeError
        return False
    return True


def run_page(page: str, *, short: bool) -> Iterator[tuple[str, Ran]]:
    """Run the blocks of a page in order: where each command stands, and how it went."""
    names: dict[str, object] = {"__name__": "__main__"}
    printed = ""
    for block in read_blocks(page):
        if block.needs and not can_import(block.needs):
            continue
        place = f"{page}:{block.line}"
        if block.kind == "bash":
            printed = ""
            for command in split_commands(block.text):
                ran = run_command(command, short=short)
                printed += ran.printed
                yield f"{place}: {command}", ran
        elif block.kind == "python":
            code = compile("\n" * block.line + block.text, str(DOCS / page), "exec", dont_inherit=True)
            with contextlib.redirect_stdout(io.StringIO()) as said:
                exec(code, names)
            printed = said.getvalue()
            yield place, Ran(0, printed)
        elif block.kind == "text":
            yield place, Ran(0, printed, list_missing(block, printed))


def list_missing(block: Block, printed: str) -> list[str]:
    """Lines of a ```text block that were not printed, but for numbers and what … stands for."""
    lines = {blur(line) for line in printed.splitlines()}
    return [
        line
        for line in filter(None, map(str.strip, block.text.splitlines()))
        if line != "…" and not any(re.fullmatch(as_pattern(line), other) for other in lines)
    ]


def as_pattern(line: str) -> str:
    """What blurred lines match that are printed as this one."""
    return re.sub(r"(\\ )*…(\\ )*", ".*", re.escape(blur(line)))


def blur(line: str) -> str:
    """A line without its numbers, and with single spaces."""
    return " ".join(re.sub(r"[+-]?\d[\d.,]*(e-?\d+)?", "#", line).split())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh working directory and home, and a `raydistill` for shells."""
    home, tools = tmp_path / "home", tmp_path / "tools"
    for path in (home, tools, tmp_path / "page"):
        path.mkdir()
    script = tools / "raydistill"
    script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m raydistill "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", os.pathsep.join([str(tools), str(Path(sys.executable).parent), os.environ["PATH"]]))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])))
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.chdir(tmp_path / "page")
    monkeypatch.syspath_prepend(str(tmp_path / "page"))  # modules that a page writes
    return tmp_path / "page"


PAGES_THAT_RUN = [page for page in PAGES if any(block.kind in ("bash", "python") for block in read_blocks(page))]


@pytest.mark.parametrize("page", PAGES_THAT_RUN)
@pytest.mark.usefixtures("folder")
def test_a_pages_commands_work(page: str) -> None:
    for place, ran in run_page(page, short=True):
        assert (ran.code, ran.missing) == (0, []), f"{place}\n{ran.printed}"


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("page", PAGES_THAT_RUN)
@pytest.mark.usefixtures("folder")
def test_a_pages_commands_work_exactly_as_printed(page: str) -> None:
    for place, ran in run_page(page, short=False):
        assert (ran.code, ran.missing) == (0, []), f"{place}\n{ran.printed}"


def list_elsewhere() -> list[str]:
    """Commands of raydistill in ```console blocks, without what leads to them."""
    commands = [
        command
        for page in PAGES
        for block in read_blocks(page)
        if block.kind == "console"
        for command in split_commands(block.text)
    ]
    found = (re.search(r"(?:^|-- |&& )(raydistill (?:.*))", command) for command in commands)
    return [match[1] for match in found if match and "…" not in match[1]]


@pytest.mark.parametrize("command", list_elsewhere())
def test_arguments_of_commands_that_run_elsewhere_exist(command: str) -> None:
    words = split_words(command)
    assert words is not None
    verb, arguments = words[1], words[2:]
    assert verb in cli.COMMANDS
    parser = build_settings_parser(verb)[0] if verb in ("run", "plan") else cli.build_parser(verb)
    assert find_mistake(parser, arguments) == ""


def find_mistake(parser: argparse.ArgumentParser, arguments: list[str]) -> str:
    """What a parser says of arguments that it does not take."""
    try:
        parser.parse_args(arguments)
    except (ConfigError, SystemExit) as error:
        return str(error)
    return ""


def test_settings_that_pages_name_exist() -> None:
    known, sections = set(list_fields(Config)), set()
    for name in known:
        parts = name.split(".")
        sections |= {".".join(parts[:length]) for length in range(1, len(parts))}
    named = [
        (page, name)
        for page in PAGES
        for name in re.findall(r"(?:`|--)([a-z_]+(?:\.[a-z_]+)+)\b", (DOCS / page).read_text())
        if name.split(".")[0] in sections and name.rpartition(".")[2] not in SUFFIXES
    ]
    assert len(named) > 50
    assert [pair for pair in named if pair[1] not in known | sections] == []


def test_the_settings_page_has_every_setting_with_its_default() -> None:
    hooks = load_hooks()
    page = hooks.on_page_markdown((DOCS / "settings.md").read_text())
    assert [name for name in list_fields(Config) if f"| `{name}`<br>" not in page] == []
    assert re.search(r"\| `search\.trials`<br>whole number \| `8` \| pairs of temperature", page)
    assert re.search(r"\| `data`<br>text \| must be given \|", page)
    assert re.search(r"\| `specialists\.dustbin`<br>merged \\\| single \\\| soft \| `merged` \|", page)


def load_hooks() -> Any:
    """docs/hooks.py as a module."""
    specification = importlib.util.spec_from_file_location("docs_hooks", DOCS / "hooks.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def list_anchors(path: Path) -> set[str]:
    """Anchors of a page's headings, of docs/hooks.py too, as GitHub and mkdocs make them of plain words."""
    text = load_hooks().on_page_markdown(path.read_text())
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", [*(f"docs/{page}" for page in PAGES), "README.md"])
def test_links_lead_somewhere(page: str) -> None:
    path = ROOT / page
    text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"\w+:", target):
            continue
        file, _, anchor = target.partition("#")
        place = (path.parent / file).resolve() if file else path
        assert place.exists(), f"{page}: {target}"
        if anchor and "`" not in anchor:
            assert anchor in list_anchors(place), f"{page}: {target}"


def test_the_site_builds(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    pytest.importorskip("material")
    pytest.importorskip("mkdocstrings")
    pytest.importorskip("latex2mathml")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": paths, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for page in PAGES:
        name = "index.html" if page == "index.md" else f"{page.removesuffix('.md')}/index.html"
        assert (tmp_path / "site" / name).stat().st_size > 5000
        markup = (tmp_path / "site" / name).read_text()
        assert re.findall(r"<(?:script|link|img)\b[^>]*=[\"']?(?:https?:)?//[^>]*>", markup) == []  # offline, too
        assert markup.count("<math") == len(re.findall(r"\\[(\[]", (DOCS / page).read_text())), page
    assert 'id="raydistill.solve_ensemble"' in (tmp_path / "site/api/index.html").read_text()
