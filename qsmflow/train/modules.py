"""What a training step is: loss, optimiser and scores on the maps held out."""

from collections.abc import Sequence

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qsmflow.core.metrics import nrmse, rmse
from qsmflow.nets.severity import LEAST, log_severity, severity_of
from qsmflow.nets.tiling import channels_last
from qsmflow.train.lessons import Batch
from qsmflow.train.settings import TrainingSettings

#: Error that the relative loss takes for none, in the network's own numbers: 0.003 ppm by their usual scale.
FLOOR = 0.03
#: And as a share of the map that was given: what lies where sinuses end may be a hundred times the floor.
TOLERANCE = 0.05
#: How far the severity that a U-Net is told lies from the true one, as the SD of its logarithm.
UNSURE = 0.5
#: Weight of the gauge's loss, beside which that of the U-Net must still be seen.
GAUGE_WEIGHT = 0.3
#: Below the root of the relative loss, for its slope at zero.
TINY = 1e-6


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

    def given(self, batch: Batch) -> Tensor:
        """The map that there was without the network, whose error the relative loss is measured by."""
        raise NotImplementedError

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of a batch, in units of the network's own numbers."""
        scale, truth = self.network.settings.scale, self.truth(batch)
        error = scale * (self.predict(batch).float() - truth)
        given = scale * self.given(batch)
        before = torch.cat([given - scale * truth, TOLERANCE * given], dim=1)
        settings = self.training_settings
        return total_loss(error, before, batch["mask"], kind=settings.loss, sharpness=settings.sharpness)

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
    """Training of a U-Net or a PReNet on pairs, and of the gauge if the U-Net has one.

    While it learns, the U-Net is told the true severity, more or less; later what the gauge says.
    """

    @property
    def _has_gauge(self) -> bool:
        return hasattr(self.network, "gauge")

    def compile_network(self) -> None:
        """The gauge is called by itself, too."""
        super().compile_network()
        if self._has_gauge:
            self.network.gauge.compile()

    def predict(self, batch: Batch) -> Tensor:
        """See :class:`MapTraining`."""
        image = batch["image"]
        if not self._has_gauge:
            return self.network(image)
        if self.training:
            true = batch["severity"]
            told = true * (UNSURE * torch.randn_like(true)).exp() + LEAST * torch.rand_like(true)
        else:
            told = severity_of(self.network.gauge(image, mask=batch["mask"]))
        return self.network(image, severity=told)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of a batch, and that of the gauge."""
        loss = super().training_step(batch, batch_idx)
        if not self._has_gauge:
            return loss
        # The same patch moved and still: what differs is motion.
        images, masks = torch.cat([batch["image"], batch["truth"]]), batch["mask"].repeat(2, 1, 1, 1, 1)
        severity = torch.cat([batch["severity"], torch.zeros_like(batch["severity"])])
        gauged = self.network.gauge(images, mask=masks)
        # Squared: where it cannot tell, it shall give what lies between, not the commoner of the two.
        return loss + GAUGE_WEIGHT * F.mse_loss(gauged, log_severity(severity))

    def truth(self, batch: Batch) -> Tensor:
        """See :class:`MapTraining`."""
        return batch["truth"]

    def given(self, batch: Batch) -> Tensor:
        """See :class:`MapTraining`."""
        return batch["image"]


class FieldTraining(MapTraining):
    """Training of DeepQSM on local fields."""

    def predict(self, batch: Batch) -> Tensor:
        """See :class:`MapTraining`."""
        return self.network(batch["field"], mask=batch["mask"], kernel=batch["kernel"])

    def truth(self, batch: Batch) -> Tensor:
        """See :class:`MapTraining`."""
        return batch["susceptibility"]

    def given(self, batch: Batch) -> Tensor:
        """Nothing: an error as large as the truth."""
        return torch.zeros_like(batch["susceptibility"])

    def compile_network(self) -> None:
        """The Fourier transforms between the U-Nets would only split what is compiled."""
        for refiner in self.network.refiners:
            refiner.compile()


#: By the key of the architecture.
TRAININGS = {"deepqsm": FieldTraining, "unet": MotionTraining, "prenet": MotionTraining}


def absolute_error(error: Tensor, before: Tensor, mask: Tensor) -> Tensor:
    """Mean |e| in the mask, the loss of the motion paper.

    It hardly sees the few voxels of large error that make most of an RMSE.
    """
    return (error.abs() * mask).sum() / mask.sum().clamp(min=1)


def relative_error(error: Tensor, before: Tensor, mask: Tensor) -> Tensor:
    """Mean over samples of √(Σ e² / Σ (e₀² + floor²)) in the mask: what is left of the errors before.

    So a sample with small artefacts counts as much as one with large ones, down to the floor.
    """
    axes = tuple(range(1, error.dim()))
    left = (error.square() * mask).sum(axes)
    allowed = (before.square() * mask).sum(axes) + FLOOR**2 * mask.sum(axes).clamp(min=1)
    return (left / allowed + TINY).sqrt().mean() - TINY**0.5


#: By the name that settings give it; functions of the error, of that before the network, and of the mask.
LOSSES = {"absolute": absolute_error, "relative": relative_error}


def total_loss(error: Tensor, before: Tensor, mask: Tensor, *, kind: str, sharpness: float) -> Tensor:
    """Loss of the error, and that of its differences between neighbours, a mean over the axes.

    Parameters
    ----------
    error : Tensor
        (b, 1, ...), two or three axes; of the map that the network made.
    before : Tensor
        (b, n, ...); what the relative loss measures it by: errors that were there, whose squares add up.
    mask : Tensor
        Of the same shape, zeros and ones.
    kind : str
        A key of :data:`LOSSES`.
    sharpness : float
        Weight of the second part, which a blurred map cannot have small.

    Returns
    -------
    Tensor
        Scalar.

    Examples
    --------
    >>> error = torch.tensor([[[[1.0, 1.0], [3.0, 9.0]]]])
    >>> mask = torch.tensor([[[[1.0, 1.0], [1.0, 0.0]]]])
    >>> round(total_loss(error, error, mask, kind="absolute", sharpness=0).item(), 4)
    1.6667
    >>> round(total_loss(error, 2 * error, mask, kind="relative", sharpness=0).item(), 2)
    0.5
    """
    loss = LOSSES[kind]
    total = loss(error, before, mask)
    axes = [axis for axis in range(2, error.dim()) if error.shape[axis] > 1]
    if sharpness and axes:
        steps = [loss(error.diff(dim=a), before.diff(dim=a), _both(mask, a)) for a in axes]
        total = total + sharpness * sum(steps) / len(axes)
    return total


def _both(mask: Tensor, axis: int) -> Tensor:
    """Where a voxel and the next one along an axis lie in the mask."""
    size = mask.shape[axis] - 1
    return mask.narrow(axis, 0, size) * mask.narrow(axis, 1, size)
