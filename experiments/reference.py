"""The reference of all public functions and classes, out of their docstrings, as pages that work offline:

    python -m experiments.reference --out build/reference

Pages are made by pdoc. What it warns of is an error here, so that a docstring or an annotation that cannot be shown
is noticed.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
import types
import warnings
from pathlib import Path

import pdoc
import pdoc.render

import bvjax
from bvjax import console

PACKAGES = ("bvjax", "kernels_pallas")
# What begins to work when it is imported, and PyTorch's classes.
LEFT_OUT = ("bvjax.__main__", "bvjax.conversion.torch_classes")


def modules(package: str) -> list[str]:
    """Returns what pdoc is told to show all of: a package, or its parts where `__all__` would hide them."""
    root = importlib.import_module(package)
    if not hasattr(root, "__all__"):
        return [package]
    names = [f"{package}.{module.name}" for module in pkgutil.iter_modules(root.__path__)]
    return [package, *(name for name in names if name not in LEFT_OUT)]


def build(out: Path, packages: tuple[str, ...] = PACKAGES) -> int:
    """Writes the pages of packages and returns their number.

    Raises `UserWarning` where pdoc warns.
    """
    for name in bvjax.__all__:  # found when it is first asked for, which pdoc does not do
        value = getattr(bvjax, name)
        if not isinstance(value, types.ModuleType):
            setattr(bvjax, name, value)
    shown = [module for package in packages for module in modules(package)]
    pdoc.render.configure(docformat="google", show_source=False, footer_text="bvjax")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", module="pdoc")
        # Names that only type checkers import: such an annotation is shown as it is written, without a link.
        warnings.filterwarnings("ignore", message="Error parsing type annotation")
        pdoc.pdoc(*shown, *(f"!{name}" for name in LEFT_OUT), output_directory=out)
    return len(list(out.rglob("*.html")))


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and build; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.reference", description="Builds the reference of bvjax."
    )
    parser.add_argument("--out", default="build/reference", help="folder of the pages")
    out = console.path(parser.parse_args(argv).out)

    def command() -> int:
        print(f"{build(out)} pages; begin with {out / 'index.html'}")
        return 0

    return console.run(command, "error")


if __name__ == "__main__":
    sys.exit(main())
