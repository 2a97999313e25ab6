"""Pictures and tables as files."""

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from qsmflow.interfaces.reports import PlotVolumes, SummaryReportlet
from qsmflow.reports.summary import FRAGMENTS


def test_picture_is_drawn(maps, tmp_path):
    stage = PlotVolumes(in_files=[maps["susceptibility"]], kind="susceptibility", mask_file=maps["mask"])
    found = stage.run(cwd=str(tmp_path)).outputs
    assert ElementTree.parse(found.out_report).getroot().tag.endswith("svg")
    assert found.out_warnings == []


def test_blank_map_is_warned_of(head, maps, tmp_path):
    blank = head.write("blank", np.zeros(head.mask.shape))
    stage = PlotVolumes(in_files=[blank], kind="susceptibility", mask_file=maps["mask"])
    (warning,) = stage.run(cwd=str(tmp_path)).outputs.out_warnings
    assert "blank" in warning


@pytest.mark.parametrize("kind", FRAGMENTS)
def test_tables_show_the_warnings_once(tmp_path, kind):
    record = {"stage": "Phase sign", "algorithm": "Given", "warnings": ["it may be wrong"]}
    stage = SummaryReportlet(kind=kind, acquisition={}, records=[record], warnings=["a blank picture"])
    found = stage.run(cwd=str(tmp_path)).outputs.out_report
    text = Path(found).read_text(encoding="utf-8")
    assert text.startswith("<")
    assert text.count("a blank picture") == (kind == "summary")
