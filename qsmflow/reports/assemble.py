"""One page a subject that can be mailed: everything it shows is inside it."""

import base64
import hashlib
import json
import os
import platform
import re
import tempfile
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from html import unescape
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

import jinja2
import nireports
from bids.config import get_option, set_option
from markupsafe import Markup
from nireports.assembler.misc import read_crashfile
from nireports.assembler.report import Report
from nireports.assembler.reportlet import Reportlet

from qsmflow.bids.files import write_text
from qsmflow.bids.findings import InputProblem
from qsmflow.bids.layout import entities_below
from qsmflow.bids.tables import is_rows, read_rows
from qsmflow.reports.methods import render_methods
from qsmflow.reports.viewer import shrink_viewer
from qsmflow.version import __version__

DATA = Path(__file__).parents[1] / "data"
SPECIFICATION = DATA / "report_spec.yml"
TEMPLATES = DATA / "report"
SCRIPTS = ("viewer.js", "page.js")
LARGEST_PAGE = 14_500_000  # bytes; figures beyond it stay beside the page
VIEWERS = 0.33  # part of the page that the slice viewers of all series share
FIRST_FIGURE = "_desc-susceptibility_"  # has its place in the page before all others
_REMOVE = "remove it and run again"

GRADES = MappingProxyType(
    {"pass": "Pass: fit for use", "doubtful": "Doubtful: look again", "fail": "Fail: leave it out"}
)
FINDINGS = (
    "motion or ghosts",
    "streaks",
    "shading towards the border",
    "mask too large or too small",
    "wrong sign",
    "error of unwrapping",
    "something to show a radiologist",
)

_FIGURE = re.compile(r'src="\./([^"]+\.svg)"')
_VIEWER = '<figure class="viewer"'
_TO_QUOTE = re.compile(r"[^\w./:;,=+()*!~ -]+", re.ASCII)
_TITLE = re.compile(r"<title>(.*?)</title>", re.DOTALL)

_NOT_OPENED = "This crash file is no text, and is not opened."


@dataclass(frozen=True)
class Figure:
    """A picture in the page.

    Attributes
    ----------
    source : str
        Data URI, or a relative path where the page is full.
    alt : str
        The picture in words.
    caption : str
        What to look for.
    name : str
        File name of the picture in the derivatives.
    inlined : bool
        Whether the page carries it.
    """

    source: str
    alt: str
    caption: str
    name: str
    inlined: bool


@dataclass(frozen=True)
class _Hit:
    """Entities of a reportlet: pybids would ask its database for them once for each ordering."""

    entities: Mapping[str, Any]

    def get_entities(self) -> Mapping[str, Any]:
        return self.entities


class OfflineReport(Report):
    """nireports' assembler with a template of our own that loads nothing.

    nireports finds and orders the reportlets; pictures and volumes are put into the page as data, and a
    series without any label beside labelled ones, which nireports drops, is kept.
    """

    __slots__ = ()

    @staticmethod
    def _process_orderings(orderings, hits):
        found = [_Hit(hit.entities) for hit in hits]
        entities, combinations = Report._process_orderings(orderings, found)
        plain = any(all(hit.entities.get(name) is None for name in orderings) for hit in found)
        if combinations and plain:
            combinations.insert(0, (None,) * len(entities))
        return entities, combinations

    def render(self, **context) -> str:
        """HTML of the page.

        Parameters
        ----------
        **context
            What the template needs beside the sections.

        Returns
        -------
        str
            The whole page.
        """
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(TEMPLATES),
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=jinja2.StrictUndefined,
        )
        contents = _Contents(
            self.out_filename.parent,
            [
                html
                for section in self.sections
                for reportlet in section.reportlets
                for html, _ in reportlet.components
            ],
        )
        sections = [
            {
                "id": f"section-{section.name.lower()}",
                "title": section.title,
                "reportlets": [_reportlet(reportlet, contents) for reportlet in section.reportlets],
            }
            for section in self.sections
        ]
        script = "".join((TEMPLATES / name).read_text(encoding="utf-8") for name in SCRIPTS)
        return environment.get_template("report.html.j2").render(
            title=self.title,
            sections=sections,
            series=[entry["series"] for entry in sections[0]["reportlets"] if entry["series"]]
            if sections
            else [],
            style=Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
            script=Markup(script),
            policy=_policy(script, files_beside=contents.beside),
            files_beside=contents.beside,
            grades=GRADES,
            findings=FINDINGS,
            **context,
        )


