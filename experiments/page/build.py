"""Puts the page together: template, style sheet, modules, data, and the security policy."""

import base64
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

FOLDER = Path(__file__).parent
# A page that is opened from a disk cannot import other files, so the modules become one script.
# Each module comes after those that it imports.
# fmt: off
MODULES = (
    "dom", "weights", "forward", "digits", "ink", "drawing", "maps", "share", "pictures", "answers",
    "explain", "cells", "layers", "epochs", "mistakes", "main",
)
# fmt: on
_IMPORT = re.compile(r'^import \{[^}]*\} from "\./(\w+)\.js";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export ", re.MULTILINE)


def render(data: Mapping[str, Any]) -> str:
    """The page as HTML, from what `contents.gather` returned."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    style, code = (FOLDER / "style.css").read_text(), script()
    return environment.get_template("page.html.jinja").render(
        policy=policy(style, code), style=Markup(style), script=Markup(code), data=data
    )


def script() -> str:
    """The modules as one script, without their imports, because all names are in one scope."""
    return "\n".join(_inlined(name) for name in MODULES)


def _inlined(name: str) -> str:
    code = (FOLDER / f"{name}.js").read_text()
    code = _EXPORT.sub("", _IMPORT.sub("", code))
    return f"// {name}.js\n{code}"


def policy(style: str, code: str) -> str:
    """A Content-Security-Policy under which this style and this script run and nothing else.

    No request is allowed; pictures may come from the page itself.
    """
    return (
        f"default-src 'none'; script-src '{_source(code)}'; style-src '{_source(style)}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def _source(content: str) -> str:
    digest = hashlib.sha256(content.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"
