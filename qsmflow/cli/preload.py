"""What worker processes need: imported once, by the process that they are forked from."""

import pkgutil
from importlib import import_module

from qsmflow.cli.imports import uncollected

with uncollected():
    import nipype.pipeline.engine  # noqa: F401

    import qsmflow.interfaces

    for module in pkgutil.iter_modules(qsmflow.interfaces.__path__):
        import_module(f"qsmflow.interfaces.{module.name}")
