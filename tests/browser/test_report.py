"""The subject's page as a reader has it: in a browser, without a network."""

import itertools
import json
import os
import re
import time
from datetime import UTC, datetime
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from qsmflow.interfaces.reports import BuildViewer, PlotVolumes
from qsmflow.reports.assemble import build_report
from qsmflow.reports.figures import FIGURES
from qsmflow.reports.methods import write_citation
from qsmflow.reports.summary import FRAGMENTS
from qsmflow.reports.viewer import read_viewer

SHAPE = (30, 34, 26)
AFFINE = np.diag([-2.0, 2.0, 2.0, 1.0]) + np.array([[0, 0, 0, 31], [0, 0, 0, -30], [0, 0, 0, -20], [0] * 4])
VIEWER = "#viewed .viewer"
CROSSHAIR = f"document.querySelector('{VIEWER} .viewer-crosshair')?.textContent"


@pytest.fixture(scope="session")
def report(tmp_path_factory) -> Path:
    """Page of a subject with two series that were corrected for motion, and a step that failed."""
    folder = tmp_path_factory.mktemp("page")
    places = np.moveaxis(np.indices(SHAPE), 0, -1)
    brain = np.linalg.norm((places - np.array(SHAPE) / 2) / np.array(SHAPE), axis=-1) < 0.42
    chi = np.where(brain, 0.1 * np.sin(places @ (0.5, 0.3, 0.2)), 0)
    values = {
        "susceptibility": chi,
        "corrected": 0.7 * chi,
        "magnitude": 100.0 + 300 * brain,
        "local_field": 30 * chi,
        "mask_file": brain,
    }
    files = {name: str(folder / f"{name}.nii") for name in values}
    for name, path in files.items():
        nib.save(nib.Nifti1Image(values[name].astype(np.float32), AFFINE), path)
    figures = folder / "out" / "sub-01" / "figures"
    figures.mkdir(parents=True)
    records = [{"stage": "Dipole inversion", "algorithm": "TKD <b>", "converged": False, "n_iterations": 3}]
    contents = {f"{kind}_MEGRE.html": FRAGMENTS[kind]({"EchoTimes": [0.004]}, records) for kind in FRAGMENTS}
    written = BuildViewer(**files).run(cwd=str(folder)).outputs
    contents["viewer_MEGRE.html"] = Path(written.out_viewer).read_text()
    contents["motionslider_MEGRE.html"] = Path(written.out_slider).read_text()
    for kind in ("susceptibility", "magnitude"):
        rows = [files[kind]] * max(len(FIGURES[kind].row_labels), 1)
        drawn = PlotVolumes(in_files=rows, kind=kind).run(cwd=str(folder)).outputs
        contents[f"{kind}_{FIGURES[kind].suffix}.svg"] = Path(drawn.out_report).read_text()
    for name, series in itertools.product(contents, ("motion", "still")):
        (figures / f"sub-01_acq-{series}_desc-{name}").write_text(contents[name])
    write_citation("Inverted [@shmueli2009].", folder / "out" / "logs")
    errors = [{"node": "fit", "file": "crash.txt", "traceback": "ValueError: <script>alert(1)</script>"}]
    return build_report(folder / "out", subject="01", run_id="run", errors=errors)


@pytest.fixture
def page(browser, report):
    """The page, its first viewer marked and ready."""
    browser.open(report)
    ready(browser)
    return browser


def ready(browser) -> None:
    """Wait for the first viewer and mark the section that it is in."""
    browser.run("document.querySelector('main section').id = 'viewed'")
    browser.wait(CROSSHAIR)


def position(browser) -> list[float]:
    """Where the crosshair is, in mm."""
    found = re.search(r"x (\S+), y (\S+), z (\S+) mm", browser.run(CROSSHAIR).replace("−", "-"))
    return [float(value) for value in found.groups()]


def after(browser, action) -> str:
    """Text of the crosshair once an action has changed it."""
    before = browser.run(CROSSHAIR)
    action()
    browser.wait(f"{CROSSHAIR} !== {json.dumps(before)}")
    return browser.run(CROSSHAIR)


