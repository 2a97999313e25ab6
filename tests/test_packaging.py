"""What is installed is all that there is."""

from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_every_package_is_installed():
    settings = ConfigParser()
    settings.read(ROOT / "setup.cfg")
    listed = set(settings["options"]["packages"].split())
    found = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in (ROOT / "qsmflow").rglob("__init__.py")
        if "workflows" not in path.parts
    }
    assert listed == found | {"qsmflow.workflows"}
