"""The group page: right numbers, honest marks, links that lead somewhere, nothing from outside."""

import re
from dataclasses import asdict
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from qsmflow.bids.findings import Finding
from qsmflow.reports.group import (
    LABELS,
    PUBLISHED,
    GroupTable,
    Links,
    Scale,
    Subject,
    build_group_page,
    describe,
    measure_panels,
    region_panels,
    score_pairs,
)
from qsmflow.train.experiments.published import MOTION_SIMULATED, MOTION_VOLUNTEERS

EVIL = "<script>alert('x')</script>"
LOADING = {"src", "srcset", "data", "poster", "background", "action"}


class Page(HTMLParser):
    """What the tests ask of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.loads, self.links, self.ids, self.headings = [], [], [], [], []
        self.dots = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append(tag)
        self.loads += [value for name, value in attrs if name in LOADING]
        self.loads += [attributes["href"]] if tag == "link" else []
        self.links += [attributes["href"]] if tag == "a" and "href" in attributes else []
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.dots += [attributes] if tag == "circle" else []

    def handle_data(self, data):
        if self.tags and self.tags[-1] in ("h1", "h2", "h3") and data.strip():
            self.headings.append(data.strip())


def rows(labels, *, subjects=("01", "02", "03"), acquisitions=("still", "motion"), **cells) -> pd.DataFrame:
    """Text rows of a table; a cell is a text or made from the numbers of subject and acquisition."""
    made = []
    for first, subject in enumerate(subjects):
        for second, acquisition in enumerate(acquisitions):
            row = dict.fromkeys(labels) | {
                "participant_id": f"sub-{subject}",
                "acquisition": acquisition,
                "series": f"sub-{subject}_acq-{acquisition}",
            }
            told = {key: cell(first, second) if callable(cell) else cell for key, cell in cells.items()}
            made.append(row | told)
    return pd.DataFrame(made, dtype="str")


@pytest.fixture
def iqms() -> GroupTable:
    """Two measures of three subjects in two acquisitions."""
    found = rows(LABELS["iqms"], snr=lambda s, a: f"{10 * s + a}", angle=lambda s, a: "n/a" if s else "7")
    columns = {"snr": {"LongName": "Signal over noise", "Units": "1"}, "angle": {"Units": "degree"}}
    return GroupTable(found.replace("n/a", None), columns)


def motion_table(*, corrected=(0, 1, 2), n=3) -> GroupTable:
    """Scores of scans against a reference, some with a corrected map."""
    subjects = [f"{subject:02d}" for subject in range(n)]
    shared = {"subjects": subjects, "acquisitions": ("motion",), "reference": "still", "rotation": "3"}
    before = rows(LABELS["motion"], **shared, map="uncorrected", rmse=lambda s, a: f"{0.02 + 0.01 * s}")
    after = rows(LABELS["motion"], **shared, map="corrected", rmse=lambda s, a: f"{0.01 + 0.02 * s}")
    found = pd.concat([before, after.iloc[list(corrected)]], ignore_index=True)
    return GroupTable(found, {"rmse": {"Units": "ppm"}})


def build(out_dir, *, subjects=("01", "02", "03"), **tables) -> str:
    subjects = [Subject(f"sub-{subject}", has_report=True, failed_steps=0) for subject in subjects]
    return build_group_page(out_dir, subjects=subjects, tables=tables).read_text()


def test_summary_is_that_of_the_textbooks():
    values = np.random.default_rng(0).normal(3, 2, 501)
    values[:3] = (40, -40, 12)
    found = describe(values)
    first, median, third = np.quantile(values, (0.25, 0.5, 0.75))
    assert found.quartiles == pytest.approx((first, median, third))
    assert found.fences == pytest.approx((first - 1.5 * (third - first), third + 1.5 * (third - first)))
    assert (found.mean, found.sd) == pytest.approx((values.mean(), values.std(ddof=1)))
    inside = values[np.abs(values - (first + third) / 2) <= 2 * (third - first)]
    assert found.whiskers == (inside.min(), inside.max())


def test_few_and_equal_values_are_no_outliers():
    for values in ([4.0], [1.0, 100.0], [1.0, 2.0, 100.0], [0.1] * 7):
        found = describe(values)
        assert found.whiskers == (min(values), max(values))
    assert np.isnan(describe([4.0]).sd)


@pytest.mark.parametrize("values", [[0.3], [0.0], [-5e6], [1e-7, 3e-7], [-0.31, 0.29], [0.1, 1e6]])
def test_scale_holds_what_it_was_made_of(values):
    scale = Scale.around(values)
    assert np.all(np.diff(scale.ticks) > 0)
    assert np.all((scale.percent(values) >= 2) & (scale.percent(values) <= 98))
    assert len(set(scale.labels)) == len(scale.ticks)


def test_panels_have_a_lane_for_each_acquisition_and_count_what_is_missing(iqms):
    snr, angle = measure_panels(iqms, LABELS["iqms"], links=Links({}))
    assert (snr["title"], snr["unit"]) == ("Signal over noise", "")
    assert (angle["title"], angle["unit"]) == ("Angle", "degree")
    assert [(row["label"], row["n"], row["median"]) for row in snr["rows"]] == [
        ("motion", "3", "11"),
        ("still", "3", "10"),
    ]
    assert [row["n"] for row in angle["rows"]] == ["1 (2 n/a)"] * 2


def test_outliers_are_rings_named_and_counted_once_for_their_participant(tmp_path):
    subjects = [f"{subject:02d}" for subject in range(9)]
    table = rows(
        LABELS["iqms"],
        subjects=subjects,
        acquisitions=("still",),
        snr=lambda s, a: "90" if s == 4 else str(s),
    )
    page = build(tmp_path, subjects=subjects, iqms=GroupTable(table, {}))
    rings = [dot for dot in Page(page).dots if dot.get("class") == "apart"]
    assert len(rings) == 1
    assert '<summary>1</summary><ul><li><a href="sub-04.html">sub-04_acq-still</a> 90</li>' in page
    overview = re.findall(r'>(sub-\d\d)</a></th><td data-label="Series">1</td><td [^>]+>(\d)</td>', page)
    assert overview == [(f"sub-{subject}", "1" if subject == "04" else "0") for subject in subjects]


def test_dots_lie_where_their_values_are_and_stay_there(iqms):
    links = Links({"sub-01": "sub-01.html"})
    first = measure_panels(iqms, LABELS["iqms"], links=links)[0]["rows"][1]
    across = [float(x) for x in re.findall(r'cx="([\d.]+)%"', first["dots"])]
    # 0, 10 and 20 on a scale from 0 to 25
    assert across == pytest.approx([2, 2 + 96 * 0.4, 2 + 96 * 0.8])
    assert first["dots"].count('href="sub-01.html" tabindex="-1"') == 1
    assert measure_panels(iqms, LABELS["iqms"], links=links)[0]["rows"][1]["dots"] == first["dots"]


def test_beyond_the_limit_only_outliers_are_links(iqms):
    subjects = [f"{subject:02d}" for subject in range(9)]
    table = rows(LABELS["iqms"], subjects=subjects, acquisitions=("still",), snr=lambda s, a: str(s**6))
    links = Links({f"sub-{subject}": f"sub-{subject}.html" for subject in subjects}, left=8)
    [panel] = measure_panels(GroupTable(table, {}), LABELS["iqms"], links=links)
    [row] = panel["rows"]
    apart = len(row["apart"])
    assert 0 < apart < 9
    assert row["dots"].count("href") == apart
    assert row["path"].count("M") == 9 - apart


def test_published_means_are_those_of_the_experiments():
    for ours, theirs in zip(PUBLISHED.values(), (MOTION_SIMULATED, MOTION_VOLUNTEERS), strict=True):
        assert ours == {name: tuple(asdict(means).values()) for name, means in theirs.items()}


def test_pairs_compare_the_same_scans_only():
    [pair] = score_pairs(motion_table(corrected=(0, 2)), links=Links({}))
    assert (pair["n"], pair["alone"], pair["better"]) == (2, 1, 1)
    assert pair["means"] == pytest.approx((0.03, 0.03))
    assert pair["lines"].count("<line") == 2
    assert pair["published"] == {source: means["rmse"] for source, means in PUBLISHED.items()}
    heights = dict((text, y) for y, text in pair["ticks"])
    low, high = pair["boxes"][0]["low"], pair["boxes"][0]["high"]
    assert (low, high) == pytest.approx((heights["0.02"], heights["0.04"]))


def test_without_corrected_maps_scores_are_shown_like_any_measure(tmp_path):
    page = Page(build(tmp_path, motion=motion_table(corrected=())))
    assert {"RMSE", "Rotation"} <= set(page.headings)
    assert "svg" in page.tags
    paired = Page(build(tmp_path, motion=motion_table()))
    assert paired.headings.count("RMSE") == 1
    assert len(page.dots) == 6  # rmse and rotation of three scans
    assert len(paired.dots) == 9  # both ends of three pairs, and rotation


def test_regions_keep_the_order_of_the_atlas_and_the_unit_of_the_map():
    names = ["Caudate", "Putamen", "Accumbens"]
    kinds = [("Chimap", "0.1"), ("R2starmap", "40")]
    parts = [
        rows(LABELS["rois"], acquisitions=("still",), atlas="x", index=index, name=name, map=which, mean=mean)
        for index, name in zip(("2", "10", "1"), names, strict=True)
        for which, mean in kinds
    ]
    panels = region_panels(GroupTable(pd.concat(parts, ignore_index=True), {}), links=Links({}))
    assert [(panel["title"], panel["unit"]) for panel in panels] == [
        ("x: Chimap", "ppm"),
        ("x: R2starmap", "1/s"),
    ]
    for panel, (_, mean) in zip(panels, kinds, strict=True):
        found = [(row["label"], row["n"], row["median"]) for row in panel["rows"]]
        assert found == [(name, "3", mean) for name in ("Accumbens", "Caudate", "Putamen")]


def test_page_loads_nothing_and_every_link_leads_somewhere(tmp_path, iqms):
    for subject in ("01", "02", "03"):
        (tmp_path / f"sub-{subject}.html").touch()
    text = build(tmp_path, iqms=iqms, motion=motion_table(corrected=(0, 1)))
    page = Page(text)
    assert page.loads == ["data:,"]
    assert "@import" not in text
    assert "url(" not in text
    assert "http" not in text.replace("http-equiv", "")
    assert len(page.ids) == len(set(page.ids))
    inside = {link[1:] for link in page.links if link.startswith("#")}
    assert inside
    assert inside <= set(page.ids)
    beside = {link for link in page.links if not link.startswith("#")}
    assert beside
    assert all((tmp_path / link).is_file() for link in beside)
    assert page.tags.count("h1") == 1


def test_filter_has_a_rule_for_every_acquisition(tmp_path, iqms):
    text = build(tmp_path, iqms=iqms)
    for number, name in enumerate(("motion", "still")):
        assert f'id="acquisition-{number}"> {name}</label>' in text
        assert f"main:has(#acquisition-{number}:checked)" in text
        assert text.count(f'<tr data-acquisition="{number}">') == 2
    one = rows(LABELS["iqms"], acquisitions=(None,), snr="3")
    assert 'type="radio"' not in build(tmp_path, iqms=GroupTable(one, {}))


def test_everything_is_escaped(tmp_path):
    table = rows(LABELS["iqms"], acquisitions=(EVIL, '"] { } </style>'), **{EVIL: lambda s, a: str(s)})
    table["series"] = EVIL
    columns = {EVIL: {"Description": EVIL, "Units": EVIL, "LongName": EVIL}}
    finding = Finding("error", EVIL, EVIL, EVIL, EVIL)
    page = build_group_page(
        tmp_path,
        subjects=[Subject(f"sub-{EVIL}", has_report=True)],
        tables={"iqms": GroupTable(table, columns)},
        findings=[finding],
        command_line=EVIL,
    ).read_text()
    assert page.count("<script") == 1  # our own
    assert page.count("</style>") == 1
    assert "&lt;script&gt;" in page


def test_failures_and_findings_are_told(tmp_path, iqms):
    subjects = [
        Subject("sub-01", has_report=True, failed_steps=2),
        Subject("sub-02", failed_steps=0),
        Subject("sub-03"),
    ]
    finding = Finding("error", "sub-03/sub-03_iqms.tsv", "table", "it is empty", "write it again")
    text = build_group_page(
        tmp_path, subjects=subjects, tables={"iqms": iqms}, findings=[finding]
    ).read_text()
    for words in ("1 file could not be used", "1 participant failed", "✗ 2 steps failed", "✓ done", "no log"):
        assert words in text
    assert str(finding) in text
    assert "sub-02.html" not in text  # has no report


def test_page_without_any_measure_is_still_a_page(tmp_path):
    page = Page(build_group_page(tmp_path, subjects=[Subject("sub-01")], tables={}).read_text())
    assert page.headings == ["Group report", "Participants", "Errors", "About"]
