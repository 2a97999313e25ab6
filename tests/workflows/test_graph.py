"""The graph of a run over every option, without running it."""

from itertools import cycle, product

import pytest
from nipype.interfaces.base import isdefined
from nipype.pipeline.engine.utils import generate_expanded_graph

from qsmflow.reports.methods import cite
from qsmflow.workflows.base import init_qsmflow_wf, log_dir

METHODS = {"medi": "liu2012medi", "tv": "milovic2018", "tkd": "shmueli2009"}
BACKGROUNDS = {"pdf": "liu2011pdf", "vsharp": "wu2012vsharp"}
REFERENCES = {"csf": "ventricular", "brain": "to the mean of the brain mask.", "none": "not referenced"}
READOUTS = {"one echo": (1, False), "four echoes": (4, False), "bipolar": (4, True)}
# All combinations of these, with each reference and background removal beside each of their values.
OPTIONS = [
    (reference, background, *others)
    for others, reference, background in zip(
        product(READOUTS, METHODS, (False, True), (False, True)),
        cycle(REFERENCES),
        cycle([*BACKGROUNDS, *reversed(BACKGROUNDS)]),
        strict=False,
    )
]


def flat(workflow) -> list:
    """All nodes, which know their place in the workflow."""
    return list(workflow._create_flat_graph().nodes)


def nodes(workflow) -> dict:
    """Nodes by the last part of their name, without those that only hand on."""
    return {node.name: node for node in flat(workflow) if node.name not in ("inputnode", "outputnode")}


def unmet(graph) -> list[str]:
    """Mandatory inputs that are neither set nor connected."""
    connected = {(node, target) for _, node, data in graph.edges(data=True) for _, target in data["connect"]}
    return [
        f"{node.fullname}.{name}"
        for node in graph.nodes
        for name in node.inputs.traits(mandatory=True)
        if not isdefined(getattr(node.inputs, name)) and (node, name) not in connected
    ]


@pytest.mark.parametrize(("reference", "background", "readout", "inversion", "low_mem", "own_mask"), OPTIONS)
def test_every_option_builds_a_complete_graph(
    make_settings, make_job, reference, background, readout, inversion, low_mem, own_mask
):
    n_echoes, bipolar = READOUTS[readout]
    settings = make_settings(
        background=background, inversion=inversion, reference=reference, low_mem=low_mem, bipolar=bipolar
    )
    job = make_job(n_echoes=n_echoes, own_mask=own_mask)
    workflow = init_qsmflow_wf(settings, [job], run_id="run", use_gpu=False)
    graph = generate_expanded_graph(workflow._create_flat_graph())
    assert len({node.fullname for node in graph.nodes}) == len(graph.nodes)
    assert unmet(graph) == []
    found = {node.name: node for node in graph.nodes}
    assert ("csf" in found) == (inversion == "medi")
    assert ("write_R2starmap" in found) == (n_echoes > 1)
    assert found["fit"].inputs.bipolar is bipolar
    assert (found["fit"].inputs.slabs > 1) == low_mem
    assert found["refine"].inputs.keep_whole is own_mask
    assert (found["mask"].inputs.mask_file is not None) == own_mask
    assert found["reference"].inputs.reference == reference
    _check_methods(workflow, background, inversion, reference, own_mask, n_echoes, bipolar)


def _check_methods(workflow, background, inversion, reference, own_mask, n_echoes, bipolar):
    """The methods text names what was chosen, and nothing else."""
    text = workflow.visit_desc()
    keys = cite(text).keys
    chosen = {METHODS[inversion], BACKGROUNDS[background]}
    assert chosen | {"bioucasdias2007", "gorgolewski2011nipype"} <= set(keys)
    assert not ({*METHODS.values(), *BACKGROUNDS.values()} - chosen) & set(keys)
    assert [name for name, words in REFERENCES.items() if words in text] == [reference]
    assert ("mask was given" in text) == own_mask
    assert ("4 echoes (TE 4.00 to 16.00 ms)" in text) == (n_echoes == 4)
    assert ("over the echo time of 4.00 ms" in text) == (n_echoes == 1)
    assert ("alternating readout" in text) == bipolar


@pytest.fixture
def two_subjects(make_settings, make_job):
    """Settings and a workflow of two subjects, one with two runs."""
    settings = make_settings(random_seed=5, omp_nthreads=3)
    jobs = [make_job(run="1"), make_job(run="2"), make_job(subject="02", session="a")]
    return settings, jobs, init_qsmflow_wf(settings, jobs, run_id="20300101", use_gpu=True)


