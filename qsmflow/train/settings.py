"""How networks are trained: the presets."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TrainingSettings:
    """How one network is trained.

    Parameters
    ----------
    batch_size : int
        Samples a step.
    patch_size : tuple of int or None
        Voxels of a sample; the third is 1 for slices. None leaves it to
        :class:`qsmflow.train.fields.FieldSettings`.
    learning_rate : float
        Highest one.
    steps : int
        Steps where neither steps nor time are asked for.
    optimizer : str
        ``"adamw"`` or ``"adam"``.
    weight_decay : float
        Of AdamW.
    decays : bool
        Whether the learning rate falls to zero at the end, along a cosine.
    warmup : int
        Steps in which the learning rate rises.
    clip : float or None
        Largest norm of the gradient.
    average : float
        Decay of the moving average of the weights, which is what is validated and kept; 0 keeps the weights.
    loss : str
        A key of :data:`qsmflow.train.modules.LOSSES`.
    sharpness : float
        Weight in the loss of differences between neighbours, whose error a blurred map cannot have small.
    still_share : float
        Share of samples without motion, which must stay as they are.
    augments : bool
        Whether maps are flipped, turned, scaled and shifted in value.

    Raises
    ------
    ValueError
        If a setting is out of its range.
    """

    batch_size: int
    patch_size: tuple[int, int, int] | None
    learning_rate: float = 1e-3
    steps: int = 20_000
    optimizer: str = "adamw"
    weight_decay: float = 1e-4
    decays: bool = True
    warmup: int = 100
    clip: float | None = 1.0
    average: float = 0.999
    loss: str = "relative"
    sharpness: float = 0.5
    still_share: float = 0.25
    augments: bool = True

    def __post_init__(self):
        if self.optimizer not in ("adamw", "adam"):
            raise ValueError(f"optimizer is {self.optimizer!r}; use 'adamw' or 'adam'")
        if self.batch_size < 1 or min(self.patch_size or (1,)) < 1 or self.steps < 1:
            raise ValueError("batch_size, patch_size and steps must be at least 1")
        if not (0 <= self.average < 1 and 0 <= self.still_share < 1):
            raise ValueError("average and still_share must lie in [0, 1)")


#: Settings of the motion paper: L1, Adam, a constant rate, no averaging.
_PAPER = {
    "learning_rate": 5e-5,
    "steps": 100_000,
    "optimizer": "adam",
    "decays": False,
    "warmup": 0,
    "clip": None,
    "average": 0.0,
    "loss": "absolute",
    "sharpness": 0.0,
    "still_share": 0.0,
    "augments": False,
}
#: Settings by network and name. Only the motion paper states enough of its training for a ``paper`` preset.
PRESETS = {
    "deepqsm": {"default": TrainingSettings(batch_size=2, patch_size=None)},
    "unet": {
        "default": TrainingSettings(batch_size=2, patch_size=(80, 80, 48), learning_rate=6e-4),
        "paper": TrainingSettings(batch_size=28, patch_size=(128, 128, 32), **_PAPER),
    },
    "prenet": {
        "default": TrainingSettings(batch_size=8, patch_size=(96, 96, 1)),
        "paper": TrainingSettings(batch_size=60, patch_size=(128, 128, 1), **_PAPER),
    },
}
#: Settings of fresh networks by name and preset, where they are not the architecture's own.
FRESH = {("unet", "default"): {"reach": (1, 2, 3, 5), "severity": (16, 32, 48, 64)}}
