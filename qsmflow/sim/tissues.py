"""What the tissues of a digital head are made of: published values at 3 T."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Tissue:
    """Magnetic and relaxation properties of one tissue at 3 T.

    Parameters
    ----------
    susceptibility : float
        ppm, relative to water.
    variation : float
        Standard deviation of the susceptibility inside the tissue, ppm.
    r2star : float
        1/s.
    proton_density : float
        Relative to water.
    t1 : float
        s.
    references : tuple of str
        DOIs of where the values stand.
    """

    susceptibility: float
    variation: float
    r2star: float
    proton_density: float
    t1: float
    references: tuple[str, ...]


# Susceptibility of the tissues of a head, the table of the QSM challenge 2.0; air against water.
_CHALLENGE = "10.1002/mrm.28716"
_AIR = "10.1118/1.597854"
# T1 at 3 T: white and grey matter, blood, muscle; deep grey matter.
_T1 = "10.1002/mrm.20605"
_T1_DEEP = "10.1002/1522-2594(200101)45:1<71::AID-MRM1011>3.0.CO;2-2"
# R2* at 3 T: white and grey matter, pallidum; basal ganglia and thalamus; midbrain; venous blood.
_R2STAR = "10.1148/radiology.210.3.r99fe41759"
_R2STAR_DEEP = "10.1002/hbm.20698"
_R2STAR_MIDBRAIN = "10.1371/journal.pone.0031748"
_R2STAR_BLOOD = "10.1002/mrm.21342"

_DEEP = (_CHALLENGE, _R2STAR_DEEP, _T1_DEEP)
_MIDBRAIN = (_CHALLENGE, _R2STAR_MIDBRAIN, _T1_DEEP)

#: Tissues by name. Where no reference is named, signal but not field depends on the value.
TISSUES = {
    "air": Tissue(9.4, 0.0, 0.0, 0.0, 1.0, (_AIR,)),
    "bone": Tissue(-2.1, 0.05, 600.0, 0.15, 0.4, (_CHALLENGE,)),
    "muscle": Tissue(0.0, 0.02, 35.0, 0.75, 1.42, (_CHALLENGE, _T1)),
    "fat": Tissue(0.019, 0.02, 30.0, 0.9, 0.38, (_CHALLENGE,)),
    "csf": Tissue(0.019, 0.002, 2.0, 1.0, 4.2, (_CHALLENGE,)),
    "eye": Tissue(0.0, 0.0, 2.0, 0.98, 3.5, ()),
    "white matter": Tissue(-0.030, 0.010, 21.9, 0.70, 1.08, (_CHALLENGE, _R2STAR, _T1)),
    "grey matter": Tissue(0.020, 0.010, 17.8, 0.82, 1.82, (_CHALLENGE, _R2STAR, _T1)),
    "caudate": Tissue(0.044, 0.008, 24.0, 0.82, 1.48, _DEEP),
    "putamen": Tissue(0.038, 0.010, 26.0, 0.82, 1.34, _DEEP),
    "globus pallidus": Tissue(0.131, 0.012, 37.8, 0.74, 1.04, (*_DEEP, _R2STAR)),
    "thalamus": Tissue(0.020, 0.012, 21.0, 0.78, 1.22, _DEEP),
    "red nucleus": Tissue(0.100, 0.010, 33.0, 0.76, 1.10, _MIDBRAIN),
    "substantia nigra": Tissue(0.111, 0.012, 36.0, 0.76, 1.15, _MIDBRAIN),
    "dentate": Tissue(0.152, 0.012, 30.0, 0.78, 1.15, (_CHALLENGE,)),
    "vein": Tissue(0.190, 0.005, 45.0, 0.85, 1.93, (_CHALLENGE, _R2STAR_BLOOD, _T1)),
}
