"""Training of a network from start to bundle: what can be stopped, resumed and looked at meanwhile."""

import csv
import io
import logging
import math
import platform
import signal
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.callbacks import Callback, WeightAveraging
from lightning.pytorch.utilities.exceptions import SIGTERMException
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.utils.data import DataLoader

from qsmflow.nets.bundle import ModelCard, VoxelRange, save_bundle
from qsmflow.nets.tiling import usable_precision
from qsmflow.sim.files import write_bytes
from qsmflow.train.lessons import Lesson, positioned
from qsmflow.train.modules import TRAININGS, MapTraining
from qsmflow.train.settings import TrainingSettings

CHECKPOINT = Path("checkpoints", "last.ckpt")
METRICS, CURVES, BUNDLE = "metrics.csv", "curves.png", "bundle"
#: Seconds between checkpoints, and steps between looks at the clock.
SAVE_EVERY, LOOK_EVERY = 300.0, 10
#: Steps that one row of the loss is the mean of.
STEPS_A_ROW = 20
#: Validations in a training; with several processes, whose clocks differ, each so many steps.
VALIDATIONS, VALIDATION_STEPS = 20, 500
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
#: Points of the curve that a model card keeps.
_CARD_POINTS = 40


class Diverged(RuntimeError):
    """Weights that are no longer finite."""


class Ended(RuntimeError):
    """A termination signal that came while training was being set up."""


@dataclass(frozen=True)
class RunSettings:
    """How far, where and how a training runs.

    Parameters
    ----------
    steps : int or None
        Last step.
    seconds : float or None
        Time for training, with validations, summed over resumed runs.
    device : str
        ``"cpu"`` or ``"cuda"``.
    devices : int
        Processes, each with a device of its own.
    precision : str
        See :func:`qsmflow.nets.tiling.usable_precision`.
    compiled : bool
        Whether ``torch.compile`` is used, which takes a minute and pays after it.
    workers : int
        Processes that make batches; 0 makes them in between the steps.
    validate_every : int or None
        Steps between validations; by :data:`VALIDATIONS` unless given.
    save_every : float
        Seconds between checkpoints.
    resume : bool
        Whether to go on from the last checkpoint.

    Raises
    ------
    ValueError
        If neither steps nor seconds are given.
    """

    steps: int | None = None
    seconds: float | None = None
    device: str = "cpu"
    devices: int = 1
    precision: str = "auto"
    compiled: bool = False
    workers: int = 0
    validate_every: int | None = None
    save_every: float = SAVE_EVERY
    resume: bool = False

    def __post_init__(self):
        if self.steps is None and self.seconds is None:
            raise ValueError("give steps or seconds, or training never ends")


@dataclass(frozen=True)
class Fitted:
    """What came of a training.

    Parameters
    ----------
    network : nn.Module
        With the averaged weights, on the CPU.
    steps : int
    hours : float
    rows : list of dict
        Loss and scores on the way.
    hardware : str
        What it ran on.
    stopped_by : int or None
        Signal that ended it early.
    is_first : bool
        Whether this is the process, of several, that writes files.
    """

    network: nn.Module = field(repr=False)
    steps: int
    hours: float
    rows: list[dict[str, float]] = field(repr=False)
    hardware: str
    stopped_by: int | None
    is_first: bool

    @property
    def scores(self) -> dict[str, float]:
        """Of the last validation; empty if there was none."""
        validated = [row for row in self.rows if "nrmse" in row]
        return {name: value for name, value in validated[-1].items() if "rmse" in name} if validated else {}


