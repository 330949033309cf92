"""The papers behind the catalogue, as BibTeX."""

import functools
from importlib import resources


@functools.cache
def entries() -> dict[str, str]:
    """The entries of references.bib by key."""
    text = resources.files("dstjax.methods").joinpath("references.bib").read_text()
    return {entry.split("{")[1].split(",")[0]: entry for entry in text.strip().split("\n\n")[1:]}
