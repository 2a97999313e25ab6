import json
from pathlib import Path

from qsmflow.core.quality.table import METRICS
from qsmflow.interfaces.tables import Tabulate
from qsmflow.reports.comparison import COLUMNS, SCORES

SERIES = {"participant_id": "sub-01", "series": "sub-01_acq-motion", "reference": "sub-01_acq-<b>"}


def test_rows_become_a_file_and_a_fragment(tmp_path):
    row = dict.fromkeys(SCORES, 0.123456789) | {"map": "uncorrected", "voxels": 42}
    pose = {"translation": 1.25, "rotation": 2.5}
    found = Tabulate(kind="comparison", series=SERIES, rows=[row], shared=pose).run(cwd=tmp_path).outputs
    content = json.loads(Path(found.out_rows).read_text())
    assert content["rows"] == [{**SERIES, **row, **pose}]
    assert list(content["columns"]) == list(COLUMNS)
    html = Path(found.out_report).read_text()
    assert "sub-01_acq-&lt;b&gt;" in html
    assert "0.1235" in html
    assert "1.25 mm" in html


def test_a_single_row_is_enough_and_unknown_values_are_told(tmp_path):
    metrics = dict.fromkeys(METRICS) | {"field_snr": 3.25}
    series = {"participant_id": "sub-01", "series": "sub-01_acq-motion"}
    found = Tabulate(kind="quality", series=series, rows=metrics).run(cwd=tmp_path).outputs
    content = json.loads(Path(found.out_rows).read_text())
    assert content["rows"] == [{**series, **metrics}]
    assert content["columns"]["field_snr"]["LongName"] == METRICS["field_snr"].label
    html = Path(found.out_report).read_text()
    assert "3.25" in html
    assert html.count("n/a") == len(METRICS) - 1


def test_label_images_without_any_region_in_the_brain_are_told(tmp_path):
    found = Tabulate(kind="regions", series={"participant_id": "sub-01"}, rows=[]).run(cwd=tmp_path).outputs
    assert json.loads(Path(found.out_rows).read_text())["rows"] == []
    assert "No region" in Path(found.out_report).read_text()
