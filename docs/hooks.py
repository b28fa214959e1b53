"""Hooks of mkdocs: pages of the site that are files elsewhere in the repository, and all knobs.

README.md is the front page, CONTRIBUTING.md and the pages of experiments/ are pages of the site,
and knobs.md is made of `clickflax/config/default.py`. Links to other files lead to the repository.
"""

import pathlib
import posixpath
import re

ROOT = pathlib.Path(__file__).resolve().parents[1]
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
FENCE = re.compile(r"(^```.*?^```$)", re.DOTALL | re.MULTILINE)
KNOB = re.compile(r"    c\.([\w.]+) = (.+?)(?:  # (.*))?")


def moved_pages() -> dict[str, str]:
    """Pages and pictures outside docs/: path in the repository -> path in the site."""
    moved = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md"}
    for pattern in ("*.md", "*.svg", "*.png"):
        for path in sorted((ROOT / "experiments").glob(pattern)):
            moved[f"experiments/{path.name}"] = f"experiments/{path.name}"
    return moved


def site_path(path: str) -> str | None:
    """Path in the site of a file of the repository; None if the site does not have it."""
    if path in moved_pages():
        return moved_pages()[path]
    return path.removeprefix("docs/") if path.startswith("docs/") else None


def site_link(page: str, link: str) -> str | None:
    """Link in the site for a link of a page, which is named by its path in the repository.

    Returns None if the link leads to a file that is not in the site.
    """
    if "://" in link or link.startswith("#"):
        return link
    path, hash_sign, anchor = link.partition("#")
    target = posixpath.normpath(posixpath.join(posixpath.dirname(page), path))
    there, here = site_path(target), site_path(page)
    if there is None or here is None:
        return None
    return posixpath.relpath(there, posixpath.dirname(here) or ".") + hash_sign + anchor


def knobs_page() -> str:
    """The page of all knobs, with the comments of `default()`."""
    lines = (ROOT / "clickflax" / "config" / "default.py").read_text("utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("def default("))
    rows: dict[str, list[str]] = {}
    for line in lines[start:]:
        if line == "    return c":
            break
        match = KNOB.fullmatch(line)
        if match and "ConfigDict()" not in match[2]:
            group = match[1].rpartition(".")[0]
            value, comment = (text.replace("|", "\\|") for text in (match[2], match[3] or ""))
            row = f"| `config.{match[1]}` | `{value}` | {comment} |"
            rows.setdefault(group, []).append(row)
    parts = ["# Knobs", "Every knob with its default, from `clickflax/config/default.py`."]
    for group, body in rows.items():
        parts.append(f"## `config.{group}`" if group else "## `config`")
        parts.append("\n".join(["| knob | default | meaning |", "| --- | --- | --- |", *body]))
    return "\n\n".join(parts) + "\n"


def on_files(files, config):
    """Adds the pages and pictures that are outside docs/."""
    from mkdocs.structure.files import File

    for source, path in moved_pages().items():
        files.append(File.generated(config, path, abs_src_path=str(ROOT / source)))
    files.append(File.generated(config, "knobs.md", content=knobs_page()))
    return files


def on_page_markdown(markdown, page, config, files):
    """Rewrites links between files of the repository to links of the site."""
    sources = {path: source for source, path in moved_pages().items()}
    source = sources.get(page.file.src_uri, f"docs/{page.file.src_uri}")

    def rewrite(match: re.Match) -> str:
        picture, text, link = match.groups()
        there = site_link(source, link)
        if there is None and config.repo_url:
            path = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
            there = f"{config.repo_url.rstrip('/')}/blob/main/{path}"
        return f"{picture}[{text}]({there})" if there else text

    pieces = FENCE.split(markdown)
    return "".join(
        piece if piece.startswith("```") else LINK.sub(rewrite, piece) for piece in pieces
    )
