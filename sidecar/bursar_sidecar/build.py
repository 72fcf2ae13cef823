"""Which build this is."""

from typing import Final

VERSION: Final = "0.1.0"
"""Of the package. Written here because asking the installation for it loads three megabytes of
modules (importlib.metadata, with e-mail and zip) that nothing else needs; a test compares them."""
