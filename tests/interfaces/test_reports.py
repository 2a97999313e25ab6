"""Pictures and tables as files."""

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from qsmflow.interfaces.reports import BuildViewer, PlotVolumes, SummaryReportlet
from qsmflow.reports.summary import FRAGMENTS
from qsmflow.reports.viewer import read_viewer


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


@pytest.mark.parametrize("corrects", [False, True])
def test_viewer_holds_the_maps_and_a_slider_where_motion_was_corrected(head, maps, tmp_path, corrects):
    corrected = head.write("corrected", 0.8 * head.susceptibility * head.mask) if corrects else None
    inputs = {name: maps[name] for name in ("susceptibility", "magnitude", "local_field")}
    stage = BuildViewer(**inputs, mask_file=maps["mask"], corrected=corrected)
    found = stage.run(cwd=str(tmp_path)).outputs
    layers = {layer.name: layer for layer in read_viewer(Path(found.out_viewer).read_text(encoding="utf-8"))}
    assert set(layers) == {*inputs, "mask", *(["corrected"] if corrects else [])}
    assert layers["local_field"].unit == "Hz"
    mean = np.nanmean(layers["susceptibility"].image.get_fdata())
    assert mean == pytest.approx(head.susceptibility[head.mask].mean(), abs=0.003)
    assert (found.out_slider is not None) == corrects
    if corrects:
        assert 'class="wipe"' in Path(found.out_slider).read_text(encoding="utf-8")