def fit(
    network: nn.Module,
    lesson: Lesson,
    *,
    architecture: str,
    out: Path,
    settings: TrainingSettings,
    run: RunSettings,
    console: Console | None = None,
) -> Fitted:
    """Train a network.

    ``OUT/checkpoints/last.ckpt`` is written every few minutes, ``OUT/metrics.csv`` and ``OUT/curves.png`` at
    each validation. An interrupt or termination signal ends the training after the step that it meets.

    Parameters
    ----------
    network : nn.Module
        Is changed.
    lesson : Lesson
        What it learns.
    architecture : str
        A key of :data:`qsmflow.train.modules.TRAININGS`.
    out : Path
        Folder of what is written.
    settings : TrainingSettings
    run : RunSettings
    console : rich.console.Console, optional
        Where progress is told; nowhere unless given.

    Returns
    -------
    Fitted

    Raises
    ------
    FileNotFoundError
        If it shall be resumed and there is no checkpoint.
    Diverged
        If weights are no longer finite.
    Ended
        If a termination signal came before the first step.
    """
    checkpoint = out / CHECKPOINT
    if run.resume and not checkpoint.exists():
        raise FileNotFoundError(f"{checkpoint} is missing; leave out --resume to start anew")
    module = TRAININGS[architecture](network, settings, tests=tuple(lesson.tests))
    if run.compiled:
        module.compile_network()
    average, schedule = Average(settings.average), Schedule(settings, run)
    history = History(out, schedule)
    callbacks = [average, schedule, history, Checkpoints(checkpoint, seconds=run.save_every)]
    if console is not None:
        callbacks.append(Told(console, schedule, history))
    data = _Data(lesson, workers=run.workers)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"lightning\.")
        # Said of 1x1x1 convolutions, whose two orders of memory are one.
        warnings.filterwarnings("ignore", message="Grad strides do not match")
        for name in ("pytorch", "fabric"):
            logging.getLogger(f"lightning.{name}").setLevel(logging.ERROR)
        trainer = _trainer(run, settings, callbacks=callbacks, out=out)
        try:
            trainer.fit(module, datamodule=data, ckpt_path=str(checkpoint) if run.resume else None)
        except SIGTERMException as error:
            raise Ended("ended by SIGTERM before the first step of this run") from error
        if history.last_validated != trainer.global_step and schedule.stopped_by is None:
            trainer.validate(module, datamodule=data, verbose=False)
    if trainer.is_global_zero:
        history.write()
    return Fitted(
        network=average.network.cpu(),
        steps=trainer.global_step,
        hours=schedule.elapsed / 3600,
        rows=history.rows,
        hardware=hardware(run),
        stopped_by=schedule.stopped_by,
        is_first=trainer.is_global_zero,
    )