def test_every_acquisition_has_a_workflow_of_its_own(two_subjects):
    _, _, workflow = two_subjects
    fits = [node.fullname for node in flat(workflow) if node.name == "fit"]
    assert sorted(fits) == [
        "qsmflow_wf.sub_01_wf.sub_01_run_1_wf.field_wf.fit",
        "qsmflow_wf.sub_01_wf.sub_01_run_2_wf.field_wf.fit",
        "qsmflow_wf.sub_02_wf.sub_02_ses_a_wf.field_wf.fit",
    ]
    assert unmet(generate_expanded_graph(workflow._create_flat_graph())) == []


def test_crash_files_go_to_the_subject(two_subjects):
    settings, _, workflow = two_subjects
    for node in flat(workflow):
        subject = node.fullname.split(".")[1][4:6]
        folder = node.config["execution"]["crashdump_dir"]
        assert folder == str(log_dir(settings.out_dir, subject, "20300101"))


def test_resources_reach_the_nodes(two_subjects):
    _, jobs, workflow = two_subjects
    found, memory = nodes(workflow), jobs[0].memory
    stages = {"scale": "scale", "mask": "mask", "refine": "mask", "fit": "fit", "unwrap": "unwrap"}
    stages |= {"background": "background", "sign": "sign", "invert": "invert", "reference": "mask"}
    stages |= {"plot_susceptibility": "figure"}
    assert {node: found[node].mem_gb for node in stages} == {node: memory[s] for node, s in stages.items()}
    for node in ("fit", "background", "invert"):
        assert found[node].n_procs == 3
        assert found[node].inputs.num_threads == 3
        assert found[node].inputs.use_gpu is True
    seeded = [node for node in flat(workflow) if hasattr(node.inputs, "random_seed")]
    assert len(seeded) >= 3 * 8
    assert {node.inputs.random_seed for node in seeded} == {5}


def test_settings_of_the_inversions_reach_them(make_settings, make_job):
    medi = {
        "medi_lambda": 1e-3,
        "medi_nonlinear": False,
        "medi_merit": False,
        "medi_outside_sources": True,
        "medi_smv_radius": 5.0,
        "medi_csf_lambda": 0.1,
    }
    settings = make_settings(**medi, medi_preset="simulation", phase_sign="-1", sloppy=True)
    found = nodes(init_qsmflow_wf(settings, [make_job()], run_id="run", use_gpu=False))
    assert found["invert"].inputs.preset == "simulation"
    assert found["invert"].inputs.settings == {
        "regularisation": 1e-3,
        "nonlinear": False,
        "merit": False,
        "outside_sources": True,
        "smv_radius": 5.0,
        "csf_regularisation": 0.1,
        "max_iterations": 10,
    }
    assert found["sign"].inputs.phase_sign == "-1"
    assert found["background"].inputs.max_steps == 30
    plain = nodes(init_qsmflow_wf(make_settings(), [make_job()], run_id="run", use_gpu=False))
    assert plain["invert"].inputs.settings == {}
    assert plain["background"].inputs.max_steps == 100
    tkd = make_settings(inversion="tkd", tkd_threshold=0.1)
    found = nodes(init_qsmflow_wf(tkd, [make_job()], run_id="run", use_gpu=False))
    assert found["invert"].inputs.threshold == 0.1
    tv = make_settings(inversion="tv", tv_lambda=2e-4, background="vsharp")
    workflow = init_qsmflow_wf(tv, [make_job()], run_id="run", use_gpu=False)
    assert nodes(workflow)["invert"].inputs.settings == {"regularisation": 2e-4}
    assert "discrepancy principle" not in workflow.visit_desc()
    assert (
        "discrepancy principle"
        in init_qsmflow_wf(make_settings(), [make_job()], run_id="run", use_gpu=False).visit_desc()
    )


def test_subjects_whose_names_interleave_stay_whole(make_settings, make_job):
    """Sorted by name, sub-01A stands between sub-01 and sub-01_acq-fast."""
    jobs = [make_job(), make_job(subject="01A"), make_job(acquisition="fast")]
    workflow = init_qsmflow_wf(make_settings(), jobs, run_id="run", use_gpu=False)
    names = {name.rsplit(".", 1)[0] for name in workflow.list_node_names() if name.endswith("field_wf.fit")}
    assert names == {
        "sub_01_wf.sub_01_wf.field_wf",
        "sub_01_wf.sub_01_acq_fast_wf.field_wf",
        "sub_01A_wf.sub_01A_wf.field_wf",
    }
