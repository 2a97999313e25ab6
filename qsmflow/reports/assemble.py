"""One page a subject that can be mailed: everything it shows is inside it."""

import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import unescape
from pathlib import Path
from urllib.parse import quote

import jinja2
import nireports
from markupsafe import Markup
from nireports.assembler.misc import read_crashfile
from nireports.assembler.report import Report
from nireports.assembler.reportlet import Reportlet

from qsmflow.reports.methods import render_methods
from qsmflow.version import __version__

DATA = Path(__file__).parents[1] / "data"
SPECIFICATION = DATA / "report_spec.yml"
TEMPLATES = DATA / "report"
LARGEST_PAGE = 14_000_000  # bytes; figures beyond it stay beside the page

_FIGURE = re.compile(r'src="\./([^"]+\.svg)"')
_TITLE = re.compile(r"<title>(.*?)</title>", re.DOTALL)


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


class OfflineReport(Report):
    """nireports' assembler with a template of our own that loads nothing.

    nireports finds and orders the reportlets; pictures are put into the page as data, and a series
    without any label beside labelled ones, which nireports drops, is kept.
    """

    __slots__ = ()

    @staticmethod
    def _process_orderings(orderings, hits):
        entities, combinations = Report._process_orderings(orderings, hits)
        plain = any(all(hit.entities.get(name) is None for name in orderings) for hit in hits)
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
        inliner = _Inliner(self.out_filename.parent)
        sections = [
            {
                "id": f"section-{section.name.lower()}",
                "title": section.title,
                "reportlets": [_reportlet(reportlet, inliner) for reportlet in section.reportlets],
            }
            for section in self.sections
        ]
        style = Markup((TEMPLATES / "report.css").read_text(encoding="utf-8"))
        template = environment.get_template("report.html.j2")
        return template.render(title=self.title, sections=sections, style=style, **context)


def build_report(
    out_dir: Path,
    *,
    subject: str,
    run_id: str,
    errors: Sequence[Mapping] = (),
    command_line: str | None = None,
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
        Crashes with ``node``, ``traceback`` and ``file``, as :func:`collect_errors` gives them.
    command_line : str, optional
        What was typed.

    Returns
    -------
    Path
        The page, a file that needs no other.
    """
    out_dir = Path(out_dir).resolve()
    folder = out_dir / f"sub-{subject}"
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    # The folder holds one subject: asking for the label as well would match a sub- further up the path.
    report = OfflineReport(
        out_dir,
        run_id,
        bootstrap_file=SPECIFICATION,
        out_filename=f"{folder.name}.html",
        reportlets_dir=folder,
        metadata={"subject": subject},
    )
    citation = out_dir / "logs" / "CITATION.md"
    methods = citation.read_text(encoding="utf-8") if citation.is_file() else ""
    page = report.render(
        subject=subject,
        has_map=any(folder.glob("figures/*_desc-susceptibility_*.svg")),
        errors=errors,
        methods=render_methods(methods, first_heading=3),
        about={
            "Version": f"qsmflow {__version__}",
            "Command": command_line or "not stated",
            "Run": run_id,
            "Written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            "Python": platform.python_version(),
            "Assembled with": f"nireports {nireports.__version__}",
        },
    )
    report.out_filename.write_text(page, encoding="utf-8")
    return report.out_filename


def collect_errors(log_dir: Path) -> tuple[dict[str, str], ...]:
    """Read the crash files of a run.

    Parameters
    ----------
    log_dir : Path
        Folder of ``crash*`` files; it need not exist.

    Returns
    -------
    tuple of dict
        ``file``, ``node`` and ``traceback`` of each, in the order of their names. A file that nipype's
        format does not fit is shown as it is.
    """
    found = []
    for path in sorted(Path(log_dir).glob("crash*")):
        try:
            crash = read_crashfile(str(path))
        except Exception as error:  # a pickle may need anything: the report must still be written
            text = path.read_text(errors="replace") if path.suffix == ".txt" else str(error)
            crash = {"traceback": text}
        found.append(
            {
                "file": path.name,
                "node": str(crash.get("node", path.stem)),
                "traceback": str(crash["traceback"]),
            }
        )
    return tuple(found)


class _Inliner:
    """Turns pictures into data URIs until the page is full."""

    def __init__(self, root: Path):
        self.root = root
        self.left = LARGEST_PAGE

    def __call__(self, name: str, caption: str) -> Figure:
        svg = (self.root / name).read_text(encoding="utf-8")
        title = _TITLE.search(svg)
        alt = unescape(title.group(1)) if title else Path(name).name
        uri = f"data:image/svg+xml,{quote(svg, safe=' /:;,=+()*!')}"
        inlined = len(uri) <= self.left
        if inlined:
            self.left -= len(uri)
        return Figure(uri if inlined else quote(name), alt, caption, Path(name).name, inlined)


def _reportlet(reportlet: Reportlet, inliner: _Inliner) -> dict:
    """What the template shows of a reportlet: headings, and figures or HTML fragments."""
    contents = []
    for html, caption in reportlet.components:
        picture = _FIGURE.search(html)
        contents.append(inliner(picture.group(1), caption or "") if picture else Markup(html))
    return {"series": _series(reportlet.title), "subtitle": reportlet.subtitle, "contents": contents}


def _series(title: str | None) -> str:
    """Which series a group of reportlets is of, from nireports' heading of the group."""
    if title is None:
        return ""
    words = Markup(title).striptags().removeprefix("Reports for:").strip(" .")
    return words or "without session, acquisition or run label"
