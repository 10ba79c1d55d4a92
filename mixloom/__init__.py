"""Mixloom: mixed-modal documents in, pretraining tokens and a trained model out."""

from pathlib import Path as _Path

__version__ = "0.1.0"

# In a source checkout the packages are top-level folders beside this one (pipeline/, tokenizers/, ...),
# so the checkout itself is a second place to look for `mixloom.*`. An installed wheel needs none of this.
_checkout = _Path(__file__).resolve().parent.parent
if (_checkout / "pyproject.toml").is_file() and (_checkout / "pipeline").is_dir():
    __path__.append(str(_checkout))
