"""The weights of a study's model: a folder keeps its name when others are saved into it, and runs on both must not meet in one study."""

from __future__ import annotations

from pathlib import Path

from tempering.errors import ResumeError
from tempering.pretrained import locate
from tempering.study.store import Store


def same_weights(store: Store, model: str) -> None:
    """Refuse a ``model`` whose weights are not those the study began with; a study that noted none (an older one) takes these for its own.

    Reading a model takes seconds to minutes, so its files' sizes and times are kept too: while they stay, so do the weights.
    """
    from tempering.backbone import Backbone

    known, files = store.meta("weights"), _files(model)
    if known is not None and files and known["files"] == files:
        return
    found = Backbone.load(model).fingerprint()
    if known is not None and known["fingerprint"] != found:
        raise ResumeError(
            f"{store.path.parent}: holds a study of {model} with other weights ({known['fingerprint'][:8]}, now {found[:8]});"
            " give another --output-dir"
        )
    store.put_meta("weights", {"fingerprint": found, "files": files})


def _files(model: str) -> list[list[str | int]]:
    """Name, size and time of every file of the model's folder, which for a hub id is that of the local cache; empty without one."""
    from huggingface_hub import try_to_load_from_cache

    where = locate(model)
    if not Path(where).is_dir():
        cached = try_to_load_from_cache(where, "config.json")
        if not isinstance(cached, str):
            return []
        where = str(Path(cached).parent)
    found = [(path.name, path.stat()) for path in sorted(Path(where).iterdir()) if path.is_file()]
    return [[name, facts.st_size, facts.st_mtime_ns] for name, facts in found]
