"""What the report's workflow draws and writes."""

import pytest

from qsmflow.workflows.report import init_report_wf


@pytest.mark.parametrize("corrects", [False, True])
def test_viewer_takes_the_maps_and_the_corrected_one_where_there_is_one(make_job, tmp_path, corrects):
    job = make_job()
    workflow = init_report_wf(
        acquisition=job.acquisition,
        phase_range=job.phase_range,
        field_strength=3.0,
        out_dir=tmp_path,
        motion_correction=corrects,
        mem_gb=job.memory,
    )
    viewer = workflow.get_node("viewer")
    given = {
        target: source
        for origin, node, data in workflow._graph.edges(data=True)
        if node is viewer
        for source, target in data["connect"]
    }
    expected = {"susceptibility": "susceptibility", "magnitude": "combined", "local_field": "local_field"}
    expected |= {"mask_file": "mask"} | ({"corrected": "corrected"} if corrects else {})
    assert given == expected
    for kind, output in (("viewer", "out_viewer"), ("motionslider", "out_slider")):
        sink = workflow.get_node(f"write_{kind}_MEGRE")
        assert workflow._graph[viewer][sink]["connect"] == [(output, "in_file")]