def _trainer(
    run: RunSettings, settings: TrainingSettings, *, callbacks: list[Callback], out: Path
) -> pl.Trainer:
    steps, several = run.steps, run.devices > 1
    if run.validate_every is not None:
        interval = run.validate_every
    elif run.seconds is not None and not several:
        interval = timedelta(seconds=run.seconds / VALIDATIONS)
    else:
        interval = VALIDATION_STEPS if steps is None else max(STEPS_A_ROW, steps // VALIDATIONS)
    dtype = usable_precision(run.precision, device=torch.device(run.device))
    return pl.Trainer(
        accelerator="gpu" if run.device == "cuda" else "cpu",
        devices=run.devices,
        strategy="ddp" if several else "auto",
        precision="bf16-mixed" if dtype == torch.bfloat16 else "32-true",
        max_epochs=-1,
        max_steps=-1 if steps is None else steps,
        check_val_every_n_epoch=None,
        val_check_interval=interval,
        num_sanity_val_steps=0,
        gradient_clip_val=settings.clip,
        benchmark=run.device == "cuda",
        callbacks=callbacks,
        default_root_dir=out,
        # Streams share themselves out among processes.
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


class _Data(pl.LightningDataModule):
    """Gives the stream from the batch on that comes next, which a resumed trainer knows."""

    def __init__(self, lesson: Lesson, *, workers: int):
        super().__init__()
        self._lesson, self._workers = lesson, workers

    def train_dataloader(self) -> DataLoader:
        trainer = self.trainer
        place = {"start": trainer.global_step, "rank": trainer.global_rank, "ranks": trainer.world_size}
        stream = positioned(self._lesson.stream, **place)
        on_gpu = trainer.strategy.root_device.type == "cuda"
        return DataLoader(stream, batch_size=None, num_workers=self._workers, pin_memory=on_gpu)

    def val_dataloader(self) -> list[DataLoader]:
        return [DataLoader(batches, batch_size=None) for batches in self._lesson.tests.values()]


class Average(WeightAveraging):
    """Moving average of the weights, which is what is validated and kept.

    Its memory grows with the steps, so that the first weights are soon forgotten.

    Parameters
    ----------
    decay : float
        Of the average in the long run; 0 for the weights as they are.
    """

    def __init__(self, decay: float):
        def update(average, current, updates) -> None:
            steps = float(updates)
            torch._foreach_lerp_(average, current, 1 - min(decay, (1 + steps) / (10 + steps)))

        super().__init__(use_buffers=False, multi_avg_fn=torch.no_grad()(update))

    def on_train_end(self, trainer: pl.Trainer, pl_module: MapTraining) -> None:
        """Leave the weights as they are, for the last checkpoint."""

    @property
    def network(self) -> nn.Module:
        """With the averaged weights."""
        return self._average_model.module.network


class Schedule(Callback):
    """Learning rate, end of the training by time, and by a signal.

    Parameters
    ----------
    settings : TrainingSettings
    run : RunSettings
    """

    def __init__(self, settings: TrainingSettings, run: RunSettings):
        self._settings, self._run = settings, run
        self._before, self._began = 0.0, None
        self.stopped_by: int | None = None
        self.progress = self.last_rate = 0.0

    @property
    def elapsed(self) -> float:
        """Seconds of training, those before it was resumed included."""
        return self._before + (0.0 if self._began is None else time.monotonic() - self._began)

    def rate(self, step: int, progress: float) -> float:
        """Learning rate at a step, when so much of the training is done."""
        settings = self._settings
        rate = settings.learning_rate * min(1.0, (step + 1) / max(settings.warmup, 1))
        return rate * (0.5 + 0.5 * math.cos(math.pi * progress)) if settings.decays else rate

    def on_train_start(self, trainer: pl.Trainer, pl_module: MapTraining) -> None:
        """Start the clock and listen to signals; the trainer takes back the handlers when it ends."""
        self._began = time.monotonic()
        for number in _SIGNALS:
            signal.signal(number, self._stop)

    def _stop(self, number: int, frame) -> None:
        self.stopped_by = number
        # The second signal is obeyed at once.
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: MapTraining, batch, batch_idx) -> None:
        """Set the rate of the step, the same in all processes."""
        run, step = self._run, trainer.global_step
        shares = [step / run.steps if run.steps else 0.0, self.elapsed / run.seconds if run.seconds else 0.0]
        state = torch.tensor([min(max(shares), 1.0), self.stopped_by or 0], dtype=torch.float64)
        if trainer.world_size > 1:
            state = trainer.strategy.reduce(state.to(pl_module.device), reduce_op="max")
        self.progress, self.stopped_by = float(state[0]), int(state[1]) or None
        self.last_rate = self.rate(step, self.progress)
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = self.last_rate

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: MapTraining, *ignored) -> None:
        """End the training if its time is up or a signal came."""
        if self.stopped_by is not None:
            # Whoever sends it may not wait for a validation.
            trainer.limit_val_batches = 0
        trainer.should_stop = trainer.should_stop or self.stopped_by is not None or self.progress >= 1

    def on_train_end(self, trainer: pl.Trainer, pl_module: MapTraining) -> None:
        """Stop the clock."""
        self._before, self._began = self.elapsed, None

    def state_dict(self) -> dict:
        """For a checkpoint."""
        return {"elapsed": self.elapsed}

    def load_state_dict(self, state_dict: dict) -> None:
        """From a checkpoint."""
        self._before = state_dict["elapsed"]


class History(Callback):
    """Loss and scores on the way, as a table and a picture.

    Lightning's own logger starts its table anew when a training is resumed, and so would lose the way there.

    Parameters
    ----------
    out : Path
        Folder of ``metrics.csv`` and ``curves.png``.
    schedule : Schedule
        Whose time and rate are noted.
    """

    def __init__(self, out: Path, schedule: "Schedule"):
        self._out, self._schedule = out, schedule
        self.rows: list[dict[str, float]] = []
        self._sum: Tensor | float = 0.0
        self._count = 0

    @property
    def last_validated(self) -> int:
        """Step of the last validation, -1 before it."""
        return next((row["step"] for row in reversed(self.rows) if "nrmse" in row), -1)

    @property
    def loss(self) -> float:
        """Of the last row."""
        return next((row["loss"] for row in reversed(self.rows) if "loss" in row), math.nan)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: MapTraining, outputs, *ignored) -> None:
        """Add a loss; it is asked for only once a row, since a GPU has to be waited for."""
        self._sum = self._sum + outputs["loss"].detach()
        self._count += 1
        if self._count == STEPS_A_ROW:
            self._add_row(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: MapTraining) -> None:
        """Add scores."""
        self._add_row(trainer, {name: float(value) for name, value in trainer.callback_metrics.items()})
        if trainer.is_global_zero:
            self.write()
            draw_curves(self.rows, self._out / CURVES)

    def _add_row(self, trainer: pl.Trainer, scores: Mapping[str, float] | None = None) -> None:
        row = {"step": trainer.global_step, "hours": round(self._schedule.elapsed / 3600, 5)}
        if self._count:
            row |= {"rate": self._schedule.last_rate, "loss": float(self._sum) / self._count}
        if self.rows and self.rows[-1]["step"] == row["step"]:
            row = self.rows.pop() | row
        self.rows.append(row | dict(scores or {}))
        self._sum, self._count = 0.0, 0

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: MapTraining, checkpoint: dict) -> None:
        """Let the table on disk be no older than the checkpoint."""
        if trainer.is_global_zero:
            self.write()

    def write(self) -> None:
        """Write the table."""
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(
            {n: f"{v:.6g}" if isinstance(v, float) else v for n, v in r.items()} for r in self.rows
        )
        write_bytes(self._out / METRICS, text.getvalue().encode())

    def state_dict(self) -> dict:
        """For a checkpoint."""
        return {"rows": self.rows, "sum": float(self._sum), "count": self._count}

    def load_state_dict(self, state_dict: dict) -> None:
        """From a checkpoint."""
        self.rows = list(state_dict["rows"])
        self._sum, self._count = state_dict["sum"], state_dict["count"]


