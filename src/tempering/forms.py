"""The files of a saved model by its form: what one form has and another lacks must not outlive the model that it belonged to."""

from __future__ import annotations

import shutil
from pathlib import Path

MARK = "tempering.json"
OURS = (MARK, "framing.safetensors", "delta.safetensors")  # no other library writes them
WHOLE = ("config.json", "model.safetensors", "adapter_config.json", "adapter_model.safetensors")  # any library may have written them
FORMS = (*WHOLE, *OURS[1:], "framing.json", "lm_head.safetensors", "base")


def clear_forms(folder: Path) -> None:
    """Take away the files of a model that is being replaced, its mark first. Weights that are in use stay readable to who reads them."""
    for name in (MARK, *FORMS):
        remove(folder / name)


def remove(path: Path) -> None:
    """Take away a file, or a folder with all that is in it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
