"""Trained networks on disk: weights as safetensors, verified against the model card beside them."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from qsmflow.nets.card import ARCHITECTURES, ModelCard, VoxelRange
from qsmflow.nets.tiling import channels_last

__all__ = [
    "ARCHITECTURES",
    "Bundle",
    "ModelCard",
    "VoxelRange",
    "load_bundle",
    "save_bundle",
    "shipped_models",
]

WEIGHTS, CARD, PAGE = "weights.safetensors", "card.json", "README.md"
SHIPPED = Path(str(files("qsmflow"))) / "data" / "models"


@dataclass(frozen=True)
class Bundle:
    """A network ready to be applied, and what is known of it.

    Parameters
    ----------
    network : nn.Module
        In evaluation mode, float32.
    card : ModelCard
        Its card.
    """

    network: nn.Module
    card: ModelCard

    @property
    def device(self) -> torch.device:
        """Where the network computes."""
        return next(self.network.parameters()).device


def shipped_models() -> list[str]:
    """Names of the models that come with the package.

    Examples
    --------
    >>> isinstance(shipped_models(), list)
    True
    """
    return sorted(card.parent.name for card in SHIPPED.glob(f"*/{CARD}"))


def load_bundle(name_or_folder: str | Path, *, device: torch.device | str | None = None) -> Bundle:
    """Load a network with its weights.

    Parameters
    ----------
    name_or_folder : str or Path
        Name of a shipped model, or the folder of another one; ``./NAME`` for a folder that is called
        like a shipped model.
    device : torch.device or str, optional
        Where the network shall compute; the CPU unless given.

    Returns
    -------
    Bundle

    Raises
    ------
    FileNotFoundError
        If there is no such model, or one of its files is missing.
    ValueError
        If the card is not valid, or the weights are not those of the card.

    Examples
    --------
    >>> load_bundle("deepqsm-hat")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    FileNotFoundError: no model 'deepqsm-hat': neither a folder nor one of the shipped ones (...)
    """
    folder = _folder(name_or_folder)
    card = _read_card(folder / CARD)
    weights = _read_weights(folder / WEIGHTS, card)
    # Built without memory: a false card may ask for much of it, and fresh weights would be replaced at once.
    with torch.device("meta"):
        network = card.build()
    _refuse_other_shapes(network, weights, path=folder / WEIGHTS)
    network.load_state_dict(
        {name: channels_last(value.float()) for name, value in weights.items()}, assign=True
    )
    return Bundle(network.to(device or "cpu").eval(), card)


def save_bundle(folder: str | Path, network: nn.Module, card: ModelCard, *, float16: bool = False) -> Path:
    """Write weights, card, and a page made of the card.

    Each file is written beside and renamed, the card last: who reads meanwhile finds the old model, the
    new one, or weights that the card refuses.

    Parameters
    ----------
    folder : str or Path
        Where to; made if needed, other files in it are left alone.
    network : nn.Module
        As the card describes it.
    card : ModelCard
        Its checksum is filled in.
    float16 : bool
        Store weights in half the space, rounded to 11 bits.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    ValueError
        If the weights do not fit the card's architecture, or are not finite in the precision asked for.

    Examples
    --------
    >>> save_bundle("model", nn.Linear(1, 1), card)  # doctest: +SKIP
    PosixPath('model')
    """
    folder = Path(folder)
    stored = torch.float16 if float16 else torch.float32
    weights = {
        name: value.detach().cpu().to(stored).contiguous() for name, value in network.state_dict().items()
    }
    broken = [name for name, value in weights.items() if not bool(torch.isfinite(value).all())]
    if broken:
        raise ValueError(f"weights of {card.name} are not finite as {stored}: {', '.join(broken)}")
    _refuse_other_shapes(card.build(), weights, path=folder / WEIGHTS)
    content = safetensors.torch.save(weights)
    card = replace(card, sha256=hashlib.sha256(content).hexdigest())
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / WEIGHTS, content)
    _write(folder / PAGE, card.to_markdown().encode())
    _write(folder / CARD, card.to_json().encode())
    return folder


def _folder(name_or_folder: str | Path) -> Path:
    if str(name_or_folder) in shipped_models():
        return SHIPPED / name_or_folder
    folder = Path(name_or_folder)
    if not folder.is_dir():
        shipped = ", ".join(shipped_models()) or "none"
        raise FileNotFoundError(
            f"no model {str(name_or_folder)!r}: neither a folder nor one of the shipped ones ({shipped})"
        )
    return folder


def _read_card(path: Path) -> ModelCard:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; a model is a folder with {WEIGHTS} and {CARD}")
    try:
        return ModelCard.from_json(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError(f"{path}: its values are nested too deeply; copy the model again") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _read_weights(path: Path, card: ModelCard) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing; copy it from where the model came from, or train it again"
        )
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != card.sha256:
        raise ValueError(
            f"{path} has SHA-256 {found}, its card says {card.sha256 or 'none'}: the file is damaged or of "
            "another model; copy the whole folder again, or train the model again"
        )
    try:
        return safetensors.torch.load(content)
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"{path} is no file of safetensors ({error}); other kinds of weights are never loaded"
        ) from error


def _refuse_other_shapes(network: nn.Module, weights: Mapping[str, Tensor], *, path: Path) -> None:
    """Refuse weights of another architecture or other settings."""
    expected = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in weights.items()}
    wrong = [
        f"{name} (expected {expected.get(name, 'none')}, found {found.get(name, 'none')})"
        for name in sorted(expected.keys() | found.keys())
        if expected.get(name) != found.get(name)
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ValueError(
            f"{path} does not fit the architecture and settings of its card: {', '.join(wrong[:3])}{more}; "
            "correct architecture or settings in the card"
        )


def _write(path: Path, content: bytes) -> None:
    beside = path.with_name(f".{path.name}")
    try:
        beside.write_bytes(content)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
