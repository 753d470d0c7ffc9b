"""What pages of the site take from the code: a table of every setting, an entry for each public name; and formulas.

Comes in: a page with the line `<!-- settings -->` or `<!-- names -->`. Goes out: the page with Markdown in its place.
Formulas, in TeX, go out as MathML, which browsers show without a script and without a network.
Called by mkdocs; tests/test_docs.py holds the tables against the settings.
"""

from __future__ import annotations

import html
import json
import re
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

import raydistill
from raydistill.settings.config import Config

FORMULA = re.compile(r'(<(span|div) class="arithmatex">)\\[(\[](.*?)\\[)\]]', re.DOTALL)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill the marks of a page; mkdocs calls it."""
    markdown = markdown.replace("<!-- settings -->", describe_settings(Config))
    return markdown.replace("<!-- names -->", list_public_names())


def on_page_content(content: str, **_: Any) -> str:
    """Write formulas as MathML; mkdocs calls it with a page's HTML."""
    return FORMULA.sub(
        lambda found: found[1] + convert_formula(html.unescape(found[3]), block=found[2] == "div"), content
    )


def convert_formula(tex: str, *, block: bool) -> str:
    """TeX as MathML. block: a line of its own, with the limits of sums below them."""
    from latex2mathml.converter import convert

    tex = re.sub(r"\\log\s+", r"\\log\\, ", tex)  # a space that TeX makes by itself
    if block:
        tex = re.sub(r"\\(sum|min|max)_", r"\\\1\\limits_", tex)
    return str(convert(tex, display="block" if block else "inline"))


def describe_settings(section: type[BaseModel], name: str = "") -> str:
    """A heading and a table for the section's own settings, then those of the sections in it."""
    own = {key: field for key, field in section.model_fields.items() if not is_section(field.annotation)}
    inner = {key: field.annotation for key, field in section.model_fields.items() if is_section(field.annotation)}
    about = " ".join((section.__doc__ or "").split("\n\n")[0].split())
    lines = [f"## {name or 'The run itself'}", "", escape(about), "", "| setting | default | |", "|---|---|---|"]
    if not own:
        lines = lines[:3]
    prefix = f"{name}." if name else ""
    for key, field in own.items():
        shown = f"`{prefix}{key}`<br>{escape(describe_type(field.annotation))}"
        lines.append(f"| {shown} | {describe_default(field)} | {escape(' '.join((field.description or '').split()))} |")
    parts = ["\n".join(lines), *(describe_settings(kind, prefix + key) for key, kind in inner.items() if kind)]
    return "\n\n".join(parts)


def is_section(kind: Any) -> bool:
    """Whether a field holds settings of its own."""
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def describe_type(kind: Any) -> str:
    """A type in words: choices, number, text, list and so on."""
    if str(get_origin(kind)) == "typing.Literal":
        return " | ".join(map(str, get_args(kind)))
    if get_args(kind) and get_origin(kind) not in (tuple, dict, list):
        return " | ".join(describe_type(part) for part in get_args(kind) if part is not type(None))
    if get_origin(kind) is tuple:
        return "list of " + describe_type(get_args(kind)[0])
    if get_origin(kind) is dict:
        return "mapping"
    return {"int": "whole number", "float": "number", "str": "text", "bool": "true | false"}.get(kind.__name__, "")


def describe_default(field: FieldInfo) -> str:
    """The default as it is written in YAML; what is left out where there is none."""
    default = field.get_default(call_default_factory=True, validated_data={})
    if default is PydanticUndefined:
        return "must be given"
    if default is None:
        return "left out"
    return f"`{default if isinstance(default, str) else json.dumps(default)}`"


def list_public_names() -> str:
    """A directive of mkdocstrings for each name of `raydistill.__all__`."""
    return "\n\n".join(f"::: raydistill.{name}" for name in raydistill.__all__ if not name.startswith("_"))


def escape(text: str) -> str:
    """Text for a cell of a table."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*").replace("_", "\\_")
