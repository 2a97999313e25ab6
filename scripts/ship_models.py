"""Put a trained network into the package: ``ship_models.py [EARLIER_BUNDLE ...] BUNDLE [--name NAME]``.

Weights are stored in half precision. The card gets the name of the model, steps and hours of the trainings
that this one started from, and the command that makes all models anew.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from qsmflow.nets.bundle import SHIPPED, load_bundle, save_bundle


def main() -> None:
    """Ship one model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "bundles", nargs="+", type=Path, help="the last is shipped, the others came before it"
    )
    parser.add_argument("--name", help="that of the last bundle's run unless given")
    options = parser.parse_args()
    *earlier, last = [load_bundle(folder) for folder in options.bundles]
    name = options.name or last.card.name
    cards = [bundle.card for bundle in (*earlier, last)]
    data = {key: value for key, value in last.card.data.items() if key != "started from"}
    if earlier:
        before = [
            f"{card.steps} steps in {card.hours:g} hours, seed {card.seeds['training']}"
            for card in cards[:-1]
        ]
        data["trainings before"] = before
    card = replace(
        last.card,
        name=name,
        data=data,
        steps=sum(card.steps for card in cards),
        hours=round(sum(card.hours for card in cards), 2),
        command="scripts/train_models.sh WORK_DIR",
    )
    print(save_bundle(SHIPPED / name, last.network, card, float16=True))


if __name__ == "__main__":
    main()
