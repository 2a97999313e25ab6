"""What the tissues of a digital head are made of: means and spread over adults, and subjects drawn from them.

Values are those at 3 T; :meth:`TissueSample.at` takes them to another field strength. A :class:`Spread` is
the spread of subjects' means over healthy adults of 20 to 80 years (over lesions, for lesions); how a
property varies inside one tissue of one subject is its texture. What of it is published and what estimated
stands with the tables.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from types import MappingProxyType

import torch

#: Field strength that the table is for, T.
REFERENCE_FIELD = 3.0

#: Correlation over subjects of susceptibility and R2* in tissues whose iron makes both; an estimate.
_IRON_CORRELATION = 0.7

#: R2* never falls below this share of its value at 3 T, however weak the field.
_LEAST_R2STAR = 0.25

_STANDARD = NormalDist()


@dataclass(frozen=True)
class Spread:
    """One property of one tissue over adults: a normal distribution cut off at both ends.

    Parameters
    ----------
    mean : float
        Over subjects.
    deviation : float
        Standard deviation between subjects.
    lower, upper : float
        What the means of all subjects lie between.

    Raises
    ------
    ValueError
        If the mean is not between the bounds or the deviation is negative.

    Examples
    --------
    >>> round(Spread(0.13, 0.02, 0.08, 0.18).value(1.0), 3)
    0.15
    """

    mean: float
    deviation: float
    lower: float
    upper: float

    def __post_init__(self):
        if not self.lower <= self.mean <= self.upper or self.deviation < 0:
            raise ValueError(f"{self}: want lower ≤ mean ≤ upper and a deviation of zero or more")

    def value(self, normal: float, *, spread: float = 1.0, positive: bool = False) -> float:
        """Value that belongs to a standard normal number.

        The number keeps its quantile in the truncated distribution, so one draw is one value, whatever
        the bounds, and values are in proportion to ``spread`` about the mean.

        Parameters
        ----------
        normal : float
            Standard normal number.
        spread : float
            Factor on the deviation and on the distance of both bounds from the mean.
        positive : bool
            Keep the value above the lower bound over the spread, where a wide spread would pass zero.

        Returns
        -------
        float
        """
        if self.deviation == 0:
            return self.mean
        first, last = (_STANDARD.cdf((end - self.mean) / self.deviation) for end in (self.lower, self.upper))
        quantile = first + (last - first) * _STANDARD.cdf(normal)
        # Numbers far out in the tails have quantiles that round to 0 or 1.
        quantile = min(max(quantile, 1e-15), 1 - 1e-15)
        value = self.mean + spread * self.deviation * _STANDARD.inv_cdf(quantile)
        return max(value, self.lower / max(spread, 1.0)) if positive else value


@dataclass(frozen=True)
class Tissue:
    """Magnetic and relaxation properties of one tissue over adults.

    Parameters
    ----------
    susceptibility : Spread
        ppm, relative to water.
    r2star : Spread
        1/s at 3 T.
    proton_density : Spread
        Relative to water.
    t1 : Spread
        s at 3 T.
    texture : float
        Standard deviation of the susceptibility inside the tissue, ppm.
    r2star_per_tesla : float
        Growth of R2* with the field strength, 1/s/T.
    r2star_per_ppm : float
        R2* that local susceptibility adds, 1/s per ppm at 3 T; zero where iron does not make it.
    t1_exponent : float
        T1 grows as B0 to this power.
    chemical_shift : float
        ppm of frequency against water, without a susceptibility that would cause it.
    references : tuple of str
        DOIs of where the means stand.
    """

    susceptibility: Spread
    r2star: Spread
    proton_density: Spread
    t1: Spread
    texture: float = 0.0
    r2star_per_tesla: float = 0.0
    r2star_per_ppm: float = 0.0
    t1_exponent: float = 0.0
    chemical_shift: float = 0.0
    references: tuple[str, ...] = ()


@dataclass(frozen=True)
class TissueSample:
    """One tissue of one subject; the meaning of each property is that of :class:`Tissue`.

    Examples
    --------
    >>> sample = draw_tissues(torch.Generator().manual_seed(0), spread=0)["white matter"]
    >>> sample.at(7.0).r2star > sample.r2star > sample.at(1.5).r2star > 0
    True
    """

    susceptibility: float
    texture: float
    r2star: float
    r2star_per_tesla: float
    r2star_per_ppm: float
    proton_density: float
    t1: float
    t1_exponent: float
    chemical_shift: float

    def at(self, field_strength: float) -> "TissueSample":
        """The same tissue at another field strength in T: R2*, what iron adds to it, and T1."""
        growth = field_strength / REFERENCE_FIELD
        r2star = self.r2star + self.r2star_per_tesla * (field_strength - REFERENCE_FIELD)
        return replace(
            self,
            r2star=max(r2star, _LEAST_R2STAR * self.r2star),
            r2star_per_ppm=self.r2star_per_ppm * growth,
            t1=self.t1 * growth**self.t1_exponent,
        )


def draw_tissues(generator: torch.Generator, *, spread: float = 1.0) -> dict[str, TissueSample]:
    """Tissues of one subject.

    Parameters
    ----------
    generator : torch.Generator
        On the CPU; four numbers a tissue are taken from it, whatever the spread.
    spread : float
        0 gives the means, 1 the spread of adults, more than 1 a wider one for training:
        deviations and bounds grow by this factor while R2*, proton density and T1 stay positive.

    Returns
    -------
    dict of str to TissueSample
        By the names of :data:`TISSUES`.

    Raises
    ------
    ValueError
        If the spread is negative or not finite.

    Examples
    --------
    >>> tissues = draw_tissues(torch.Generator().manual_seed(1))
    >>> tissues["globus pallidus"].susceptibility > tissues["white matter"].susceptibility
    True
    """
    if not 0 <= spread < math.inf:
        raise ValueError(f"the spread must be zero or more, not {spread}")
    normals = torch.randn(len(TISSUES), 4, generator=generator, dtype=torch.float64).tolist()
    return {
        name: _draw_tissue(tissue, normal, spread=spread)
        for (name, tissue), normal in zip(TISSUES.items(), normals, strict=True)
    }


def _draw_tissue(tissue: Tissue, normal: Sequence[float], *, spread: float) -> TissueSample:
    susceptibility, r2star, proton_density, t1 = normal
    if tissue.r2star_per_ppm:
        own = math.sqrt(1 - _IRON_CORRELATION**2)
        r2star = _IRON_CORRELATION * susceptibility + own * r2star
    return TissueSample(
        susceptibility=tissue.susceptibility.value(susceptibility, spread=spread),
        texture=tissue.texture,
        r2star=tissue.r2star.value(r2star, spread=spread, positive=True),
        r2star_per_tesla=tissue.r2star_per_tesla,
        r2star_per_ppm=tissue.r2star_per_ppm,
        proton_density=tissue.proton_density.value(proton_density, spread=spread, positive=True),
        t1=tissue.t1.value(t1, spread=spread, positive=True),
        t1_exponent=tissue.t1_exponent,
        chemical_shift=tissue.chemical_shift,
    )


# What is published. Susceptibility in ppm against water unless said, mean ± deviation between subjects.
# Head phantom of the QSM challenge 2.0, one subject; its nigra holds the subthalamic nucleus.
_CHALLENGE = "10.1002/mrm.28716"
# Air 0.36, water -9.05.
_AIR = "10.1118/1.597854"
# Skull -2.1 ± 0.6, teeth -3.3 ± 1.2 against soft tissue.
_BONE = "10.1002/mrm.25350"
# Caudate, putamen, pallidum, thalamus of adults, against references that differ from study to study:
_DEEP = (
    _CHALLENGE,
    # 0.042, 0.041, 0.125, -0.003 (95 of 21 to 58 years, 3 T)
    "10.21037/qims-21-87",
    # 0.042, 0.038, 0.082, 0.023 (42 of 25 to 78 years, 3 T)
    "10.1002/nbm.3366",
    # 0.089, 0.088, 0.191, 0.012 (183 of 20 to 69 years, 1.5 T)
    "10.1016/j.neuroimage.2015.07.050",
    # about 0.025, 0.018, 0.105, 0.006 (age courses of 498, at 25 to 30 years, 3 T)
    "10.1002/hbm.25569",
)
# Subthalamic nucleus 0.06, substantia nigra 0.10.
_SUBTHALAMIC = "10.1002/hbm.21404"
# Blood: 4π (0.273 · haematocrit · deoxygenated share - 0.008); the brain extracts 37 ± 4 % of the oxygen.
_BLOOD = "10.1002/mrm.23282"
_EXTRACTION = "10.1002/mrm.22556"
# Haematomas from fresh to old 0.57, 1.30, 1.14, 0.40 and, the chronic ones, 0.71 ± 0.31.
_HAEMATOMA = "10.1002/jmri.25143"
# What is below -0.10 to -0.15 in a choroid plexus is calcified on CT.
_PLEXUS = "10.64898/2026.05.26.26354154"
# Lesions of the first years 0.038 ± 0.013 above white matter; a rim is above the mean of its lesion.
_DEMYELINATED = "10.1148/radiol.13130353"
# R2* at 3 T: grey matter 15.2, white 18.8, caudate 24.2, putamen 31.7; also at 1.5 and 7 T.
_R2STAR = "10.1016/j.mri.2007.02.014"
# R2 + R2': pallidum 37.8, prefrontal cortex 17.8, frontal white matter 21.9.
_R2STAR_IRON = "10.1148/radiology.210.3.r99fe41759"
# Blood of which 39 % is deoxygenated: about 50.
_R2STAR_BLOOD = "10.1002/mrm.21342"
# Water: white matter 0.691 ± 0.017 and 0.71, grey matter 0.837 ± 0.012 and 0.83, CSF 1.
_WATER = "10.3389/fneur.2019.01333"
_WATER_T2 = "10.1002/mrm.1910370107"
# T1 in s at 3 T: white 0.838 ± 0.050, grey 1.607 ± 0.112, caudate 1.395 ± 0.049, putamen 1.332 ± 0.068;
_T1 = "10.1007/s10334-008-0104-8"
# white 0.887, grey 1.30, CSF 4.3 ± 0.2;
_T1_FIELD = "10.1002/mrm.21122"
# white 0.832, grey 1.331;
_T1_3T = "10.1002/(SICI)1522-2586(199904)9:4<531::AID-JMRI4>3.0.CO;2-L"
# muscle 1.42 ± 0.04; muscle 0.90 ± 0.03, subcutaneous fat 0.382 ± 0.013;
_T1_LIMB = "10.2214/ajr.183.2.1830343"
_T1_BODY = "10.1148/radiol.2303021331"
# venous blood 1.65 in the sagittal sinus, 1.58 in vitro (1.85 ± 0.10 in the jugular vein: PubMed 21500258).
_T1_SINUS = "10.1002/mrm.24550"
_T1_BLOOD = "10.1002/mrm.20178"

# One property a table, one tissue a line: mean, deviation, lower and upper bound, references. The mean is
# within two deviations of the first reference's, given above, or lies between those of several; where no
# reference stands it is our estimate. Deviations and bounds are our estimates; bounds hold the means of the
# references, in healthy adults with two deviations on either side.

_SUSCEPTIBILITY = {
    "air": (9.4, 0.0, 9.4, 9.4, _AIR),
    "bone": (-2.1, 0.25, -3.3, -0.9, _BONE, _CHALLENGE),
    "muscle": (0.0, 0.01, -0.03, 0.03, _CHALLENGE),
    # From the phantom's value to what lipid is taken to have.
    "fat": (0.3, 0.15, 0.019, 0.70, _CHALLENGE),
    "skin": (0.0, 0.01, -0.03, 0.03),
    "csf": (0.019, 0.005, 0.005, 0.035, _CHALLENGE),
    "eye": (0.0, 0.005, -0.015, 0.015),
    "white matter": (-0.030, 0.007, -0.050, -0.012, _CHALLENGE),
    "corpus callosum": (-0.035, 0.008, -0.060, -0.015),
    "optic radiation": (-0.042, 0.008, -0.065, -0.022),
    "grey matter": (0.020, 0.006, 0.004, 0.040, _CHALLENGE),
    "caudate": (0.044, 0.012, 0.000, 0.115, *_DEEP),
    "putamen": (0.038, 0.015, -0.012, 0.120, *_DEEP),
    "globus pallidus": (0.131, 0.022, 0.035, 0.240, *_DEEP),
    "thalamus": (0.020, 0.010, -0.025, 0.045, *_DEEP),
    "subthalamic nucleus": (0.090, 0.025, 0.010, 0.180, _CHALLENGE, _SUBTHALAMIC),
    "red nucleus": (0.100, 0.025, 0.040, 0.170, _CHALLENGE),
    "substantia nigra": (0.111, 0.025, 0.050, 0.180, _CHALLENGE, _SUBTHALAMIC),
    "dentate": (0.152, 0.028, 0.070, 0.210, _CHALLENGE),
    # Of haematocrit 0.42, arteries 2 % deoxygenated.
    "vein": (0.45, 0.06, 0.19, 0.65, _BLOOD, _EXTRACTION),
    "pineal gland": (-0.40, 0.25, -1.2, -0.10),
    "microbleed": (0.71, 0.31, 0.08, 1.96, _HAEMATOMA),
    # Between what is just seen in a choroid plexus and teeth.
    "calcification": (-0.80, 0.45, -3.3, -0.10, _PLEXUS, _BONE),
    "iron lesion": (0.05, 0.02, 0.008, 0.12, _DEMYELINATED),
}

_R2STARS = {
    "air": (0.0, 0.0, 0.0, 0.0),
    "bone": (600.0, 100.0, 300.0, 900.0),
    "muscle": (33.0, 3.0, 26.0, 42.0),
    "fat": (35.0, 6.0, 22.0, 50.0),
    "skin": (45.0, 8.0, 25.0, 70.0),
    "csf": (2.0, 0.5, 1.0, 4.0),
    "eye": (2.5, 0.5, 1.5, 4.0),
    "white matter": (19.5, 1.3, 16.0, 25.0, _R2STAR, _R2STAR_IRON),
    "corpus callosum": (19.5, 1.3, 16.0, 23.0),
    "optic radiation": (27.0, 1.6, 20.0, 33.0),
    "grey matter": (15.2, 1.2, 12.0, 21.0, _R2STAR, _R2STAR_IRON),
    "caudate": (24.0, 2.5, 18.5, 31.0, _R2STAR),
    "putamen": (30.0, 3.5, 20.0, 39.0, _R2STAR),
    "globus pallidus": (38.0, 4.5, 28.0, 50.0, _R2STAR_IRON),
    "thalamus": (21.0, 1.6, 17.0, 25.5),
    "subthalamic nucleus": (35.0, 4.5, 25.0, 46.0),
    "red nucleus": (33.0, 4.0, 24.0, 43.0),
    "substantia nigra": (36.0, 4.5, 26.0, 47.0),
    "dentate": (30.0, 4.0, 21.0, 40.0),
    "vein": (48.0, 7.0, 30.0, 66.0, _R2STAR_BLOOD),
    "pineal gland": (80.0, 20.0, 40.0, 140.0),
    "microbleed": (150.0, 40.0, 80.0, 250.0),
    "calcification": (120.0, 35.0, 50.0, 220.0),
    "iron lesion": (24.0, 3.5, 17.0, 34.0),
}

_PROTON_DENSITY = {
    "air": (0.0, 0.0, 0.0, 0.0),
    "bone": (0.15, 0.03, 0.08, 0.25),
    "muscle": (0.75, 0.02, 0.70, 0.80),
    "fat": (0.90, 0.03, 0.80, 1.0),
    "skin": (0.70, 0.03, 0.60, 0.80),
    "csf": (1.0, 0.01, 0.97, 1.02, _WATER),
    "eye": (0.98, 0.01, 0.95, 1.0),
    "white matter": (0.70, 0.015, 0.655, 0.745, _WATER, _WATER_T2),
    "corpus callosum": (0.69, 0.015, 0.65, 0.73),
    "optic radiation": (0.71, 0.015, 0.67, 0.75),
    "grey matter": (0.83, 0.015, 0.79, 0.87, _WATER, _WATER_T2),
    "caudate": (0.82, 0.015, 0.78, 0.86),
    "putamen": (0.82, 0.015, 0.78, 0.86),
    "globus pallidus": (0.74, 0.02, 0.69, 0.79),
    "thalamus": (0.78, 0.015, 0.74, 0.82),
    "subthalamic nucleus": (0.77, 0.02, 0.72, 0.82),
    "red nucleus": (0.76, 0.02, 0.71, 0.81),
    "substantia nigra": (0.76, 0.02, 0.71, 0.81),
    "dentate": (0.78, 0.02, 0.73, 0.83),
    "vein": (0.85, 0.02, 0.80, 0.90),
    "pineal gland": (0.50, 0.05, 0.38, 0.62),
    "microbleed": (0.60, 0.05, 0.48, 0.72),
    "calcification": (0.35, 0.06, 0.20, 0.50),
    "iron lesion": (0.84, 0.02, 0.79, 0.89),
}

_T1S = {
    "air": (1.0, 0.0, 1.0, 1.0),
    "bone": (0.40, 0.04, 0.30, 0.50),
    "muscle": (1.42, 0.05, 0.80, 1.55, _T1_LIMB, _T1_BODY),
    "fat": (0.38, 0.02, 0.33, 0.43, _T1_BODY),
    "skin": (0.90, 0.08, 0.70, 1.10),
    "csf": (4.3, 0.2, 3.9, 4.7, _T1_FIELD),
    "eye": (4.0, 0.15, 3.6, 4.4),
    "white matter": (0.87, 0.05, 0.73, 1.08, _T1, _T1_FIELD, _T1_3T),
    "corpus callosum": (0.85, 0.05, 0.74, 1.00),
    "optic radiation": (0.80, 0.05, 0.68, 0.95),
    "grey matter": (1.61, 0.10, 1.10, 1.84, _T1, _T1_FIELD, _T1_3T),
    "caudate": (1.395, 0.05, 1.28, 1.51, _T1),
    "putamen": (1.33, 0.07, 1.18, 1.48, _T1),
    "globus pallidus": (1.04, 0.05, 0.92, 1.16),
    "thalamus": (1.22, 0.06, 1.08, 1.36),
    "subthalamic nucleus": (1.12, 0.06, 0.98, 1.26),
    "red nucleus": (1.10, 0.06, 0.96, 1.24),
    "substantia nigra": (1.15, 0.06, 1.01, 1.29),
    "dentate": (1.15, 0.06, 1.01, 1.29),
    "vein": (1.65, 0.08, 1.42, 2.06, _T1_SINUS, _T1_BLOOD),
    "pineal gland": (1.0, 0.08, 0.80, 1.20),
    "microbleed": (1.0, 0.08, 0.80, 1.20),
    "calcification": (1.0, 0.08, 0.80, 1.20),
    "iron lesion": (1.35, 0.10, 1.10, 1.60),
}

# Standard deviation of the susceptibility within a tissue, ppm; estimates.
_TEXTURE = {
    **{"bone": 0.05, "muscle": 0.02, "fat": 0.02, "skin": 0.01, "csf": 0.002, "vein": 0.005},
    **{"white matter": 0.010, "corpus callosum": 0.008, "optic radiation": 0.008, "grey matter": 0.010},
    **{"caudate": 0.008, "putamen": 0.010, "globus pallidus": 0.012, "thalamus": 0.012, "dentate": 0.012},
    **{"subthalamic nucleus": 0.012, "red nucleus": 0.010, "substantia nigra": 0.012},
    **{"pineal gland": 0.10, "microbleed": 0.10, "calcification": 0.10, "iron lesion": 0.010},
}

# R2* that does not grow with the field, 1/s: lines through the published R2* of grey matter, white matter,
# caudate and putamen at 1.5, 3 and 7 T leave 6 to 8 at 0 T. The rest is in proportion to B0; fluids do not
# grow.
_FIELDLESS_R2STAR = 6.5
_FLUIDS = {"air", "csf", "eye"}
# That of venous blood grows faster; an estimate, to 135 1/s at 7 T.
_R2STAR_PER_TESLA = {"vein": 22.0}

# 1/s per ppm at 3 T of the susceptibility that iron makes; an estimate.
_R2STAR_PER_PPM = 120.0
_IRON_RICH = {
    *("grey matter", "caudate", "putamen", "globus pallidus", "thalamus", "subthalamic nucleus"),
    *("red nucleus", "substantia nigra", "dentate", "iron lesion"),
}

# Slopes of ln T1 over ln B0: white and grey matter, caudate and putamen from 1.5 to 7 T and blood from 3 to
# 7 T as published; other deep nuclei as those two, the rest estimates.
_DEEP_T1_EXPONENT = 0.27
_T1_EXPONENT = {
    **{"air": 0.0, "csf": 0.0, "eye": 0.0, "bone": 0.0, "fat": 0.25, "muscle": 0.35, "skin": 0.3},
    **{"white matter": 0.36, "corpus callosum": 0.36, "optic radiation": 0.36, "grey matter": 0.31},
    **{"vein": 0.28, "iron lesion": 0.31},
}

_CHEMICAL_SHIFT = {"fat": -3.4}


def _growth(name: str) -> float:
    """R2* in 1/s that each tesla adds."""
    if name in _FLUIDS:
        return 0.0
    return _R2STAR_PER_TESLA.get(name, (_R2STARS[name][0] - _FIELDLESS_R2STAR) / REFERENCE_FIELD)


def _tissue(name: str) -> Tissue:
    """One line of every table."""
    rows = [table[name] for table in (_SUSCEPTIBILITY, _R2STARS, _PROTON_DENSITY, _T1S)]
    susceptibility, r2star, proton_density, t1 = (Spread(*row[:4]) for row in rows)
    return Tissue(
        susceptibility=susceptibility,
        r2star=r2star,
        proton_density=proton_density,
        t1=t1,
        texture=_TEXTURE.get(name, 0.0),
        r2star_per_tesla=_growth(name),
        r2star_per_ppm=_R2STAR_PER_PPM if name in _IRON_RICH else 0.0,
        t1_exponent=_T1_EXPONENT.get(name, _DEEP_T1_EXPONENT),
        chemical_shift=_CHEMICAL_SHIFT.get(name, 0.0),
        references=tuple(dict.fromkeys(reference for row in rows for reference in row[4:])),
    )


#: Tissues by name.
TISSUES: Mapping[str, Tissue] = MappingProxyType({name: _tissue(name) for name in _SUSCEPTIBILITY})
