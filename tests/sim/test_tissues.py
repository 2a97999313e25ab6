import dataclasses
import math
import re

import pytest
import torch

from qsmflow.sim.tissues import TISSUES, Spread, draw_tissues

PROPERTIES = ("susceptibility", "r2star", "proton_density", "t1")
NUCLEI = ("caudate", "putamen", "globus pallidus", "thalamus", "red nucleus", "substantia nigra", "dentate")
#: Tissues of which every mean is an estimate.
UNPUBLISHED = {"skin", "eye", "corpus callosum", "optic radiation", "pineal gland"}
#: Means over subjects, and deviations where they are known, by the identifier of the publication.
PUBLISHED = {
    "10.1002/mrm.25350": {("bone", "susceptibility"): (-2.1, 0.6)},
    "10.21037/qims-21-87": {
        ("caudate", "susceptibility"): (0.0422, 0),
        ("putamen", "susceptibility"): (0.0405, 0),
        ("globus pallidus", "susceptibility"): (0.1245, 0),
        ("thalamus", "susceptibility"): (-0.0028, 0),
    },
    "10.1016/j.neuroimage.2015.07.050": {
        ("caudate", "susceptibility"): (0.0892, 0),
        ("putamen", "susceptibility"): (0.0880, 0),
        ("globus pallidus", "susceptibility"): (0.1911, 0),
        ("thalamus", "susceptibility"): (0.0118, 0),
    },
    "10.1002/hbm.21404": {
        ("subthalamic nucleus", "susceptibility"): (0.06, 0),
        ("substantia nigra", "susceptibility"): (0.10, 0),
    },
    "10.1002/jmri.25143": {("microbleed", "susceptibility"): (0.71, 0.31)},
    "10.1148/radiology.210.3.r99fe41759": {
        ("globus pallidus", "r2star"): (37.8, 2.4),
        ("white matter", "r2star"): (21.9, 0),
        ("grey matter", "r2star"): (17.8, 0),
    },
    "10.3389/fneur.2019.01333": {
        ("white matter", "proton_density"): (0.691, 0.017),
        ("grey matter", "proton_density"): (0.837, 0.012),
    },
    "10.1007/s10334-008-0104-8": {
        ("white matter", "t1"): (0.838, 0.050),
        ("grey matter", "t1"): (1.607, 0.112),
        ("caudate", "t1"): (1.395, 0.049),
        ("putamen", "t1"): (1.332, 0.068),
    },
    "10.1002/mrm.21122": {("csf", "t1"): (4.3, 0.2)},
    "10.1148/radiol.2303021331": {("fat", "t1"): (0.382, 0.013), ("muscle", "t1"): (0.898, 0.033)},
}


def drawn(n, *, seed=0, spread=1.0):
    generator = torch.Generator().manual_seed(seed)
    return [draw_tissues(generator, spread=spread) for _ in range(n)]


def values(subjects, name, prop):
    return torch.tensor([getattr(subject[name], prop) for subject in subjects])


def test_no_spread_gives_the_means():
    (subject,) = drawn(1, spread=0)
    for name, tissue in TISSUES.items():
        for prop in PROPERTIES:
            assert getattr(subject[name], prop) == pytest.approx(getattr(tissue, prop).mean, abs=1e-7)


def test_subjects_lie_within_the_bounds():
    subjects = drawn(200)
    for name, tissue in TISSUES.items():
        for prop in PROPERTIES:
            spread, found = getattr(tissue, prop), values(subjects, name, prop)
            slack = 1e-5 * max(abs(spread.lower), abs(spread.upper))
            assert spread.lower - slack <= found.min() and found.max() <= spread.upper + slack, (name, prop)


def test_values_follow_a_truncated_normal_distribution():
    normal = torch.randn(5000, generator=torch.Generator().manual_seed(1)).tolist()
    wide, cut = Spread(2.0, 0.5, -8.0, 12.0), Spread(2.0, 0.5, 1.5, 2.5)
    assert [wide.value(number) for number in normal] == pytest.approx([2 + 0.5 * number for number in normal])
    # Cut off at one deviation on both sides: the variance is 1 - 2φ(1)/(2Φ(1) - 1).
    density = math.exp(-0.5) / math.sqrt(2 * math.pi)
    expected = 0.5 * math.sqrt(1 - 2 * density / math.erf(1 / math.sqrt(2)))
    assert float(torch.tensor([cut.value(number) for number in normal]).std()) == pytest.approx(
        expected, rel=0.03
    )
    assert cut.value(-40.0) >= 1.5 and cut.value(40.0) <= 2.5


def test_spread_widens_about_the_mean_and_keeps_positive_what_is_positive():
    for name, tissue in TISSUES.items():
        single, triple = (drawn(1, seed=5, spread=spread)[0][name] for spread in (1.0, 3.0))
        mean = tissue.susceptibility.mean
        assert triple.susceptibility - mean == pytest.approx(3 * (single.susceptibility - mean), abs=1e-5)
    subjects = drawn(200, spread=6)
    for name, tissue in TISSUES.items():
        for prop in ("r2star", "proton_density", "t1"):
            assert values(subjects, name, prop).min() > 0 or getattr(tissue, prop).mean == 0


