"""Which trained networks a run applies, loaded once before any work starts."""

from pathlib import Path

from qsmflow.cli.exit_codes import ExitCode, Stop
from qsmflow.interfaces.learned import Model
from qsmflow.nets.bundle import load_bundle, shipped_models
from qsmflow.workflows.settings import Settings


def network_stages(settings: Settings) -> tuple[str, ...]:
    """Stages of a run that are done by networks, as :func:`stage_memory` calls them."""
    used = {"invert": settings.inversion == "deepqsm", "motion": settings.motion_correction != "off"}
    return tuple(stage for stage, is_used in used.items() if is_used)


def choose_models(settings: Settings) -> dict[str, Model]:
    """Find, load and check every network that the settings ask for.

    Parameters
    ----------
    settings : Settings
        Of the run.

    Returns
    -------
    dict
        :class:`Model` by architecture: ``deepqsm``, ``unet``, ``prenet``, as far as they are needed.

    Raises
    ------
    Stop
        64 for a name that is none of a shipped model, 66 for a folder or file that is not there, 65 for a
        model that is damaged or of another kind.
    """
    stages, chosen = network_stages(settings), {}
    if "invert" in stages:
        chosen["deepqsm"] = _checked(settings.deepqsm_model, flag="--deepqsm-model", kind="deepqsm")
    if "motion" in stages:
        for name, kind in zip(settings.motion_models, ("unet", "prenet"), strict=True):
            chosen[kind] = _checked(name, flag="--motion-models", kind=kind)
    return chosen


def _checked(name: str, *, flag: str, kind: str) -> Model:
    location = name if name in shipped_models() else str(Path(name).absolute())
    try:
        card = load_bundle(name).card
    except FileNotFoundError as error:
        is_name = Path(name).name == name and not Path(name).is_dir()
        hint = "; --motion-correction off does without" if flag == "--motion-models" else ""
        raise Stop(ExitCode.USAGE if is_name else ExitCode.NO_INPUT, f"{flag}: {error}{hint}") from error
    except ValueError as error:
        raise Stop(ExitCode.BAD_DATA, f"{flag}: {error}") from error
    if card.architecture != kind:
        raise Stop(
            ExitCode.BAD_DATA,
            f"{flag} {name}: the network is a {card.architecture}, needed is a {kind}; choose another model",
        )
    return Model(location, card.name, card.sha256)
