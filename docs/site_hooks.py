"""Adapt pages and docstrings to the site: links to files of the repository, and roles of Sphinx."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

try:
    from griffe import Extension
except ImportError:  # MkDocs loads this file for its hooks alone, too
    Extension = object  # type: ignore[assignment, misc]

ROOT = Path(__file__).resolve().parent.parent
_log = logging.getLogger("mkdocs.hooks")

#: A link that leaves the folder of the pages: its text and its target.
_OUTSIDE = re.compile(r"\[([^\]]+)\]\((\.\./[^)\s#]+)\)")
#: A role of Sphinx: its target, with a tilde where only the last name is shown.
_ROLE = re.compile(r":(?:class|func|meth|mod|attr|data|exc|obj):`(~?)\.*([^`]+)`")


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """Point links to files of the repository at its host, or show them as plain names where there is none."""
    folder = (Path(config["docs_dir"]) / page.file.src_path).parent

    def replace(match: re.Match[str]) -> str:
        text, target = match.groups()
        path = (folder / target).resolve()
        if path.is_relative_to(config["docs_dir"]):
            return match[0]
        if not path.exists():
            _log.warning("%s: link to %s, which does not exist", page.file.src_path, target)
        if not config["repo_url"]:
            return f"`{text}`"
        return f"[{text}]({config['repo_url'].rstrip('/')}/blob/main/{path.relative_to(ROOT)})"

    return _OUTSIDE.sub(replace, markdown)


def without_roles(text: str) -> str:
    """Replace roles of Sphinx by code: ``:class:`~a.B``` becomes ```B```."""
    return _ROLE.sub(lambda match: f"`{match[2].rpartition('.')[2] if match[1] else match[2]}`", text)


class Roles(Extension):
    """Replace the roles of Sphinx in docstrings, which Markdown would show as they are."""

    def on_instance(self, *, obj: Any, **_: Any) -> None:
        """Replace the roles in the docstring of an object."""
        if getattr(obj, "is_alias", False) or obj.docstring is None:
            return
        obj.docstring.value = without_roles(obj.docstring.value)
