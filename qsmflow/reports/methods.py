"""The methods text with numbered references, as Markdown, HTML and BibTeX."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType

from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup, escape
from pybtex.backends.plaintext import Backend
from pybtex.database import BibliographyData, Entry, parse_file
from pybtex.style.formatting.unsrt import Style

from qsmflow.bids.files import write_text

BIBLIOGRAPHY = Path(__file__).parents[1] / "data" / "boilerplate.bib"
REFERENCES_HEADING = "References"

_KEY = r"@[\w:.+-]*\w"
_CITATION = re.compile(rf"\[({_KEY}(?:\s*[;,]\s*{_KEY})*)\]")
_NUMBERS = re.compile(r"\[(\d+(?:, \d+)*)\]")
_DOI_LINK = re.compile(r"doi:(10\.\S+?)\.?$", re.MULTILINE)

_PAGE = Markup("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Methods</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 1rem/1.6 system-ui, sans-serif; max-width: 44rem; margin: 2rem auto; padding: 0 1rem; }}
</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
""")


@dataclass(frozen=True)
class Citation:
    """A methods text whose citations are numbered in the order they appear.

    Attributes
    ----------
    markdown : str
        Text with [1], [2] and a list of references.
    html : str
        The same as a page that needs nothing else.
    bibtex : str
        The entries that are cited, in the same order.
    keys : tuple of str
        Their keys.
    """

    markdown: str
    html: str
    bibtex: str
    keys: tuple[str, ...]


@cache
def read_bibliography(path: Path = BIBLIOGRAPHY) -> Mapping[str, Entry]:
    """Entries of a BibTeX file by their keys; a file is read once.

    Parameters
    ----------
    path : Path
        BibTeX file.

    Returns
    -------
    mapping of str to pybtex.database.Entry

    Examples
    --------
    >>> read_bibliography()["kressler2010"].fields["year"]
    '2010'
    """
    return MappingProxyType(parse_file(str(path)).entries)


def cite(text: str, *, bibliography: Path = BIBLIOGRAPHY) -> Citation:
    """Number the citations of a methods text and list what they refer to.

    Parameters
    ----------
    text : str
        Markdown with citations such as ``[@liu2011pdf]`` or ``[@liu2011medi; @liu2012medi]``.
    bibliography : Path
        BibTeX file the keys are looked up in.

    Returns
    -------
    Citation
        Markdown, HTML and BibTeX.

    Raises
    ------
    ValueError
        If a key is not in the bibliography.

    Examples
    --------
    >>> found = cite("Fitted [@kressler2010], inverted [@shmueli2009; @kressler2010].")
    >>> found.markdown.splitlines()[0], found.keys
    ('Fitted [1], inverted [2, 1].', ('kressler2010', 'shmueli2009'))
    """
    entries = read_bibliography(bibliography)
    groups = [re.split(r"\s*[;,]\s*", group) for group in _CITATION.findall(text)]
    keys = tuple(dict.fromkeys(key.removeprefix("@") for group in groups for key in group))
    if unknown := [key for key in keys if key not in entries]:
        raise ValueError(f"{Path(bibliography).name} has no entry for: {', '.join(unknown)}")
    used = BibliographyData(entries={key: entries[key] for key in keys})
    markdown = _number(text.strip(), keys) + "\n" + _reference_list(used, keys)
    page = _PAGE.format(body=render_methods(markdown))
    return Citation(markdown, str(page), used.to_string("bibtex") if keys else "", keys)


def write_citation(text: str, folder: Path, *, bibliography: Path = BIBLIOGRAPHY) -> tuple[Path, ...]:
    """Write CITATION.md, CITATION.html and CITATION.bib.

    Parameters
    ----------
    text : str
        Markdown as for :func:`cite`.
    folder : Path
        Where to; made if it is missing.
    bibliography : Path
        BibTeX file the keys are looked up in.

    Returns
    -------
    tuple of Path
        The three files.

    Raises
    ------
    ValueError
        If a key is not in the bibliography.
    """
    citation = cite(text, bibliography=bibliography)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    contents = {"md": citation.markdown, "html": citation.html, "bib": citation.bibtex}
    for extension, content in contents.items():
        write_text(folder / f"CITATION.{extension}", content)
    return tuple(folder / f"CITATION.{extension}" for extension in contents)


def render_methods(markdown: str, *, first_heading: int = 1) -> Markup:
    """Turn a numbered methods text into HTML whose numbers lead to their references.

    Parameters
    ----------
    markdown : str
        As :func:`cite` makes it. HTML in it is shown as text.
    first_heading : int
        Level that a top heading gets, so that the text fits into a page with headings of its own.

    Returns
    -------
    Markup
        HTML fragment.

    Examples
    --------
    >>> print(render_methods("As in [1] <b>.\\n\\n# References\\n\\n1. Someone."))
    <p>As in [<a href="#reference-1">1</a>] &lt;b&gt;.</p>
    <h1>References</h1>
    <ol>
    <li id="reference-1">Someone.</li>
    </ol>
    <BLANKLINE>
    """
    parser = MarkdownIt("commonmark", {"html": False})
    tokens = parser.parse(markdown)
    listed = 0
    in_references = False
    for position, token in enumerate(tokens):
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(int(token.tag[1]) + first_heading - 1, 6)}"
        if token.type == "heading_open":
            in_references = tokens[position + 1].content == REFERENCES_HEADING
        elif token.type == "list_item_open" and in_references:
            listed += 1
            token.attrSet("id", f"reference-{listed}")
        elif token.type == "inline" and not in_references:
            token.children = [_link_numbers(child) for child in token.children]
    return Markup(parser.renderer.render(tokens, parser.options, {}))


def _number(text: str, keys: tuple[str, ...]) -> str:
    """Replace every group of keys by the numbers of their references."""

    def numbers(match: re.Match) -> str:
        group = re.findall(_KEY, match.group(1))
        return f"[{', '.join(str(keys.index(key.removeprefix('@')) + 1) for key in group)}]"

    return _CITATION.sub(numbers, text)


def _reference_list(used: BibliographyData, keys: tuple[str, ...]) -> str:
    """The references as a numbered Markdown list under a heading of its own."""
    if not keys:
        return ""
    lines, plain_text = [f"\n# {REFERENCES_HEADING}\n"], Backend()
    for number, entry in enumerate(Style().format_bibliography(used, keys), start=1):
        plain = _DOI_LINK.sub(r"[doi:\1](https://doi.org/\1).", entry.text.render(plain_text))
        plain = " ".join(plain.split()).replace(", and others.", ", et al.")
        lines.append(f"{number}. {plain}")
    return "\n".join(lines) + "\n"


def _link_numbers(token: Token) -> Token:
    """Make [1, 2] in running text lead to the references; code and links stay as they are."""
    if token.type != "text":
        return token

    def link(match: re.Match) -> str:
        links = (f'<a href="#reference-{number}">{number}</a>' for number in match.group(1).split(", "))
        return f"[{', '.join(links)}]"

    return Token("html_inline", "", 0, content=_NUMBERS.sub(link, str(escape(token.content))))
