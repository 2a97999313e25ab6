"""What a training step is: loss, optimiser and scores on the maps held out."""

from collections.abc import Sequence

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from qsmflow.core.metrics import nrmse, rmse
from qsmflow.nets.tiling import channels_last
from qsmflow.train.lessons import Batch
from qsmflow.train.settings import TrainingSettings


class MapTraining(pl.LightningModule):
    """Training of a network that gives maps in ppm.

    Parameters
    ----------
    network : nn.Module
        With its ``settings``, whose ``scale`` brings ppm near one.
    settings : TrainingSettings
    tests : sequence of str
        Prefixes of the scores, one for each loader of the validation.
    """

    def __init__(self, network: nn.Module, settings: TrainingSettings, *, tests: Sequence[str] = ("",)):
        super().__init__()
        # Convolutions are several times faster so.
        for weight in network.parameters():
            weight.data = channels_last(weight.data)
        self.network = network
        self.training_settings = settings
        self.tests = tuple(tests)

    def predict(self, batch: Batch) -> Tensor:
        """What the network makes of a batch, in the shape of :meth:`truth`."""
        raise NotImplementedError

    def truth(self, batch: Batch) -> Tensor:
        """What it should make of it."""
        raise NotImplementedError

    def compile_network(self) -> None:
        """Compile what is convolutional; the names of the weights stay."""
        self.network.compile()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of a batch, in units of the network's own numbers."""
        error = (self.predict(batch).float() - self.truth(batch)) * self.network.settings.scale
        return masked_loss(error, batch["mask"], sharpness=self.training_settings.sharpness)

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Scores of the maps of a batch, and of what the network was given if that is a map, too."""
        prefix = self.tests[dataloader_idx]
        maps = {"": self.predict(batch).float()}
        if "image" in batch and not prefix:
            maps["input_"] = batch["image"]
        for name, images in maps.items():
            for score in (rmse, nrmse):
                value = score(images, self.truth(batch), mask=batch["mask"])
                self.log(f"{prefix}{name}{score.__name__}", value, add_dataloader_idx=False, batch_size=1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW or Adam; :class:`qsmflow.train.fit.Schedule` sets the rate before each step."""
        settings = self.training_settings
        if settings.optimizer == "adam":
            return torch.optim.Adam(self.parameters(), lr=settings.learning_rate)
        return torch.optim.AdamW(
            self.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )


class MotionTraining(MapTraining):
    """Training of a U-Net or a PReNet on pairs."""

    def predict(self, batch: Batch) -> Tensor:
        """See :class:`MapTraining`."""
        return self.network(batch["image"])

    def truth(self, batch: Batch) -> Tensor:
        """See :class:`MapTraining`."""
        return batch["truth"]


class FieldTraining(MapTraining):
    """Training of DeepQSM on local fields."""

    def predict(self, batch: Batch) -> Tensor:
        """See :class:`MapTraining`."""
        return self.network(batch["field"], mask=batch["mask"], kernel=batch["kernel"])

    def truth(self, batch: Batch) -> Tensor:
        """See :class:`MapTraining`."""
        return batch["susceptibility"]

    def compile_network(self) -> None:
        """The Fourier transforms between the U-Nets would only split what is compiled."""
        for refiner in self.network.refiners:
            refiner.compile()


#: By the key of the architecture.
TRAININGS = {"deepqsm": FieldTraining, "unet": MotionTraining, "prenet": MotionTraining}


def masked_loss(error: Tensor, mask: Tensor, *, sharpness: float) -> Tensor:
    """Mean absolute error in the mask, and that of the differences between neighbours, summed over axes.

    The second part is what a blurred map cannot have small.

    Parameters
    ----------
    error : Tensor
        (b, 1, ...), two or three axes.
    mask : Tensor
        Of the same shape, zeros and ones.
    sharpness : float
        Weight of the second part.

    Returns
    -------
    Tensor
        Scalar.

    Examples
    --------
    >>> error = torch.tensor([[[[1.0, 1.0], [3.0, 9.0]]]])
    >>> mask = torch.tensor([[[[1.0, 1.0], [1.0, 0.0]]]])
    >>> masked_loss(error, mask, sharpness=0.0).item(), masked_loss(error, mask, sharpness=0.5).item()
    (1.6666666269302368, 2.6666665077209473)
    """
    loss = _masked_mean(error, mask)
    if not sharpness:
        return loss
    steps = [
        _masked_mean(error.diff(dim=axis), _both(mask, axis))
        for axis in range(2, error.dim())
        if error.shape[axis] > 1
    ]
    return loss + sharpness * sum(steps)


def _masked_mean(error: Tensor, mask: Tensor) -> Tensor:
    return (error.abs() * mask).sum() / mask.sum().clamp(min=1)


def _both(mask: Tensor, axis: int) -> Tensor:
    """Where a voxel and the next one along an axis lie in the mask."""
    size = mask.shape[axis] - 1
    return mask.narrow(axis, 0, size) * mask.narrow(axis, 1, size)
