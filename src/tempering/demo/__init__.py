"""The data of ``temper demo``: 460 messages to the help desk of a town library, each with its topic.

The text was written for this project, for this purpose; it holds no real person's words and is released under the project's
licence. ``README.md`` beside the files says more. `path` is all there is to it:

    task = tempering.Task.from_file(tempering.demo.path(), text="message", label="topic")
"""

from __future__ import annotations

from pathlib import Path


def path() -> Path:
    """The folder of ``train.csv`` (260 rows), ``dev.csv`` (60) and ``test.csv`` (140), with columns ``message`` and ``topic``."""
    return Path(__file__).parent