def build_report(
    out_dir: Path,
    *,
    subject: str,
    run_id: str,
    errors: Sequence[Mapping] = (),
    command_line: str | None = None,
    without: Collection[Path] = (),
) -> Path:
    """Assemble the figures of a subject into sub-<subject>.html.

    Parameters
    ----------
    out_dir : Path
        Derivative data set; reads sub-<subject>/figures and logs/CITATION.md where they exist.
    subject : str
        Label without ``sub-``.
    run_id : str
        Names this run, as its log folder does.
    errors : sequence of mapping
        Crashes with ``node``, ``traceback`` and ``file``, as :func:`collect_errors` gives them; input
        that was refused has no file.
    command_line : str, optional
        What was typed.
    without : collection of Path, optional
        Files among the figures that are left out, as :func:`damaged_figures` finds them.

    Returns
    -------
    Path
        The page, a file that needs no other.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    given, out_dir = Path(out_dir) / f"sub-{subject}", Path(out_dir).resolve()
    folder = out_dir / given.name
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    left_out = {folder / path.relative_to(given) for path in without}
    with _entities_below(folder, without=left_out):
        report = OfflineReport(
            out_dir,
            run_id,
            bootstrap_file=SPECIFICATION,
            out_filename=f"{folder.name}.html",
            reportlets_dir=folder,
            metadata={"subject": subject},
        )
    citation, unread = _read_citation(out_dir / "logs")
    page = report.render(
        subject=subject,
        about_rating={"Subject": subject, "Run": run_id, "Software": f"qsmflow {__version__}"},
        has_map=any(path not in left_out for path in folder.glob(f"figures/*{FIRST_FIGURE}*.svg")),
        errors=errors,
        citation=citation,
        methods=render_methods(citation["md"], first_heading=3),
        about={
            "Version": f"qsmflow {__version__}",
            "Command": command_line or "not stated",
            "Run": run_id,
            "Written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            "Python": platform.python_version(),
            "Assembled with": f"nireports {nireports.__version__}",
            **unread,
        },
    )
    write_text(report.out_filename, page)
    return report.out_filename


def damaged_figures(folder: Path) -> dict[Path, str]:
    """Files among a subject's figures that no page and no table can be made of, as a crash may leave them.

    Parameters
    ----------
    folder : Path
        The subject's, ``sub-XX``; nothing in it need exist.

    Returns
    -------
    dict of Path to str
        What is wrong with each.
    """
    found = {}
    for path in sorted(Path(folder).glob("figures/**/*_desc-*")):
        try:
            if path.suffix in (".svg", ".html"):
                _check_fragment(path)
            elif is_rows(path):
                read_rows(path)
        except InputProblem as problem:
            found[path] = problem.problem
        except OSError as error:
            found[path] = f"it cannot be read ({error.strerror})"
    return found


def _check_fragment(path: Path) -> None:
    text = _read_text(path)
    if path.suffix == ".svg" and "<svg" not in text:
        raise InputProblem("it holds no picture", _REMOVE)
    if _VIEWER in text:
        try:
            shrink_viewer(text, largest=len(text))
        except ValueError as error:
            raise InputProblem("it is cut off", _REMOVE) from error


def _read_text(path: Path) -> str:
    """Text of a file that somebody else may have changed; what is no regular file is never opened."""
    if not path.is_file():
        raise InputProblem("it is no file, or a link to content that is not here", _REMOVE)
    try:
        return path.read_text("utf-8")
    except UnicodeError as error:
        raise InputProblem("it is no text in UTF-8", _REMOVE) from error


def _read_citation(folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    """The methods text and its references, and a note on what there is and cannot be shown."""
    citation, unread = {"md": "", "bib": ""}, {}
    for kind in citation:
        path = folder / f"CITATION.{kind}"
        try:
            citation[kind] = _read_text(path) if os.path.lexists(path) else ""
        except (InputProblem, OSError) as problem:
            unread["Methods"] = f"logs/{path.name} was left out: {problem}"
    return citation, unread


def collect_errors(log_dir: Path) -> tuple[dict[str, str], ...]:
    """Read the crash files of a run.

    Parameters
    ----------
    log_dir : Path
        Folder of ``crash*`` files; it need not exist. Pickles, which may do anything, are named only.

    Returns
    -------
    tuple of dict
        ``file``, ``node`` and ``traceback`` of each, in the order of their names. A file that nipype's
        format does not fit is shown as it is.
    """
    found = []
    for path in sorted(path for path in Path(log_dir).glob("crash*") if path.is_file()):
        try:
            crash = read_crashfile(str(path)) if path.suffix == ".txt" else {"traceback": _NOT_OPENED}
            node, traceback = str(crash.get("node", path.stem)), str(crash["traceback"])
        except Exception as error:  # whatever it holds: the report must still be written
            readable = os.access(path, os.R_OK)
            node, traceback = path.stem, path.read_text(errors="replace") if readable else str(error)
        found.append(
            {
                "file": path.name,
                "node": node,
                # Nipype closes the file with a remark of its own where a stage had written nothing yet.
                "traceback": traceback.partition("When creating this crashfile")[0].rstrip(),
            }
        )
    return tuple(found)


@contextmanager
def _entities_below(folder: Path, *, without: Collection[Path] = ()) -> Iterator[None]:
    """Keep nireports, which asks pybids for the configuration of this name, from reading folders above.

    Nor does it find any entity, and so any use, in the names of files that are to be left out.
    """
    paths, content = get_option("config_paths"), entities_below(folder, "figures")
    if without:
        others = f"(?!(?:{'|'.join(re.escape(str(path)) for path in without)})\\Z)"
        for entity in content["entities"]:
            entity |= {"pattern": others + entity["pattern"]} if "pattern" in entity else {}
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary, "figures.json")
        file.write_text(json.dumps(content), encoding="utf-8")
        set_option("config_paths", {**paths, "figures": str(file)})
        try:
            yield
        finally:
            set_option("config_paths", paths)


class _Contents:
    """What the page holds: all tables and viewers, and pictures until it is full.

    Attributes
    ----------
    beside : bool
        Whether some pictures stay beside the page.
    """

    def __init__(self, root: Path, components: Sequence[str]):
        self._root = root
        share = int(VIEWERS * LARGEST_PAGE / max(sum(_VIEWER in html for html in components), 1))
        self._fragments = {
            html: _shrunk(html, largest=share) if _VIEWER in html else Markup(html)
            for html in components
            if not _FIGURE.search(html)
        }
        self._held: dict[str, str] = {}
        left = LARGEST_PAGE - sum(len(self._fragments.get(html, "")) for html in components)
        names = [picture.group(1) for html in components if (picture := _FIGURE.search(html))]
        for name in sorted(names, key=lambda name: FIRST_FIGURE not in name):
            # Nearly all of it is base64, which is left as it is.
            text = _TO_QUOTE.sub(lambda match: quote(match.group()), self._read(name))
            uri = f"data:image/svg+xml,{text}"
            if len(uri) <= left:
                self._held[name] = uri
                left -= len(uri)
        self.beside = len(self._held) < len(names)

    def __call__(self, html: str, caption: str) -> Figure | Markup:
        """A picture, or a fragment; viewers share their part of the page."""
        picture = _FIGURE.search(html)
        return self._figure(picture.group(1), caption) if picture else self._fragments[html]

    def _figure(self, name: str, caption: str) -> Figure:
        title = _TITLE.search(self._read(name))
        alt = unescape(title.group(1)) if title else Path(name).name
        return Figure(self._held.get(name, quote(name)), alt, caption, Path(name).name, name in self._held)

    def _read(self, name: str) -> str:
        return (self._root / name).read_text(encoding="utf-8")


def _shrunk(html: str, *, largest: int) -> Markup:
    try:
        return shrink_viewer(html, largest=largest)
    except (ValueError, LookupError, TypeError, ArithmeticError, RecursionError, zlib.error):
        return Markup('<p class="hint">The data of the slice viewer is damaged; run again.</p>')


def _policy(script: str, *, files_beside: bool) -> str:
    """Content security policy: nothing is fetched, and no script runs but the page's own."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    images = "data: 'self' file:" if files_beside else "data:"
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src {images}; "
        "base-uri 'none'; form-action 'none'"
    )


def _reportlet(reportlet: Reportlet, contents: _Contents) -> dict:
    """What the template shows of a reportlet: headings, and figures or HTML fragments."""
    shown = [contents(html, caption or "") for html, caption in reportlet.components]
    return {"series": _series(reportlet.title), "subtitle": reportlet.subtitle, "contents": shown}


def _series(title: str | None) -> str:
    """Which series a group of reportlets is of, from nireports' heading of the group."""
    if title is None:
        return ""
    words = Markup(title).striptags().removeprefix("Reports for:").strip(" .")
    return words or "without session, acquisition or run label"
