"""The page: offline, complete, escaped, tolerant of what is missing."""

import base64
import gzip
import hashlib
import os
import pickle
import re
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
from qsmflow.reports.viewer import build_motion_slider, build_viewer, read_viewer

RECORD = {"stage": "Dipole inversion", "algorithm": "TKD <script>", "parameters": {"Threshold": 0.19}}
SECTIONS = (
    "Summary",
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
        self.scripts = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append(tag)
        self.loads += [value for name, value in attrs if name in LOADING]
        self.loads += [attributes["href"]] if tag == "link" else []
        self.links += [attributes["href"]] if tag == "a" else []
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.alts += [attributes.get("alt")] if tag == "img" else []
        self.scripts += [attributes.get("type")] if tag == "script" else []

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
    volumes = {"susceptibility": values, "magnitude": np.abs(values)}
    fragments = {
        "viewer": build_viewer(volumes, np.eye(4), mask=values > -9),
        "motionslider": build_motion_slider(values, 0.9 * values, np.eye(4), mask=values > -9),
    }
    for kind, fragment in fragments.items():
        (figures / f"sub-{subject}{labels}_desc-{kind}_MEGRE.html").write_text(fragment)


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
    assert page.scripts == ["application/json", None]
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
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert "<b>fit" not in text
    assert "2 steps failed" in text
    errors = text[text.index('id="errors"') : text.index('id="methods"')]
    assert errors.count("<details") == 2


def test_subject_without_anything_still_gets_a_page(tmp_path):
    text = build_report(tmp_path, subject="02", run_id="x", errors=[{"traceback": "boom"}]).read_text()
    assert "No susceptibility map was drawn" in text
    assert "boom" in text
    assert "No methods text" in text


def test_hostile_label_is_text(tmp_path):
    text = build_report(tmp_path, subject="<script>", run_id="x").read_text()
    assert Page(text).scripts == [None]
    assert text.count("<script>") == 1
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
    first = page.headings[page.headings.index("Summary") + 1 : page.headings.index("Acquisition and mask")]
    assert sorted(first) == sorted(
        [
            "without session, acquisition or run label",
            "acquisition hires",
            "acquisition hires, run 2",
            "session b",
        ]
    )


def test_folders_above_the_output_name_no_series(tmp_path):
    out_dir = tmp_path / "ses-9" / "run-3_acq-x" / "out"
    fill(out_dir, tmp_path, kinds=("susceptibility",))
    page = build_report(out_dir, subject="01", run_id="x").read_text("utf-8")
    assert not re.search(r"(run|session|acquisition) *<?[^>]*>?(3|9|x)\b", page)
    assert "data:image/svg+xml" in page


def test_no_script_but_the_pages_own_may_run_and_nothing_may_be_fetched(out_dir):
    text = build_report(out_dir, subject="01", run_id="x").read_text()
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)[1].replace(
        "&#39;", "'"
    )
    assert text.index("http-equiv") < text.index("<style")
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    script = re.search(r"<script>(.*?)</script>", text, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert rules["script-src"] == f"'sha256-{digest}'"
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"


def test_sections_of_other_fragments_appear_with_them_only(out_dir):
    titles = {
        "quality": "Image quality",
        "comparison": "Comparison with the reference scan",
        "regions": "Regions",
    }
    for kind in ("comparison", "regions"):
        next(out_dir.glob(f"sub-01/figures/*_desc-{kind}_*.svg")).unlink()
    before = Page(build_report(out_dir, subject="01", run_id="x").read_text()).headings
    assert not set(titles.values()) & set(before)
    for kind in titles:
        (out_dir / f"sub-01/figures/sub-01_desc-{kind}_MEGRE.html").write_text(f"<p>about {kind}</p>")
    text = build_report(out_dir, subject="01", run_id="x").read_text()
    assert set(titles.values()) <= set(Page(text).headings)
    assert all(f"<p>about {kind}</p>" in text for kind in titles)


def test_methods_can_be_copied_in_three_formats(out_dir):
    text = build_report(out_dir, subject="01", run_id="x").read_text()
    page = Page(text)
    assert set(re.findall(r'data-copies="([^"]*)"', text)) <= set(page.ids)
    assert text.count("data-copies=") == 3
    assert "Inverted [1]." in text[text.index('id="methods-markdown"') :]
    assert "@article{shmueli2009" in text[text.index('id="methods-bibtex"') :]


def test_every_series_can_be_rated(tmp_path):
    for labels in ("_acq-a", "_acq-b"):
        fill(tmp_path, tmp_path, labels=labels, kinds=("susceptibility",))
    text = build_report(tmp_path, subject="01", run_id="x").read_text()
    assert re.findall(r'data-series="([^"]*)"', text) == ["acquisition a", "acquisition b"]
    bare = build_report(tmp_path, subject="02", run_id="x").read_text()
    assert re.findall(r'data-series="([^"]*)"', bare) == ["whole subject"]


def test_a_full_page_keeps_further_figures_beside_it(out_dir, monkeypatch):
    monkeypatch.setattr(assemble, "LARGEST_PAGE", 1)
    monkeypatch.setattr(assemble, "VIEWERS", 5_000)
    text = build_report(out_dir, subject="01", run_id="x").read_text()
    assert text.count("kept beside this page") == len(FIGURES)
    assert "move both together" in text
    assert "img-src data: &#39;self&#39; file:" in text
    for load in Page(text).loads:
        assert load == "data:," or (out_dir / load).is_file()


def test_susceptibility_has_its_place_before_other_figures(out_dir, monkeypatch):
    figure = next(out_dir.glob("sub-01/figures/*_desc-susceptibility_*.svg"))
    fragments = sum(path.stat().st_size for path in out_dir.glob("sub-01/figures/*.html"))
    monkeypatch.setattr(assemble, "VIEWERS", 1.0)
    monkeypatch.setattr(assemble, "LARGEST_PAGE", fragments + 2 * figure.stat().st_size)
    text = build_report(out_dir, subject="01", run_id="x").read_text()
    shown = re.search(r"<code>[^<]*_desc-susceptibility_[^<]*</code>\s*(.*)", text)[1]
    assert "beside this page" not in shown
    assert 0 < text.count("kept beside this page") < len(FIGURES)


def test_viewers_of_many_series_share_the_page(tmp_path, monkeypatch):
    for labels in ("_acq-a", "_acq-b", "_acq-c"):
        fill(tmp_path, tmp_path, labels=labels, kinds=())
    monkeypatch.setattr(assemble, "LARGEST_PAGE", 15_000)
    monkeypatch.setattr(assemble, "VIEWERS", 0.5)
    text = build_report(tmp_path, subject="01", run_id="x").read_text()
    viewers = re.findall(r'class="viewer-data">.*?</script>', text, re.DOTALL)
    assert len(viewers) == 3
    assert all(len(found) < 2_600 for found in viewers)
    whole = (tmp_path / "sub-01/figures/sub-01_acq-a_desc-viewer_MEGRE.html").read_text()
    page = read_viewer(text)[0].image
    assert np.diag(page.affine)[0] > np.diag(read_viewer(whole)[0].image.affine)[0]


def test_crash_files_are_read_whatever_they_hold(tmp_path):
    (tmp_path / "crash-1.txt").write_text("not as nipype writes it")
    (tmp_path / "crash-2.txt").write_text("")
    (tmp_path / "crash-3.pklz").write_bytes(b"\x00")
    errors = collect_errors(tmp_path)
    assert [error["file"] for error in errors] == ["crash-1.txt", "crash-2.txt", "crash-3.pklz"]
    assert "not as nipype writes it" in errors[0]["traceback"]
    assert collect_errors(tmp_path / "missing") == ()


class Bomb:
    """Leaves a trace when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("unpickled",)


def test_a_pickle_is_named_and_not_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "crash-1.pklz").write_bytes(gzip.compress(pickle.dumps(Bomb())))
    (tmp_path / "crash-2.txt").mkdir()
    (error,) = collect_errors(tmp_path)
    assert (error["file"], error["traceback"]) == (
        "crash-1.pklz",
        "This crash file is no text, and is not opened.",
    )
    assert not (tmp_path / "unpickled").exists()


def test_damaged_figures_are_found_and_left_out(out_dir):
    folder = out_dir / "sub-01"
    good = assemble.damaged_figures(folder)
    paths = [
        next(folder.glob(f"figures/*_desc-{desc}_*")) for desc in ("susceptibility", "summary", "viewer")
    ]
    paths[0].write_bytes(b"\xff")
    paths[1].unlink()
    paths[1].symlink_to("nowhere")
    paths[2].write_text(paths[2].read_text()[:300])
    damaged = assemble.damaged_figures(folder)
    assert not good
    assert list(damaged) == sorted(paths)
    text = build_report(out_dir, subject="01", run_id="x", without=damaged).read_text()
    assert "No susceptibility map was drawn" in text
    assert len(Page(text).alts) == len(FIGURES) - 1


def test_data_of_a_viewer_that_cannot_be_made_smaller_is_left_out(out_dir, monkeypatch):
    path = next(out_dir.glob("sub-01/figures/*_desc-viewer_*.html"))
    path.write_text(re.sub(r'"data": ?"[^"]*"', '"data":"eA=="', path.read_text()))
    monkeypatch.setattr(assemble, "VIEWERS", 0.0)
    assert "slice viewer is damaged" in build_report(out_dir, subject="01", run_id="x").read_text()


def test_a_methods_text_that_is_no_text_is_left_out_with_a_note(out_dir):
    (out_dir / "logs" / "CITATION.md").write_bytes(b"\xff")
    text = build_report(out_dir, subject="01", run_id="x").read_text()
    assert "logs/CITATION.md was left out: it is no text in UTF-8; remove it and run again" in text
    assert "No methods text" in text


def test_blank_map_is_reported_by_the_interface(tmp_path):
    blank = tmp_path / "blank.nii"
    nib.save(nib.Nifti1Image(np.zeros((6, 6, 6, 1), np.float32), np.eye(4)), blank)
    found = PlotVolumes(in_files=[str(blank)], kind="susceptibility").run(cwd=tmp_path).outputs
    assert found.out_warnings == ["Magnetic susceptibility: blank image, every voxel is 0"]
