"""The report's table of regions."""

from qsmflow.reports.regions import region_table

ROW = {"atlas": "a", "index": 3, "name": "<i>", "map": "Chimap", "mean": 0.05, "sd": 0.02, "volume": 3.5}


def test_maps_of_a_region_stand_side_by_side():
    r2star = ROW | {"map": "R2starmap", "mean": 41.0, "sd": 5.0}
    other = ROW | {"atlas": "b", "index": 7, "name": None}
    html = region_table([ROW, other, r2star])
    assert html.count("<table") == 2
    first, second = html.split("</table>")[:2]
    assert "0.05 ± 0.02" in first
    assert "41 ± 5" in first
    assert "R2starmap (1/s)" in first
    assert "R2starmap" not in second
    assert ">7<" in second
    assert "&lt;i&gt;" in first
    assert "<i>" not in html


def test_what_was_not_measured_is_not_there():
    both = ROW | {"map": "R2starmap"}
    html = region_table([both, ROW | {"index": 4}])
    assert html.count("n/a") == 2
