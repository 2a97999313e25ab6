"""The page: offline, complete, escaped, tolerant of what is missing."""

from html.parser import HTMLParser

import nibabel as nib
import numpy as np
import pytest

from qsmflow.interfaces.reports import PlotVolumes, SummaryReportlet
from qsmflow.reports import assemble
from qsmflow.reports.assemble import build_report, collect_errors
from qsmflow.reports.figures import FIGURES
from qsmflow.reports.methods import write_citation
from qsmflow.reports.summary import FRAGMENTS

RECORD = {"stage": "Dipole inversion", "algorithm": "TKD <script>", "parameters": {"Threshold": 0.19}}
SECTIONS = (
    "Overview",
    "Acquisition and mask",
    "Field",
    "Motion and data residual",
    "Relaxation",
    "Solvers",
    "Reporting list",
)
LOADING = {"src", "srcset", "data", "poster", "background", "action"}


class Page(HTMLParser):
    """What the tests ask of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.loads, self.links, self.ids, self.alts, self.headings = [], [], [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append(tag)
        self.loads += [value for name, value in attrs if name in LOADING]
        self.loads += [attributes["href"]] if tag == "link" else []
        self.links += [attributes["href"]] if tag == "a" else []
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.alts += [attributes.get("alt")] if tag == "img" else []

    def handle_data(self, data):
        if self.tags and self.tags[-1] in ("h1", "h2", "h3") and data.strip():
            self.headings.append(data.strip())


def fill(out_dir, tmp_path, *, subject="01", labels="", kinds=tuple(FIGURES)) -> None:
    """Write the reportlets of a series with the interfaces that write them."""
    figures = out_dir / f"sub-{subject}" / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    volume = tmp_path / "volume.nii"
    values = np.random.default_rng(0).normal(size=(12, 14, 10)).astype(np.float32)
    nib.save(nib.Nifti1Image(values, np.eye(4)), volume)
    for kind in kinds:
        files = [str(volume)] * max(len(FIGURES[kind].row_labels), 1)
        found = PlotVolumes(in_files=files, kind=kind).run(cwd=tmp_path).outputs
        target = figures / f"sub-{subject}{labels}_desc-{kind}_{FIGURES[kind].suffix}.svg"
        target.write_bytes((tmp_path / found.out_report).read_bytes())
    for kind in FRAGMENTS:
        found = SummaryReportlet(
            kind=kind, acquisition={"EchoTimes": [0.004]}, records=[RECORD], warnings=["a < b"]
        ).run(cwd=tmp_path)
        target = figures / f"sub-{subject}{labels}_desc-{kind}_MEGRE.html"
        target.write_text((tmp_path / found.outputs.out_report).read_text())


@pytest.fixture
def out_dir(tmp_path):
    """A derivative data set with one series and a methods text."""
    folder = tmp_path / "sub-99" / "out"  # a path that looks like another subject's must not confuse
    fill(folder, tmp_path)
    write_citation("Inverted [@shmueli2009].", folder / "logs")
    return folder


def test_page_loads_nothing_and_is_complete(out_dir):
    path = build_report(out_dir, subject="01", run_id="run-1", command_line="qsmflow in out participant")
    text = path.read_text()
    page = Page(text)
    assert path == out_dir.resolve() / "sub-01.html"
    assert page.loads
    assert all(load.startswith("data:") for load in page.loads)
    assert "@import" not in text
    assert "url(" not in text
    assert "script" not in page.tags
    assert [h for h in page.headings if h in SECTIONS] == list(SECTIONS)
    assert len(page.alts) == len(FIGURES)
    assert all(page.alts)
    assert {"errors", "methods", "about"} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    assert path.stat().st_size < 15_000_000
    for word in ("qsmflow in out participant", "run-1", "No step failed", "a &lt; b", "Shmueli"):
        assert word in text
    assert page.tags.count("h1") == 1


def test_external_links_are_only_references(out_dir):
    page = Page(build_report(out_dir, subject="01", run_id="x").read_text())
    outside = [link for link in page.links if not link.startswith("#")]
    assert outside
    assert all(link.startswith("https://doi.org/") for link in outside)


def test_errors_are_shown_as_text(out_dir):
    errors = [
        {"node": "<b>fit</b>", "file": "crash.txt", "traceback": "ValueError: <script>alert(1)</script>"},
        {"traceback": ""},
    ]
    text = build_report(out_dir, subject="01", run_id="<i>", errors=errors).read_text()
    assert "<script>" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert "<b>fit" not in text
    assert "2 steps failed" in text
    assert text.count("<details>") == 2


def test_subject_without_anything_still_gets_a_page(tmp_path):
    text = build_report(tmp_path, subject="02", run_id="x", errors=[{"traceback": "boom"}]).read_text()
    assert "No susceptibility map was drawn" in text
    assert "boom" in text
    assert "No methods text" in text


def test_hostile_label_is_text(tmp_path):
    text = build_report(tmp_path, subject="<script>", run_id="x").read_text()
    assert "<script>" not in text
    assert "sub-&lt;script&gt;" in text


def test_missing_figures_are_tolerated(tmp_path):
    fill(tmp_path, tmp_path, kinds=("susceptibility",))
    page = Page(build_report(tmp_path, subject="01", run_id="x").read_text())
    assert len(page.alts) == 1
    assert "Relaxation" not in page.headings


def test_every_series_is_shown_under_its_labels(tmp_path):
    for labels in ("", "_acq-hires", "_acq-hires_run-2", "_ses-b"):
        fill(tmp_path, tmp_path, labels=labels, kinds=("susceptibility",))
    page = Page(build_report(tmp_path, subject="01", run_id="x").read_text())
    assert len(page.alts) == 4
    overview = page.headings[
        page.headings.index("Overview") + 1 : page.headings.index("Acquisition and mask")
    ]
    assert sorted(overview) == sorted(
        [
            "without session, acquisition or run label",
            "acquisition hires",
            "acquisition hires, run 2",
            "session b",
        ]
    )


def test_a_full_page_keeps_further_figures_beside_it(out_dir, monkeypatch):
    monkeypatch.setattr(assemble, "LARGEST_PAGE", 0)
    text = build_report(out_dir, subject="01", run_id="x").read_text()
    assert text.count("kept beside this page") == len(FIGURES)
    for load in Page(text).loads:
        assert load == "data:," or (out_dir / load).is_file()


def test_crash_files_are_read_whatever_they_hold(tmp_path):
    (tmp_path / "crash-1.txt").write_text("not as nipype writes it")
    (tmp_path / "crash-2.txt").write_text("")
    (tmp_path / "crash-3.pklz").write_bytes(b"\x00")
    errors = collect_errors(tmp_path)
    assert [error["file"] for error in errors] == ["crash-1.txt", "crash-2.txt", "crash-3.pklz"]
    assert "not as nipype writes it" in errors[0]["traceback"]
    assert collect_errors(tmp_path / "missing") == ()


def test_blank_map_is_reported_by_the_interface(tmp_path):
    blank = tmp_path / "blank.nii"
    nib.save(nib.Nifti1Image(np.zeros((6, 6, 6, 1), np.float32), np.eye(4)), blank)
    found = PlotVolumes(in_files=[str(blank)], kind="susceptibility").run(cwd=tmp_path).outputs
    assert found.out_warnings == ["Magnetic susceptibility: blank image, every voxel is 0"]