class Checkpoints(Callback):
    """Saves all that a training needs to go on, every few minutes and at its end.

    Parameters
    ----------
    path : Path
        The file, which is replaced when the new one is whole.
    seconds : float
        Between two of them.
    """

    def __init__(self, path: Path, *, seconds: float):
        self._path, self._seconds = path, seconds
        self._last = time.monotonic()

    def on_train_start(self, trainer: pl.Trainer, pl_module: MapTraining) -> None:
        """Start the clock."""
        self._last = time.monotonic()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: MapTraining, *ignored) -> None:
        """Save if it is time."""
        if trainer.global_step % LOOK_EVERY:
            return
        due = time.monotonic() - self._last >= self._seconds
        if trainer.strategy.broadcast(due):
            self._save(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: MapTraining) -> None:
        """Save the last step."""
        self._save(trainer, pl_module)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: MapTraining) -> None:
        """Look whether there is anything to validate."""
        _check_finite(pl_module, step=trainer.global_step)

    def _save(self, trainer: pl.Trainer, pl_module: MapTraining) -> None:
        _check_finite(pl_module, step=trainer.global_step)
        beside = self._path.with_name(f".{self._path.name}")
        trainer.save_checkpoint(beside)
        if trainer.is_global_zero:
            beside.replace(self._path)
        self._last = time.monotonic()


def _check_finite(module: nn.Module, *, step: int) -> None:
    if not all(bool(torch.isfinite(weight).all()) for weight in module.parameters()):
        raise Diverged(
            f"weights are not finite at step {step}; start anew or --resume, with a lower --learning-rate"
        )


class Told(Callback):
    """Tells how the training goes: a bar on a terminal, a line a validation elsewhere.

    Parameters
    ----------
    console : rich.console.Console
    schedule : Schedule
    history : History
    """

    def __init__(self, console: Console, schedule: Schedule, history: History):
        self._console, self._schedule, self._history = console, schedule, history
        self._bar: Progress | None = None
        self._drawn = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: MapTraining) -> None:
        """Show the bar."""
        if not trainer.is_global_zero:
            return
        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=self._console, disable=not self._console.is_terminal)
        self._bar.add_task("training", total=1.0)
        self._bar.start()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: MapTraining, *ignored) -> None:
        """Move the bar, but not at each of many steps."""
        if self._bar is None or time.monotonic() - self._drawn < 0.5:
            return
        self._drawn = time.monotonic()
        text = f"step {trainer.global_step}  loss {self._history.loss:.4g}"
        scores = {name: float(value) for name, value in trainer.callback_metrics.items() if "nrmse" in name}
        text += "".join(f"  {name} {value:.1f} %" for name, value in scores.items())
        self._bar.update(self._bar.task_ids[0], description=text, completed=self._schedule.progress)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: MapTraining) -> None:
        """Print the scores."""
        if not trainer.is_global_zero:
            return
        scores = "  ".join(f"{name} {float(value):.4g}" for name, value in trainer.callback_metrics.items())
        text = f"step {trainer.global_step}  loss {self._history.loss:.4g}  {scores}"
        self._console.print(f"{time.strftime('%H:%M:%S')} {text}", highlight=False)

    def on_train_end(self, trainer: pl.Trainer, pl_module: MapTraining) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: MapTraining, exception: BaseException) -> None:
        """Give the terminal back."""
        self.on_train_end(trainer, pl_module)


