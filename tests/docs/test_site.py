"""The site that scripts/build_docs.sh made: whole, complete, and nothing of it comes from elsewhere."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from qsmflow.cli.exit_codes import ExitCode

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
SITE = DOCS / "_build"
#: Attributes of HTML that make a browser load something, by tag.
LOADING = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src", "video": "src"}


class Loaded(HTMLParser):
    """Addresses that a page loads by itself; links that wait for a click are none."""

    def __init__(self):
        super().__init__()
        self.found: list[str] = []
        self.equations = 0

    def handle_starttag(self, tag, attributes):
        self.equations += tag == "math"
        self.found += [value for name, value in attributes if LOADING.get(tag) == name and value]


@pytest.fixture(scope="module")
def pages() -> dict[Path, Loaded]:
    """What each page of the site loads."""
    if not (SITE / "index.html").is_file():
        pytest.skip(f"no site at {SITE}; scripts/build_docs.sh makes it")
    found = {}
    for path in SITE.rglob("*.html"):
        found[path] = Loaded()
        found[path].feed(path.read_text("utf-8"))
    return found


def test_nothing_is_loaded_from_elsewhere(pages):
    elsewhere = re.compile(r"(?:[a-z]+:)?//")
    for path, page in pages.items():
        assert page.found, path
        assert not [address for address in page.found if elsewhere.match(address)], path
    for sheet in SITE.rglob("*.css"):
        assert not re.findall(r"(?:url\(|@import)\s*['\"]?(?:https?:)?//[^)\s]+", sheet.read_text("utf-8")), (
            sheet
        )


def test_what_is_loaded_is_there(pages):
    for path, page in pages.items():
        for address in page.found:
            if not address.startswith(("#", "data:")):
                assert (path.parent / address.split("?")[0].split("#")[0]).is_file(), (path, address)


def test_equations_are_mathml(pages):
    methods = SITE / "methods.html"
    assert pages[methods].equations > 50
    assert "$" not in re.sub(r"<(script|pre)\b.*?</\1>", "", methods.read_text("utf-8"), flags=re.DOTALL)


def test_every_module_of_the_core_is_in_the_reference():
    listed = {
        name
        for page in (DOCS / "api").glob("*.rst")
        for name in re.findall(r"automodule:: (\S+)", page.read_text("utf-8"))
    }
    core = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in (ROOT / "qsmflow" / "core").rglob("*.py")
        if path.name != "__init__.py"
    }
    assert core <= listed


def test_troubleshooting_knows_every_exit_code():
    first_columns = re.findall(
        r"^\| ([\d, ]+) \|", (DOCS / "troubleshooting.md").read_text("utf-8"), re.MULTILINE
    )
    codes = {int(code) for column in first_columns for code in column.split(", ")}
    assert codes - {130, 143} == {int(code) for code in ExitCode}


def test_troubleshooting_quotes_what_the_code_says():
    quoted = re.findall(r"^\| `([^`]+)` \|", (DOCS / "troubleshooting.md").read_text("utf-8"), re.MULTILINE)
    assert len(quoted) > 15
    # A message may run over several literals, one a line.
    source = "".join(
        re.sub(r"\"\s+f?\"", "", path.read_text("utf-8")) for path in (ROOT / "qsmflow").rglob("*.py")
    )
    assert not [message for message in quoted if message not in source]
