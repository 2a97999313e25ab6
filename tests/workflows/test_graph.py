"""The graph of a run over every option, without running it."""

from dataclasses import replace
from itertools import cycle, product

import pytest
from nipype.interfaces.base import isdefined
from nipype.pipeline.engine.utils import generate_expanded_graph

from qsmflow.bids.atlases import Atlas
from qsmflow.interfaces.learned import CorrectMotion, Model
from qsmflow.reports.methods import cite
from qsmflow.workflows.base import init_qsmflow_wf, log_dir
from qsmflow.workflows.memory import PROCESS_GB

METHODS = {
    "medi": "liu2012medi",
    "tv": "milovic2018",
    "tkd": "shmueli2009",
    "deepqsm": "bollmann2019deepqsm",
}
BACKGROUNDS = {"pdf": "liu2011pdf", "vsharp": "wu2012vsharp"}
REFERENCES = {"csf": "ventricular", "brain": "to the mean of the brain mask.", "none": "not referenced"}
MOTION = {"auto": "or more, a corrected map", "on": "The corrected map was written", "off": ""}
MODELS = {kind: Model(f"/models/{kind}", f"my-{kind}", "0f") for kind in ("deepqsm", "unet", "prenet")}
READOUTS = {"one echo": (1, False), "four echoes": (4, False), "bipolar": (4, True)}
# All combinations of these, with each reference, background removal and way with motion beside each of
# their values.
OPTIONS = [
    (reference, background, motion, *others)
    for others, reference, background, motion in zip(
        product(READOUTS, METHODS, (False, True), (False, True)),
        cycle(REFERENCES),
        cycle([*BACKGROUNDS, *reversed(BACKGROUNDS)]),
        cycle([*MOTION, "off", "auto"]),
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


@pytest.mark.parametrize(
    ("reference", "background", "motion", "readout", "inversion", "low_mem", "own_mask"), OPTIONS
)
def test_every_option_builds_a_complete_graph(
    make_settings, make_job, reference, background, motion, readout, inversion, low_mem, own_mask
):
    n_echoes, bipolar = READOUTS[readout]
    settings = make_settings(
        background=background,
        inversion=inversion,
        reference=reference,
        motion_correction=motion,
        low_mem=low_mem,
        bipolar=bipolar,
    )
    job = make_job(n_echoes=n_echoes, own_mask=own_mask)
    workflow = init_qsmflow_wf(settings, [job], models=MODELS, run_id="run", use_gpu=False)
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
    assert ("correct" in found) == (motion != "off")
    for name in ("write_motioncorrected_Chimap", "write_motion_Chimap"):
        # Without a correction, what an earlier run wrote is taken away.
        assert (found[name].inputs.in_file is None) == (motion == "off")
    _check_methods(workflow, background, inversion, reference, own_mask, n_echoes, bipolar)
    _check_motion(workflow.visit_desc(), motion)


def _check_motion(text, motion):
    assert ("ren2019prenet" in text) == ("my-unet and my-prenet" in text) == (motion != "off")
    assert [name for name, words in MOTION.items() if words and words in text] == [motion] * (motion != "off")


def _check_methods(workflow, background, inversion, reference, own_mask, n_echoes, bipolar):
    """The methods text names what was chosen, and nothing else."""
    text = workflow.visit_desc()
    assert ("(model my-deepqsm)" in text) == (inversion == "deepqsm")
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
    settings = make_settings(random_seed=5, omp_nthreads=3, motion_correction="auto")
    jobs = [make_job(run="1"), make_job(run="2"), make_job(subject="02", session="a")]
    return settings, jobs, init_qsmflow_wf(settings, jobs, models=MODELS, run_id="20300101", use_gpu=True)


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
    stages |= {"plot_susceptibility": "figure", "correct": "motion", "residual": "residual"}
    assert {node: found[node].mem_gb for node in stages} == {node: memory[s] for node, s in stages.items()}
    for node in ("fit", "background", "invert", "correct"):
        assert found[node].n_procs == 3
        assert found[node].inputs.num_threads == 3
        assert found[node].inputs.use_gpu is True
    seeded = [node for node in flat(workflow) if hasattr(node.inputs, "random_seed")]
    assert len(seeded) >= 3 * 10
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
    found = nodes(init_qsmflow_wf(settings, [make_job()], models=MODELS, run_id="run", use_gpu=False))
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
    plain = nodes(init_qsmflow_wf(make_settings(), [make_job()], models=MODELS, run_id="run", use_gpu=False))
    assert plain["invert"].inputs.settings == {}
    assert plain["background"].inputs.max_steps == 100
    tkd = make_settings(inversion="tkd", tkd_threshold=0.1)
    found = nodes(init_qsmflow_wf(tkd, [make_job()], models=MODELS, run_id="run", use_gpu=False))
    assert found["invert"].inputs.threshold == 0.1
    tv = make_settings(inversion="tv", tv_lambda=2e-4, background="vsharp")
    workflow = init_qsmflow_wf(tv, [make_job()], models=MODELS, run_id="run", use_gpu=False)
    assert nodes(workflow)["invert"].inputs.settings == {"regularisation": 2e-4}
    assert "discrepancy principle" not in workflow.visit_desc()
    assert (
        "discrepancy principle"
        in init_qsmflow_wf(
            make_settings(), [make_job()], models=MODELS, run_id="run", use_gpu=False
        ).visit_desc()
    )


def test_networks_reach_their_stages_with_the_memory_of_their_nodes(make_settings, make_job):
    settings = make_settings(inversion="deepqsm", motion_correction="on")
    workflow = init_qsmflow_wf(settings, [make_job()], models=MODELS, run_id="run", use_gpu=False)
    found = nodes(workflow)
    assert found["invert"].inputs.model == MODELS["deepqsm"]
    assert (found["correct"].inputs.unet, found["correct"].inputs.prenet) == (
        MODELS["unet"],
        MODELS["prenet"],
    )
    assert found["correct"].inputs.mode == "on"
    for node in ("invert", "correct"):
        assert found[node].inputs.memory_gb == pytest.approx(found[node].mem_gb - PROCESS_GB)


def test_memory_of_a_network_does_not_make_its_result_stale():
    def hashed(**inputs):
        given = {"unet": MODELS["unet"], "prenet": MODELS["prenet"], **inputs}
        return CorrectMotion(**given).inputs.get_hashval()[1]

    assert hashed() == hashed(memory_gb=1.0) == hashed(memory_gb=2.0)
    assert hashed() != hashed(unet=replace(MODELS["unet"], sha256="1e"))


@pytest.mark.parametrize("motion", ["auto", "off"])
def test_each_label_image_is_measured_and_without_any_nothing_stays(
    make_settings, make_job, tmp_path, motion
):
    labels, brain = tmp_path / "labels.nii", tmp_path / "brain.nii"
    for path in (labels, brain):
        path.touch()
    atlases = (Atlas("own", labels, {1: "caudate"}), Atlas("far", labels, template=brain))
    settings = make_settings(motion_correction=motion)
    job = replace(make_job(), atlases=atlases)
    workflow = init_qsmflow_wf(settings, [job], models=MODELS, run_id="run", use_gpu=False)
    graph = generate_expanded_graph(workflow._create_flat_graph())
    assert unmet(graph) == []
    found = {node.name: node for node in graph.nodes}
    assert found["regions_1"].inputs.names == {1: "caudate"}
    assert found["regions_1"].inputs.template is None
    assert found["regions_2"].inputs.template == str(brain)
    assert found["regions_2"].mem_gb == job.memory["regions"]
    assert found["plot_regions"].inputs.labels == ["map", "own", "far"]
    corrected = {source.name for source, target, data in graph.edges(data=True)
                 if target.name == "regions_1" and ("accepted", "corrected") in data["connect"]}  # fmt: skip
    assert corrected == ({"correct"} if motion == "auto" else set())
    none = nodes(init_qsmflow_wf(settings, [make_job()], models=MODELS, run_id="run", use_gpu=False))
    assert "regions_1" not in none
    for name in ("write_region_rows", "write_region_table", "write_region_figure"):
        assert none[name].inputs.in_file is None
        assert not isdefined(found[name].inputs.in_file)


def test_subjects_whose_names_interleave_stay_whole(make_settings, make_job):
    """Sorted by name, sub-01A stands between sub-01 and sub-01_acq-fast."""
    jobs = [make_job(), make_job(subject="01A"), make_job(acquisition="fast")]
    workflow = init_qsmflow_wf(make_settings(), jobs, models=MODELS, run_id="run", use_gpu=False)
    names = {name.rsplit(".", 1)[0] for name in workflow.list_node_names() if name.endswith("field_wf.fit")}
    assert names == {
        "sub_01_wf.sub_01_wf.field_wf",
        "sub_01_wf.sub_01_acq_fast_wf.field_wf",
        "sub_01A_wf.sub_01A_wf.field_wf",
    }
