"""Tutorials do what they say: their blocks run in order, and print what is printed beneath them."""

import doctest
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
TUTORIALS = ROOT / "docs" / "tutorials"
#: What is printed may leave parts out, as in doctests, and is compared without regard to the width of gaps.
LENIENT = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Block:
    """Code of a page, the line it begins at, and what the page says that it prints, if it does."""

    language: str
    code: str
    line: int
    printed: str | None


def blocks_of(page: Path) -> Iterator[Block]:
    """Blocks of Python and of bash; a block of text right after one holds what it prints."""
    fences = [token for token in MarkdownIt().parse(page.read_text()) if token.type == "fence"]
    for token, following in zip(fences, [*fences[1:], None], strict=True):
        if token.info in ("python", "bash"):
            follows = following is not None and following.info == "text" and following.map[0] == token.map[1]
            yield Block(token.info, token.content, token.map[0] + 1, following.content if follows else None)


def run_page(page: Path, folder: Path) -> None:
    """Run all blocks of a page in a folder, those of Python in one namespace."""
    namespace: dict = {"__name__": page.stem}
    for block in blocks_of(page):
        if block.language == "python":
            found = StringIO()
            # Empty lines make line numbers of a traceback those of the page.
            code = compile("\n" * block.line + block.code, str(page), "exec")
            with redirect_stdout(found):
                exec(code, namespace)
            printed = found.getvalue()
        else:
            printed = run_bash(block, folder, where=f"{page}:{block.line}")
        if block.printed is not None and not doctest.OutputChecker().check_output(
            block.printed, printed, LENIENT
        ):
            pytest.fail(f"{page}:{block.line} says\n{block.printed}\nbut prints\n{printed}")


def run_bash(block: Block, folder: Path, *, where: str) -> str:
    """What the commands of a block print; they find the programs of this environment."""
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    ended = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.code],
        cwd=folder,
        env={**os.environ, "PATH": programs, "LC_ALL": "C"},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, f"{where} ends with {ended.returncode}:\n{ended.stderr}"
    return ended.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where a reader who has cloned the repository stands."""
    folder = tmp_path_factory.mktemp("clone")
    (folder / "bids_examples").symlink_to(ROOT / "bids_examples", target_is_directory=True)
    return folder


@pytest.fixture(scope="module")
def first_run(folder) -> Path:
    """The same place after the first tutorial."""
    run_page(TUTORIALS / "first_run.md", folder)
    return folder


@pytest.mark.parametrize("name", ["maps", "compare", "group"])
def test_tutorial_on_the_first_run(first_run, monkeypatch, name):
    monkeypatch.chdir(first_run)
    run_page(TUTORIALS / f"{name}.md", first_run)


def test_tutorial_that_stands_alone(folder, monkeypatch):
    monkeypatch.chdir(folder)
    run_page(TUTORIALS / "core.md", folder)


def test_every_tutorial_is_run():
    pages = {page.stem for page in TUTORIALS.glob("*.md")} - {"index"}
    assert pages == {"first_run", "maps", "compare", "group", "core"}
