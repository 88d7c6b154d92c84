"""What MkDocs does beside Markdown: pages from files outside docs/, the reference, and formulas as MathML.

    README.md, CONTRIBUTING.md, CHANGELOG.md, configs/LOG.md, model cards ──► pages, with their links
    n2s_dist/FOLDER/*.py ──► a page of the reference for each folder
    docs/notebook.ipynb ──► a page and its pictures

So each text has one source, and reads well in the repository and on the site. mkdocs.yml names this file. Nothing here
needs the network, neither when the site is built nor in a reader's browser.
"""

import base64
import html
import logging
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "n2s_dist"
NOTEBOOK = "docs/notebook.ipynb"
_NETWORKS = sorted(path.stem for path in ROOT.glob(f"{PACKAGE}/weights/*.md"))
CARDS = {f"networks/{name}.md": f"{PACKAGE}/weights/{name}.md" for name in _NETWORKS}
# Pages, by their place in the site, that are written elsewhere in the repository.
SOURCES = {
    "index.md": "README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changes.md": "CHANGELOG.md",
    "log.md": "configs/LOG.md",
    **CARDS,
}
# What readers look for comes first in the reference; other folders follow in alphabetical order.
FIRST = ("inference", "noise", "models", "losses", "metrics", "images", "config")

_IMAGES = {"image/png": "png", "image/jpeg": "jpg"}
_LINK = re.compile(r"(?<!!)\[([^\]\[]+)\]\(([^)\s]+)\)")
_PICTURE = re.compile(r"(!\[[^\]]*\]\()([^)\s]+)(\))")
_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
_log = logging.getLogger("mkdocs.hooks")


def on_config(config: MkDocsConfig) -> None:
    """Append the model cards and the reference to the navigation."""
    assert config.nav is not None
    config.nav.append({"Pretrained networks": [{Path(page).stem: page} for page in CARDS]})
    config.nav.append({"Reference": [{name: f"reference/{name}.md"} for name in _folders()]})


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the pages that are made here."""
    made: dict[str, str | bytes] = {page: (ROOT / source).read_text() for page, source in SOURCES.items()}
    made.update({f"reference/{name}.md": _reference(name) for name in _folders()})
    text, pictures = _notebook_page(nbformat.read(ROOT / NOTEBOOK, as_version=4))
    made.update({"notebook.md": text, **pictures})
    for page, content in made.items():
        files.append(File.generated(config, page, content=content))


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Point links between the repository's files to their pages; what has no page becomes plain text."""
    here = page.file.src_uri
    folder = posixpath.dirname(SOURCES.get(here, f"docs/{here}"))

    def place(target: str) -> str | None:
        """A target in the site, relative to this page; None where the site has none."""
        path, hash_, anchor = target.partition("#")
        wanted = posixpath.normpath(posixpath.join(folder, path))
        pages = {source: name for name, source in SOURCES.items()} | {NOTEBOOK: "notebook.md"}
        pages |= {f"{PACKAGE}/{name}": f"reference/{name}.md" for name in _folders()}
        if not (ROOT / wanted).exists():
            _log.warning("%s links to %s, which does not exist", SOURCES.get(here, here), target)
        name = pages.get(wanted) or (wanted.removeprefix("docs/") if wanted.startswith("docs/") else None)
        return name and posixpath.relpath(name, posixpath.dirname(here) or ".") + hash_ + anchor

    def outside(target: str) -> bool:
        return "://" in target or target.startswith("#")

    def link(found: re.Match[str]) -> str:
        if outside(found[2]):
            return found[0]
        target = place(found[2])
        return f"[{found[1]}]({target})" if target else found[1]

    def picture(found: re.Match[str]) -> str:
        return found[0] if outside(found[2]) else f"{found[1]}{place(found[2])}{found[3]}"

    return _PICTURE.sub(picture, _LINK.sub(link, markdown)) if here != "notebook.md" else markdown


def on_page_content(content: str, **_: Any) -> str:
    """Turn TeX formulas into MathML, which browsers draw by themselves."""

    def mathml(found: re.Match[str]) -> str:
        display = "block" if found[1] == "div" else "inline"
        return convert(html.unescape(found[2]).strip(), display=display)

    return _FORMULA.sub(mathml, content)


def _folders() -> list[str]:
    """Names of the package's folders that hold modules."""
    found = {path.parent.name for path in ROOT.glob(f"{PACKAGE}/*/*.py") if path.stem != "__init__"}
    return [name for name in FIRST if name in found] + sorted(found - set(FIRST))


def _reference(folder: str) -> str:
    """The reference's page for a folder of the package: all its modules."""
    modules = [path for path in sorted((ROOT / PACKAGE / folder).rglob("*.py")) if path.stem != "__init__"]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in modules]
    return "\n\n".join([f"# {PACKAGE}.{folder}", *(f"::: {name}" for name in names)])


def _notebook_page(notebook: nbformat.NotebookNode) -> tuple[str, dict[str, bytes]]:
    """Markdown of a notebook, and its pictures by their place in the site."""
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            continue
        parts.append(_fence("python", cell.source))
        for place, output in enumerate(_outputs(cell)):
            if isinstance(output, str):
                parts.append(f'<div class="notebook-output" markdown>\n\n{_fence("text", output)}\n\n</div>')
            else:
                suffix, data = output
                name = f"images/notebook-{number}-{place}.{suffix}"
                pictures[name] = data
                parts.append(f"![picture made by the code above]({name})")
    return "\n\n".join(parts) + "\n", pictures


def _outputs(cell: nbformat.NotebookNode) -> Iterator[str | tuple[str, bytes]]:
    """A cell's outputs: text, or a picture's suffix and bytes."""
    for output in cell.outputs:
        if output.output_type == "stream":
            yield output.text.rstrip()
            continue
        kind = next((kind for kind in _IMAGES if kind in output.data), None)
        if kind:
            yield _IMAGES[kind], base64.b64decode(output.data[kind])
        elif "text/plain" in output.data:
            yield output.data["text/plain"]


def _fence(language: str, text: str) -> str:
    return f"```{language}\n{text}\n```"
