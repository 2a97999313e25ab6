"""Put a trained network into the package: ``ship_models.py [EARLIER_BUNDLE ...] BUNDLE [--name NAME]``.

Weights are stored in half precision. The card gets the name of the model, steps and hours of the trainings
that this one started from, and the command that makes all models anew.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from qsmflow.nets.bundle import SHIPPED, load_bundle, save_bundle
from qsmflow.nets.card import ModelCard


def main() -> None:
    """Ship one model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "bundles", nargs="+", type=Path, help="the last is shipped, the others came before it"
    )
    parser.add_argument("--name", help="that of the last bundle's run unless given")
    parser.add_argument("--limits", nargs="+", default=[], help="sentences for its card, beside its own")
    options = parser.parse_args()
    # Of those before, only the cards matter; their networks may have been of another size.
    cards = [ModelCard.from_json((folder / "card.json").read_text("utf-8")) for folder in options.bundles]
    last = load_bundle(options.bundles[-1])
    name = options.name or last.card.name
    data = {key: value for key, value in last.card.data.items() if key != "started from"}
    if len(cards) > 1:
        before = [
            f"{card.steps} steps in {card.hours:g} hours, seed {card.seeds['training']}"
            for card in cards[:-1]
        ]
        data["trainings before"] = before
    card = replace(
        last.card,
        name=name,
        data=data,
        limits=(*last.card.limits, *options.limits),
        steps=sum(card.steps for card in cards),
        hours=round(sum(card.hours for card in cards), 2),
        command="scripts/train_models.sh WORK_DIR",
    )
    print(save_bundle(SHIPPED / name, last.network, card, float16=True))


if __name__ == "__main__":
    main()
