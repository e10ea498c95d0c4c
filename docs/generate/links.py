"""An mkdocs hook: links of a page to files outside docs/ go to the repository, where its address is known."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(\.\./([^)#\s]+)(#[^)]*)?\)")
log = logging.getLogger("mkdocs.hooks.links")


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:  # noqa: ANN401
    """Replaces a page's links to files of the repository; one that is not there is a warning."""
    root = Path(config.config_file_path).parent

    def replaced(link: re.Match[str]) -> str:
        text, path, anchor = link[1], link[2], link[3] or ""
        if not (root / path).exists():
            log.warning("%s: no file %s", page.file.src_uri, path)
        if config.repo_url:
            return f"[{text}]({config.repo_url.rstrip('/')}/blob/main/{path}{anchor})"
        return f'<span title="{path}">{text}</span>'  # the path in the repository, as long as it has no address

    return LINK.sub(replaced, markdown) if page.file.src_uri.count("/") == 0 else markdown
