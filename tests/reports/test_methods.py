"""Citations are numbered in order, listed once and lead somewhere."""

import pytest
from pybtex.database import parse_file, parse_string

from qsmflow.reports.methods import BIBLIOGRAPHY, cite, render_methods, write_citation

TEXT = "Fitted [@liu2013nonlinear; @kressler2010], removed [@liu2011pdf], fitted again [@kressler2010]."


def test_numbers_follow_first_appearance():
    citation = cite(TEXT)
    assert citation.markdown.startswith("Fitted [1, 2], removed [3], fitted again [2].")
    assert citation.keys == ("liu2013nonlinear", "kressler2010", "liu2011pdf")
    numbered = [line for line in citation.markdown.splitlines() if line[:2] in ("1.", "2.", "3.", "4.")]
    assert [line[:2] for line in numbered] == ["1.", "2.", "3."]
    assert "[doi:10.1109/TMI.2009.2023787](https://doi.org/10.1109/TMI.2009.2023787)" in numbered[1]


def test_bibtex_holds_only_what_is_cited():
    entries = parse_string(cite(TEXT).bibtex, "bibtex").entries
    assert list(entries) == ["liu2013nonlinear", "kressler2010", "liu2011pdf"]


def test_html_numbers_lead_to_their_references():
    html = cite(TEXT).html
    for number in (1, 2, 3):
        assert f'<a href="#reference-{number}">{number}</a>' in html
        assert html.count(f'id="reference-{number}"') == 1


def test_code_and_html_in_the_text_stay_text():
    html = render_methods(cite("See `a[1]` <script>alert(1)</script> [@kressler2010].").markdown)
    assert "<code>a[1]</code>" in html
    assert "<script>" not in html


def test_unknown_key_is_named():
    with pytest.raises(ValueError, match="nobody1999"):
        cite("As ever [@nobody1999].")


def test_no_citation_no_list():
    citation = cite("Plain.")
    assert (citation.markdown, citation.bibtex) == ("Plain.\n", "")


def test_heading_levels_move_down():
    assert render_methods("# A\n\n## B", first_heading=3) == "<h3>A</h3>\n<h4>B</h4>\n"


def test_files_are_written(tmp_path):
    files = write_citation(TEXT, tmp_path / "logs")
    assert [file.name for file in files] == ["CITATION.md", "CITATION.html", "CITATION.bib"]
    assert all(file.stat().st_size > 100 for file in files)


@pytest.mark.parametrize("key", list(parse_file(str(BIBLIOGRAPHY)).entries))
def test_every_entry_is_complete_and_printable(key):
    fields = parse_file(str(BIBLIOGRAPHY)).entries[key].fields
    assert fields["title"]
    assert "doi" in fields or "url" in fields
    line = cite(f"[@{key}]").markdown.splitlines()[-1]
    assert line.startswith("1. ")
    assert "\\" not in line
    assert "{" not in line
