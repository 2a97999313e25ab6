"""No setting without an effect."""

import ast
from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import pytest

import qsmflow.cli
import qsmflow.workflows
from qsmflow.cli.parser import parse_settings
from qsmflow.workflows.settings import Settings


def test_every_setting_is_read_somewhere():
    sources = [
        path
        for package in (qsmflow.cli, qsmflow.workflows)
        for path in Path(package.__path__[0]).glob("*.py")
        # Other commands have settings of their own.
        if "workflows.settings import" in path.read_text(encoding="utf-8")
    ]
    read = {
        node.attr
        for path in sources
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and getattr(node.value, "id", None) == "settings"
    }
    names = {field.name for field in fields(Settings)}
    assert names - read == set()
    assert read - names == set()


def test_settings_do_not_change():
    settings = parse_settings(["in", "out", "participant"])
    with pytest.raises(FrozenInstanceError):
        settings.inversion = "tkd"
    with pytest.raises(TypeError):
        settings.derivatives["more"] = "path"
