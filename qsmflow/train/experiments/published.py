"""Numbers that the papers give; nothing here was computed by this package."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

DEEPQSM_PAPER = "DeepQSM: Bollmann et al. 2019, NeuroImage 195, 373-383, 10.1016/j.neuroimage.2019.03.060"
MOTION_PAPER = (
    "Motion paper: retrospective deep-learning motion correction in QSM (Cornell), U-Net and PReNet"
)
CHALLENGE_PAPER = (
    "2016 challenge, one orientation of a 3 T field against twelve: Langkammer et al. 2018, "
    "10.1002/mrm.26830; scores of QSM-CI"
)
#: Seconds a volume on a workstation, about.
DEEPQSM_SECONDS = 10.0
#: Threshold of the division that DeepQSM is compared with.
DEEPQSM_TKD_THRESHOLD = 0.19


@dataclass(frozen=True)
class BeforeAfter:
    """Mean of a measure over corrupted and over corrected maps.

    Parameters
    ----------
    corrupted, corrected : float
    """

    corrupted: float
    corrected: float


#: Of the motion paper by measure, RMSE in ppm and PSNR in dB: its simulated test set (Figure 6).
MOTION_SIMULATED: Mapping[str, BeforeAfter] = MappingProxyType(
    {
        "ssim": BeforeAfter(0.9006, 0.9227),
        "psnr": BeforeAfter(35.37, 37.45),
        "rmse": BeforeAfter(0.0180, 0.0141),
    }
)

#: The same of four volunteers who were scanned still and moving (Figure 7).
MOTION_VOLUNTEERS: Mapping[str, BeforeAfter] = MappingProxyType(
    {
        "ssim": BeforeAfter(0.8167, 0.8450),
        "psnr": BeforeAfter(34.26, 36.39),
        "rmse": BeforeAfter(0.0195, 0.0152),
    }
)

#: Demeaned NRMSE in per cent on the field of the 2016 challenge, against COSMOS and against χ33.
CHALLENGE_2016: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "QSMnet+": (51.1, 65.2),
        "LPCNN": (52.1, 69.3),
        "QSMnet": (52.8, 66.8),
        "MEDI, tuned": (60.0, 79.2),
        "TKD, tuned": (62.7, 80.7),
        "RTS": (71.7, 92.5),
        "MEDI (Cornell, λ 100)": (77.2, 95.3),
        "TKD, default": (99.0, 124.0),
        "xQSM": (131.0, 152.0),
    }
)