def canvas(plane: str) -> str:
    return f"{VIEWER} canvas[data-plane={plane}]"


def choose(browser, name: str) -> None:
    browser.click(f"{VIEWER} input[value={name}]")


def pixels(browser) -> np.ndarray:
    """Red, green and blue of the axial picture, one row a pixel."""
    data = browser.run(
        f"(() => {{ const c = document.querySelector('{canvas('axial')}');"
        "return [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]; })()"
    )
    return np.reshape(data, (-1, 4))[:, :3]


def outlined(browser) -> bool:
    """Whether the colour of the outline is in the axial picture."""
    red, _, blue = pixels(browser).T
    return bool(np.any((red > 200) & (blue < 60)))


def comes_true(check, *, seconds: float = 10.0) -> bool:
    """Whether something is so before long; a busy machine draws late."""
    end = time.monotonic() + seconds
    while not (found := check()) and time.monotonic() < end:
        time.sleep(0.1)
    return found


@pytest.mark.parametrize(("width", "dark"), [(1400, False), (1400, True), (400, False), (400, True)])
def test_page_is_quiet_asks_for_nothing_and_fits(browser, report, width, dark):
    browser.open(report, width=width, dark=dark)
    ready(browser)
    assert browser.complaints == []
    assert [url for url in browser.requests if not url.startswith(("data:", "blob:"))] == [report.as_uri()]
    assert browser.run("document.documentElement.scrollWidth <= innerWidth")
    background = browser.run("getComputedStyle(document.body).backgroundColor")
    brightness = np.mean([int(value) for value in re.findall(r"\d+", background)[:3]])
    assert (brightness < 100) == dark


@pytest.mark.parametrize("dark", [False, True])
def test_no_serious_violation_of_accessibility(browser, report, dark):
    """Rules of axe-core, which is not a part of this project."""
    program = os.environ.get("QSMFLOW_AXE_CORE")
    if program is None:
        pytest.skip("QSMFLOW_AXE_CORE does not name a file axe.min.js")
    browser.open(report, dark=dark)
    ready(browser)
    browser.call("Runtime.evaluate", expression=Path(program).read_text())
    found = browser.run("axe.run(document).then((result) => result.violations)")
    serious = [entry["id"] for entry in found if entry["impact"] in ("serious", "critical")]
    assert serious == [], [node["html"][:200] for entry in found for node in entry["nodes"]]


def test_value_at_the_crosshair_is_that_of_the_map(page, report):
    layers = {layer.name: layer for layer in read_viewer(report.read_text())}
    page.click(canvas("axial"), across=0.35, down=0.6)
    for name in ("susceptibility", "magnitude", "local_field"):
        if name != "susceptibility":
            after(page, lambda name=name: choose(page, name))
        image = layers[name].image
        voxel = nib.affines.apply_affine(np.linalg.inv(image.affine), position(page)).round().astype(int)
        shown = re.search(r"mm: (\S+) (\S+)", page.run(CROSSHAIR).replace("−", "-"))
        step = (layers[name].high - layers[name].low) / 254
        assert float(shown[1]) == pytest.approx(image.dataobj[tuple(voxel)], abs=max(step, 0.01))
        assert shown[2] == {"susceptibility": "ppm", "magnitude": "a.u.", "local_field": "Hz"}[name]


def test_pictures_show_left_on_the_left_until_asked_otherwise(page):
    def clicked(across, down):
        after(page, lambda: page.click(canvas("axial"), across=across, down=down))
        return position(page)

    left, right = clicked(0.25, 0.5), clicked(0.75, 0.4)
    assert left[0] < right[0] - 10
    back, front = clicked(0.5, 0.8), clicked(0.51, 0.2)
    assert back[1] < front[1] - 10
    page.click(f"{VIEWER} input[name=radiological]")
    mirrored = clicked(0.25, 0.55)
    assert mirrored[0] > left[0] + 10


