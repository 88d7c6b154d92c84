"""What MkDocs does beside Markdown: the reference's pages, the notebook's page, and formulas as MathML.

mkdocs.yml names this file. Nothing here needs the network, neither at build time nor in a reader's browser.
"""

import base64
import html
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

PACKAGE = "n2s_dist"
NOTEBOOK = "notebook.ipynb"
# What readers look for comes first; folders that are not named here follow in alphabetical order.
FIRST = ("inference", "noise", "models", "losses", "metrics", "images", "config")
_IMAGES = {"image/png": "png", "image/jpeg": "jpg"}
_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


def on_config(config: MkDocsConfig) -> None:
    """Append the reference to the navigation: a page for each folder of the package."""
    pages = [{name: f"reference/{name}.md"} for name in _folders(config)]
    assert config.nav is not None
    config.nav.append({"Reference": pages})


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the pages that are made here: the reference's and the notebook's, with the notebook's pictures."""
    root = Path(config.config_file_path).parent
    for name in _folders(config):
        modules = sorted((root / PACKAGE / name).rglob("*.py"))
        dotted = [".".join(path.relative_to(root).with_suffix("").parts) for path in modules if path.stem != "__init__"]
        text = "\n".join([f"# n2s_dist.{name}\n", *(f"::: {module}" for module in dotted)])
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    notebook = nbformat.read(Path(config.docs_dir) / NOTEBOOK, as_version=4)
    text, pictures = _notebook_page(notebook)
    files.append(File.generated(config, Path(NOTEBOOK).with_suffix(".md").as_posix(), content=text))
    for name, data in pictures.items():
        files.append(File.generated(config, name, content=data))


def on_page_content(content: str, **_: Any) -> str:
    """Turn TeX formulas into MathML, which browsers draw by themselves."""

    def mathml(found: re.Match[str]) -> str:
        display = "block" if found[1] == "div" else "inline"
        return convert(html.unescape(found[2]).strip(), display=display)

    return _FORMULA.sub(mathml, content)


def _folders(config: MkDocsConfig) -> list[str]:
    """Names of the package's folders that hold modules."""
    package = Path(config.config_file_path).parent / PACKAGE
    found = {path.parent.name for path in package.glob("*/*.py") if path.stem != "__init__"}
    return [name for name in FIRST if name in found] + sorted(found - set(FIRST))


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
            yield _ANSI.sub("", output.text).rstrip()
            continue
        kind = next((kind for kind in _IMAGES if kind in output.data), None)
        if kind:
            yield _IMAGES[kind], base64.b64decode(output.data[kind])
        elif "text/plain" in output.data:
            yield output.data["text/plain"]


def _fence(language: str, text: str) -> str:
    return f"```{language}\n{text}\n```"