def test_draws_depend_on_the_generator_only():
    assert drawn(2, seed=3) == drawn(2, seed=3)
    assert drawn(1, seed=3) != drawn(1, seed=4)
    states = []
    for spread in (0.0, 1.0, 4.0):
        generator = torch.Generator().manual_seed(9)
        draw_tissues(generator, spread=spread)
        states.append(float(torch.rand(1, generator=generator)))
    assert len(set(states)) == 1


@pytest.mark.parametrize("spread", [-1.0, math.nan, math.inf])
def test_draws_refuse_a_spread_that_is_none(spread):
    with pytest.raises(ValueError, match="spread"):
        draw_tissues(torch.Generator(), spread=spread)


@pytest.mark.parametrize("wrong", [(1.0, 0.1, 1.1, 2.0), (1.0, -0.1, 0.0, 2.0), (1.0, 0.1, 0.0, 0.5)])
def test_spreads_refuse_nonsense(wrong):
    with pytest.raises(ValueError):
        Spread(*wrong)


def test_iron_makes_susceptibility_and_r2star_together():
    subjects = drawn(400)
    for name, least in [("globus pallidus", 0.5), ("putamen", 0.5)]:
        pair = torch.stack([values(subjects, name, prop) for prop in ("susceptibility", "r2star")])
        assert float(torch.corrcoef(pair)[0, 1]) > least
    pair = torch.stack([values(subjects, "white matter", prop) for prop in ("susceptibility", "r2star")])
    assert abs(float(torch.corrcoef(pair)[0, 1])) < 0.2


def test_r2star_grows_as_measured():
    # T2* in ms at 1.5, 3 and 7 T of Peters et al. 2007, 10.1016/j.mri.2007.02.014.
    published = {
        "grey matter": (84.0, 66.0, 33.2),
        "white matter": (66.2, 53.2, 26.8),
        "caudate": (58.8, 41.3, 19.9),
        "putamen": (55.5, 31.5, 16.1),
    }
    (subject,) = drawn(1, spread=0)
    for name, times in published.items():
        for field_strength, time in zip((1.5, 3.0, 7.0), times, strict=True):
            assert subject[name].at(field_strength).r2star == pytest.approx(1000 / time, rel=0.15)


def test_t1_grows_as_measured():
    # Mean and deviation in ms at 1.5 and 7 T of Wright et al. 2008, 10.1007/s10334-008-0104-8.
    published = {
        "grey matter": ((1197, 134), (1939, 149)),
        "putamen": ((1084, 63), (1644, 167)),
        "caudate": ((1109, 66), (1684, 76)),
        "white matter": ((646, 32), (1126, 97)),
    }
    (subject,) = drawn(1, spread=0)
    for name, measured in published.items():
        for field_strength, (mean, deviation) in zip((1.5, 7.0), measured, strict=True):
            assert abs(1e3 * subject[name].at(field_strength).t1 - mean) < 1.2 * deviation


def test_the_reference_field_changes_nothing_and_weak_fields_leave_some_r2star():
    (subject,) = drawn(1)
    for sample in subject.values():
        assert sample.at(3.0) == sample
        assert sample.at(0.05).r2star >= 0.2 * sample.r2star
        assert dataclasses.replace(sample.at(7.0), r2star=0, t1=0, r2star_per_ppm=0) == dataclasses.replace(
            sample, r2star=0, t1=0, r2star_per_ppm=0
        )


def test_order_of_the_tissues_is_that_of_a_susceptibility_map():
    means = {name: tissue.susceptibility.mean for name, tissue in TISSUES.items()}
    assert all(means[nucleus] >= means["grey matter"] > means["white matter"] for nucleus in NUCLEI)
    assert means["globus pallidus"] > means["caudate"]
    assert means["bone"] < means["calcification"] < 0 < means["vein"] < means["microbleed"] < means["air"]
    assert [name for name, tissue in TISSUES.items() if tissue.chemical_shift] == ["fat"]


@pytest.mark.parametrize("reference", PUBLISHED)
def test_bounds_hold_what_is_published(reference):
    for (name, prop), (mean, deviation) in PUBLISHED[reference].items():
        tissue = TISSUES[name]
        spread = getattr(tissue, prop)
        assert spread.lower <= mean - 2 * deviation and mean + 2 * deviation <= spread.upper, (name, prop)
        assert reference in tissue.references


def test_venous_blood_has_the_susceptibility_of_its_oxygen():
    # Susceptibility of red cells: Jain et al. 2012, 10.1002/mrm.23282; extraction: 10.1002/mrm.22556.
    haematocrit, arterial, extraction = 0.42, 0.98, 0.37
    deoxygenated = 1 - arterial * (1 - extraction)
    expected = 4 * math.pi * (0.273 * haematocrit * deoxygenated - 0.008)
    assert TISSUES["vein"].susceptibility.mean == pytest.approx(expected, abs=0.01)


def test_references_are_identifiers_and_the_brain_has_them():
    for name, tissue in TISSUES.items():
        assert all(re.fullmatch(r"10\.\d{4,9}/\S+", reference) for reference in tissue.references)
        assert tissue.references or name in UNPUBLISHED