def test_slices_are_reached_by_slider_wheel_and_keys(page):
    start = position(page)
    slider = f"{VIEWER} .viewer-plane:nth-child(1) input[type=range]"
    page.run(f"document.querySelector('{slider}').focus()")
    after(page, lambda: page.press("ArrowRight", code=39))
    assert position(page) == [start[0], start[1], start[2] + 2]
    assert page.run(f"document.querySelector('{slider}').getAttribute('aria-valuetext')").startswith("z = ")
    after(page, lambda: page.click(canvas("coronal"), across=0.4, down=0.4))
    before = position(page)
    after(page, lambda: page.wheel(canvas("coronal"), -1))
    assert position(page) == [before[0], before[1] + 2, before[2]]
    for key, code, moved in (
        ("ArrowLeft", 37, (-2, 0, 0)),
        ("ArrowUp", 38, (0, 0, 2)),
        ("PageDown", 34, (0, -2, 0)),
    ):
        before = position(page)
        after(page, lambda key=key, code=code: page.press(key, code=code))
        assert position(page) == pytest.approx(np.add(before, moved))
    after(page, lambda: page.press("Home", code=36))
    assert position(page) == start


def test_wheel_scrolls_the_page_unless_a_picture_was_clicked(page):
    before = position(page)
    page.run("document.activeElement.blur()")
    page.place(canvas("axial"))
    top = page.run("scrollY")
    page.wheel(canvas("axial"), 1)
    page.wait(f"scrollY !== {top}")
    assert position(page) == before


def test_window_follows_its_slider_and_is_stated(page):
    window = f"document.querySelector('{VIEWER} .viewer-window output').textContent"
    page.run(f"document.querySelector('{VIEWER} .viewer-window input').focus()")
    assert page.run(window) == "−0.1 to 0.1 ppm"
    before = pixels(page)
    for _ in range(10):
        page.press("ArrowLeft", code=37)
    page.wait(f"{window} === '−0.05 to 0.05 ppm'")
    assert np.mean(pixels(page) == 255) > 1.3 * np.mean(before == 255) > 0


def test_mask_can_be_shown_and_outlined(page):
    after(page, lambda: choose(page, "mask"))
    assert page.run(CROSSHAIR).endswith("in the mask")
    choose(page, "magnitude")
    page.wait(f"{CROSSHAIR}.includes('a.u.')")
    assert not outlined(page)
    page.click(f"{VIEWER} input[name=outline]")
    assert comes_true(lambda: outlined(page))


def test_every_series_has_a_viewer_that_is_unpacked_when_it_comes_near(page):
    viewers = "document.querySelectorAll('.viewer')"
    assert page.run(f"{viewers}.length") == 2
    assert page.run(f"{viewers}[1].querySelector('.viewer-live') === null")
    page.run(f"{viewers}[1].scrollIntoView({{behavior: 'instant'}})")
    page.wait(f"{viewers}[1].querySelector('.viewer-crosshair')?.textContent")
    names = page.run("[...document.querySelectorAll('.viewer input[type=radio]')].map((input) => input.name)")
    assert len(set(names)) == 2


def test_line_between_before_and_after_moves(page):
    shown = "getComputedStyle(document.querySelector('.wipe .after')).clipPath"
    assert "50%" in page.run(shown)
    page.run("document.querySelector('.wipe input').focus()")
    page.press("ArrowRight", code=39)
    assert "51%" in page.run(shown)
    page.press("End", code=35)
    assert "100%" in page.run(shown)
    page.click(".wipe .wipe-pair", across=0.25)
    assert "25%" in page.run(shown)
    assert (
        page.run("document.querySelector('.wipe input').getAttribute('aria-valuetext')")
        == "25 % from the left"
    )