def draw_curves(rows: Sequence[Mapping[str, float]], path: Path) -> None:
    """Picture of the loss and of the scores over the steps.

    Parameters
    ----------
    rows : sequence of mapping
        As :class:`History` has them.
    path : Path
        PNG file.
    """
    figure = Figure(figsize=(9, 3.5))
    left, right = figure.subplots(1, 2)
    figure.subplots_adjust(left=0.08, right=0.98, bottom=0.15, top=0.95)
    losses = [(row["step"], row["loss"]) for row in rows if "loss" in row]
    if losses:
        left.plot(*zip(*losses, strict=True))
    left.set(xlabel="step", ylabel="loss", yscale="log")
    for name in dict.fromkeys(name for row in rows for name in row if name.endswith("nrmse")):
        points = [(row["step"], row[name]) for row in rows if name in row]
        right.plot(*zip(*points, strict=True), marker=".", label=name.replace("_", " "))
    right.set(xlabel="step", ylabel="NRMSE (%)", ylim=(0, None))
    if right.lines:
        right.legend()
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=100)
    write_bytes(path, picture.getvalue())


def is_first_process() -> bool:
    """Whether this is the one of several processes that writes files, also before they have met."""
    return not rank_zero_only.rank


def hardware(run: RunSettings) -> str:
    """What a training runs on, in words."""
    if run.device == "cuda":
        return f"{run.devices} x {torch.cuda.get_device_name()}"
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    processes = f"{run.devices} processes of " if run.devices > 1 else ""
    return f"{name}, {processes}{torch.get_num_threads()} threads"


def export_bundle(
    out: Path,
    fitted: Fitted,
    *,
    architecture: str,
    summary: str,
    lesson: Lesson,
    settings: TrainingSettings,
    seeds: Mapping[str, int],
    command: str,
    limits: Sequence[str] = (),
) -> Path:
    """Write the trained network with its model card to ``OUT/bundle``.

    Parameters
    ----------
    out : Path
        Folder of the training; the model has its name.
    fitted : Fitted
    architecture : str
        A key of :data:`qsmflow.nets.bundle.ARCHITECTURES`.
    summary : str
        What the network does, in a sentence.
    lesson : Lesson
        What it was trained on.
    settings : TrainingSettings
    seeds : mapping
        By name.
    command : str
        That trains it again.
    limits : sequence of str
        What it cannot do or was not tested on.

    Returns
    -------
    Path
        The folder.
    """
    validated = [row for row in fitted.rows if "nrmse" in row]
    names = ("step", "rmse", "nrmse")
    card = ModelCard(
        name=out.name,
        summary=summary,
        architecture=architecture,
        # In full, so that the card still tells what the network is when defaults change.
        settings=asdict(fitted.network.settings),
        voxel_range=voxel_range(lesson.voxels),
        data=dict(lesson.recipe) | {"training": {k: v for k, v in asdict(settings).items() if k != "steps"}},
        seeds=dict(seeds),
        steps=fitted.steps,
        hours=round(fitted.hours, 3),
        hardware=fitted.hardware,
        command=command,
        scores={"subjects held out": fitted.scores} if fitted.scores else {},
        limits=tuple(limits),
        curve=tuple({name: row[name] for name in names} for row in thinned(validated, _CARD_POINTS)),
    )
    return save_bundle(out / BUNDLE, fitted.network, card)


def voxel_range(voxels: Sequence[Sequence[float]]) -> VoxelRange:
    """Range of voxel sizes that occur, rounded outwards to 0.01 mm.

    Examples
    --------
    >>> voxel_range([(1, 1, 2.5), (1.204, 1.204, 1.204)])
    VoxelRange(finest=1.0, coarsest=2.5, anisotropy=2.5)
    """
    edges = [edge for size in voxels for edge in size]
    return VoxelRange(
        finest=math.floor(100 * min(edges)) / 100,
        coarsest=math.ceil(100 * max(edges)) / 100,
        anisotropy=math.ceil(100 * max(max(size) / min(size) for size in voxels)) / 100,
    )


def thinned(rows: Sequence, most: int) -> list:
    """Evenly spread rows, the first and the last among them.

    Examples
    --------
    >>> thinned(range(10), 4)
    [0, 3, 6, 9]
    """
    if len(rows) <= most:
        return list(rows)
    return [rows[round(index * (len(rows) - 1) / (most - 1))] for index in range(most)]
