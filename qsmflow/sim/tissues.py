"""What the tissues of a digital head are made of: published values of adults, and subjects drawn from them.

Values are those at 3 T; :meth:`TissueSample.at` takes them to another field strength. A :class:`Spread` is
the spread of subjects' means over healthy adults of 20 to 80 years (over lesions, for lesions); how a
property varies inside one tissue of one subject is its texture.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from types import MappingProxyType

import torch

#: Field strength that the table is for, T.
REFERENCE_FIELD = 3.0

#: Correlation over subjects of susceptibility and R2* in tissues whose iron makes both.
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
        Of the published subject means.
    deviation : float
        Standard deviation between subjects.
    lower, upper : float
        What the published subject means lie between.

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
        DOIs of where the values stand.
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
        0 gives the published means, 1 the published spread, more than 1 a wider one for training:
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


# Where the values stand. The means of susceptibility are those of the head phantom of the QSM challenge 2.0.
_CHALLENGE = "10.1002/mrm.28716"
_AIR = "10.1118/1.597854"
_BONE = "10.1002/mrm.25350"
# Susceptibility and R2* of the deep nuclei from youth to old age, and across sites and field strengths.
_LIFESPAN = "10.1002/hbm.22360"
_DEEP_AGE = "10.1002/hbm.25569"
_DEEP_SITES = "10.3389/fnins.2020.607705"
_MIDBRAIN = "10.1371/journal.pone.0162460"
# Deoxygenated red cells are 4π·0.27 ppm above oxygenated ones.
_BLOOD = "10.1002/mrm.1072"
_BLOOD_R2STAR = "10.1002/mrm.21342"
_BLOOD_T1 = "10.1002/mrm.20178"
_MICROBLEED = "10.1148/radiol.11110251"
_RIM = "10.3174/ajnr.A6071"
# R2* at 1.5, 3 and 7 T; of the basal ganglia; of the midbrain.
_R2STAR = "10.1016/j.mri.2007.02.014"
_R2STAR_DEEP = "10.1002/hbm.20698"
_R2STAR_MIDBRAIN = "10.1371/journal.pone.0031748"
# T1 at 1.5, 3 and 7 T; at 3 T of many tissues; of deep nuclei.
_T1 = "10.1007/s10334-008-0104-8"
_T1_TISSUES = "10.1002/mrm.20605"
_T1_DEEP = "10.1002/1522-2594(200101)45:1<71::AID-MRM1011>3.0.CO;2-2"

# One property a table, one tissue a line: mean, deviation, lower and upper bound, references. Means are those
# of the first reference or lie between the named ones; deviations and bounds are estimates of what subjects
# of all adult ages span, not copied from one table. Where no reference stands the mean is an estimate too.

_SUSCEPTIBILITY = {
    "air": (9.4, 0.0, 9.4, 9.4, _AIR),
    "bone": (-2.1, 0.25, -2.7, -1.5, _BONE, _CHALLENGE),
    "muscle": (0.0, 0.01, -0.03, 0.03, _CHALLENGE),
    "fat": (0.3, 0.15, 0.019, 0.65, _CHALLENGE),
    "skin": (0.0, 0.01, -0.03, 0.03),
    "csf": (0.019, 0.005, 0.005, 0.035, _CHALLENGE),
    "eye": (0.0, 0.005, -0.015, 0.015),
    "white matter": (-0.030, 0.007, -0.050, -0.012, _CHALLENGE, _LIFESPAN),
    "corpus callosum": (-0.035, 0.008, -0.060, -0.015, _LIFESPAN),
    "optic radiation": (-0.042, 0.008, -0.065, -0.022, _LIFESPAN),
    "grey matter": (0.020, 0.006, 0.004, 0.040, _CHALLENGE, _LIFESPAN),
    "caudate": (0.044, 0.012, 0.015, 0.085, _CHALLENGE, _LIFESPAN, _DEEP_AGE, _DEEP_SITES),
    "putamen": (0.038, 0.015, 0.005, 0.100, _CHALLENGE, _LIFESPAN, _DEEP_AGE, _DEEP_SITES),
    "globus pallidus": (0.131, 0.022, 0.075, 0.200, _CHALLENGE, _LIFESPAN, _DEEP_AGE, _DEEP_SITES),
    "thalamus": (0.020, 0.010, -0.010, 0.045, _CHALLENGE, _DEEP_AGE, _DEEP_SITES),
    "subthalamic nucleus": (0.111, 0.025, 0.050, 0.180, _CHALLENGE),
    "red nucleus": (0.100, 0.025, 0.040, 0.170, _CHALLENGE, _LIFESPAN, _DEEP_SITES),
    "substantia nigra": (0.111, 0.025, 0.055, 0.180, _CHALLENGE, _LIFESPAN, _DEEP_SITES, _MIDBRAIN),
    "dentate": (0.152, 0.028, 0.070, 0.210, _CHALLENGE, _LIFESPAN, _DEEP_SITES),
    # From 0.19, the phantom's, to a haematocrit of 0.45 from which 36 % of the oxygen is taken.
    "vein": (0.40, 0.06, 0.19, 0.55, _CHALLENGE, _BLOOD),
    "pineal gland": (-0.40, 0.25, -1.2, -0.10),
    "microbleed": (0.80, 0.35, 0.25, 2.0, _MICROBLEED),
    "calcification": (-0.80, 0.45, -2.5, -0.15, _BONE),
    "iron lesion": (0.05, 0.02, 0.01, 0.12, _RIM),
}

_R2STARS = {
    "air": (0.0, 0.0, 0.0, 0.0),
    "bone": (600.0, 100.0, 300.0, 900.0),
    "muscle": (33.0, 3.0, 26.0, 42.0),
    "fat": (35.0, 6.0, 22.0, 50.0),
    "skin": (45.0, 8.0, 25.0, 70.0),
    "csf": (2.0, 0.5, 1.0, 4.0),
    "eye": (2.5, 0.5, 1.5, 4.0),
    "white matter": (19.5, 1.3, 16.0, 23.0, _R2STAR),
    "corpus callosum": (19.5, 1.3, 16.0, 23.0),
    "optic radiation": (22.5, 1.6, 18.5, 27.0),
    "grey matter": (15.2, 1.2, 12.0, 18.5, _R2STAR),
    "caudate": (24.0, 2.5, 18.5, 31.0, _R2STAR, _R2STAR_DEEP, _DEEP_AGE),
    "putamen": (27.0, 3.5, 20.0, 38.0, _R2STAR, _R2STAR_DEEP, _DEEP_AGE),
    "globus pallidus": (38.0, 4.5, 28.0, 50.0, _R2STAR_DEEP, _DEEP_AGE),
    "thalamus": (21.0, 1.6, 17.0, 25.5, _R2STAR_DEEP, _DEEP_AGE),
    "subthalamic nucleus": (35.0, 4.5, 25.0, 46.0),
    "red nucleus": (33.0, 4.0, 24.0, 43.0, _R2STAR_MIDBRAIN),
    "substantia nigra": (36.0, 4.5, 26.0, 47.0, _R2STAR_MIDBRAIN, _MIDBRAIN),
    "dentate": (30.0, 4.0, 21.0, 40.0),
    "vein": (42.0, 6.0, 30.0, 60.0, _BLOOD_R2STAR),
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
    "csf": (1.0, 0.01, 0.97, 1.02, _CHALLENGE),
    "eye": (0.98, 0.01, 0.95, 1.0),
    "white matter": (0.70, 0.015, 0.66, 0.74, _CHALLENGE),
    "corpus callosum": (0.69, 0.015, 0.65, 0.73),
    "optic radiation": (0.71, 0.015, 0.67, 0.75),
    "grey matter": (0.82, 0.015, 0.78, 0.86, _CHALLENGE),
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
    "muscle": (1.42, 0.05, 1.30, 1.55, _T1_TISSUES),
    "fat": (0.38, 0.02, 0.33, 0.43),
    "skin": (0.90, 0.08, 0.70, 1.10),
    "csf": (4.2, 0.12, 3.9, 4.5),
    "eye": (4.0, 0.15, 3.6, 4.4),
    "white matter": (0.90, 0.05, 0.79, 1.08, _T1, _T1_TISSUES),
    "corpus callosum": (0.85, 0.05, 0.74, 1.00),
    "optic radiation": (0.88, 0.05, 0.77, 1.02),
    "grey matter": (1.61, 0.10, 1.38, 1.84, _T1, _T1_TISSUES),
    "caudate": (1.395, 0.05, 1.28, 1.51, _T1),
    "putamen": (1.33, 0.07, 1.18, 1.48, _T1),
    "globus pallidus": (1.04, 0.05, 0.92, 1.16, _T1_DEEP),
    "thalamus": (1.22, 0.06, 1.08, 1.36, _T1_DEEP),
    "subthalamic nucleus": (1.12, 0.06, 0.98, 1.26),
    "red nucleus": (1.10, 0.06, 0.96, 1.24, _T1_DEEP),
    "substantia nigra": (1.15, 0.06, 1.01, 1.29, _T1_DEEP),
    "dentate": (1.15, 0.06, 1.01, 1.29),
    "vein": (1.65, 0.08, 1.50, 1.90, _BLOOD_T1),
    "pineal gland": (1.0, 0.08, 0.80, 1.20),
    "microbleed": (1.0, 0.08, 0.80, 1.20),
    "calcification": (1.0, 0.08, 0.80, 1.20),
    "iron lesion": (1.35, 0.10, 1.10, 1.60),
}

# Standard deviation of the susceptibility within a tissue, ppm.
_TEXTURE = {
    **{"bone": 0.05, "muscle": 0.02, "fat": 0.02, "skin": 0.01, "csf": 0.002, "vein": 0.005},
    **{"white matter": 0.010, "corpus callosum": 0.008, "optic radiation": 0.008, "grey matter": 0.010},
    **{"caudate": 0.008, "putamen": 0.010, "globus pallidus": 0.012, "thalamus": 0.012, "dentate": 0.012},
    **{"subthalamic nucleus": 0.012, "red nucleus": 0.010, "substantia nigra": 0.012},
    **{"pineal gland": 0.10, "microbleed": 0.10, "calcification": 0.10, "iron lesion": 0.010},
}

# R2* that does not grow with the field, 1/s: what the lines through the R2* of grey and of white matter at
# 1.5, 3 and 7 T leave at 0 T. The rest of a tissue's R2* is in proportion to B0. Fluids do not grow.
_FIELDLESS_R2STAR = 5.5
_FLUIDS = {"air", "csf", "eye"}
# That of venous blood grows faster; an estimate, from 40 1/s at 3 T and 135 1/s at 7 T.
_R2STAR_PER_TESLA = {"vein": 24.0}

# 1/s per ppm at 3 T of the susceptibility that iron makes.
_R2STAR_PER_PPM = 120.0
_IRON_RICH = {
    *("grey matter", "caudate", "putamen", "globus pallidus", "thalamus", "subthalamic nucleus"),
    *("red nucleus", "substantia nigra", "dentate", "iron lesion"),
}

# Slopes of ln T1 over ln B0 from 1.5 to 7 T; deep nuclei as caudate and putamen, blood from 3 to 7 T.
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