def test_navigation_leads_to_its_sections_and_marks_them(browser, report):
    browser.open(report)
    links = browser.run("[...document.querySelectorAll('nav a')].map((link) => link.hash)")
    assert len(links) > 8
    for link in links:
        browser.click(f'nav a[href="{link}"]')
        assert browser.run("location.hash") == link
        browser.wait(f"Math.abs(document.querySelector('{link}').getBoundingClientRect().top) < innerHeight")
        if "series" not in link:
            browser.wait(f"document.querySelector('nav a[aria-current]').hash === '{link}'")
    browser.click("#errors summary")
    assert browser.run("document.querySelector('#errors pre').textContent").endswith("</script>")


def test_first_stop_of_the_keyboard_skips_to_the_content(browser, report):
    browser.open(report)
    browser.press("Tab", code=9)
    assert browser.run("document.activeElement.hash") == "#content"


def test_methods_are_copied(browser, report):
    browser.open(report)
    browser.call("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
    browser.click('[data-copies="methods-html"]')
    told = "document.querySelector('.copy [role=status]').textContent"
    browser.wait(told)
    assert browser.run(told) in ("Copied.", "Selected: copy it with your keyboard.")


def _downloaded(path: Path, *, seconds: float = 20) -> str:
    """Text of a file that the browser saves in its own time, under its name when it is whole."""
    end = time.monotonic() + seconds
    while not path.exists() and time.monotonic() < end:
        time.sleep(0.1)
    return path.read_text()


def test_rating_is_saved_as_a_file_and_nowhere_else(browser, report, tmp_path):
    browser.open(report)
    browser.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    browser.click(".rating [data-field=rating-1] input[value=pass]")
    browser.click(".rating [data-field=rating-2] input[value=fail]")
    browser.click(".rating input[value=streaks]")
    browser.run("document.querySelector('#rating-notes').value = 'ghosts \"<b>\" ü'")
    browser.click(".rating button")
    browser.wait("document.querySelector('.rating output').textContent")
    name = f"sub-01_desc-rating_{datetime.now(UTC):%Y-%m-%d}.json"
    assert name in browser.run("document.querySelector('.rating output').textContent")
    saved = json.loads(_downloaded(tmp_path / name))
    assert saved["Subject"] == "01"
    assert saved["Ratings"] == {"acquisition motion": "pass", "acquisition still": "fail"}
    assert saved["Findings"] == ["streaks"]
    assert saved["Notes"] == 'ghosts "<b>" ü'
    assert [url for url in browser.requests if not url.startswith(("data:", "blob:"))] == [report.as_uri()]


def test_without_scripts_pictures_and_tables_are_there(browser, report):
    browser.open(report, scripts=False)
    document = browser.call("DOM.getDocument", depth=-1)["root"]["nodeId"]

    def seen(selector):
        node = browser.call("DOM.querySelector", nodeId=document, selector=selector)["nodeId"]
        try:
            box = browser.call("DOM.getBoxModel", nodeId=node)["model"]
        except RuntimeError:  # not laid out
            return False
        return box["width"] > 0 and box["height"] > 0

    assert seen(".viewer-static svg")
    assert seen(".viewer-static noscript p")
    assert seen(".wipe-pair svg")
    assert not seen(".wipe-control")
    assert not seen(".rating")


def test_paper_has_the_still_pictures(page):
    page.call("Emulation.setEmulatedMedia", media="print")
    hidden = "getComputedStyle(document.querySelector('{}')).display === 'none'"
    for selector in (".viewer-live", "nav", "#rating", ".wipe-control"):
        assert page.run(hidden.format(selector)), selector
    for selector in (".viewer-static", ".wipe-planes", "#methods"):
        assert not page.run(hidden.format(selector)), selector
    page.call("Emulation.setEmulatedMedia", media="")


def test_script_that_is_not_the_pages_own_does_not_run(page):
    page.run(
        "(() => { const s = document.createElement('script'); s.textContent = 'window.evil = 1';"
        "document.body.append(s); })()"
    )
    assert page.run("window.evil") is None
    refused = page.run("fetch('https://example.org/').then(() => 'sent', () => 'refused')")
    assert refused == "refused"
    assert any("Content Security Policy" in text for text in page.complaints)
