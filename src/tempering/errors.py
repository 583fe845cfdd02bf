"""The exception tree. Everything the library raises on purpose is a `TemperingError`.

```
TemperingError
├── DataError        a file, row, column or label is not what was expected
├── RecipeError      a recipe, option or value cannot mean what it says
├── ModelError       a pretrained model cannot be found, read or served by a method
├── ResumeError      a checkpoint or study on disk does not belong to this run
├── CollapseError    training produced no finite loss any more
└── MemoryShort      there is less memory than a single row needs, or than a step that cannot be cut needs
```

The command line prints the message of any of these as one line and exits with status 2.
A message says what is wrong, why, and what to do, in the user's own names.
"""


class TemperingError(Exception):
    """Root of all errors raised on purpose."""


class DataError(TemperingError):
    """A file, row, column or label is not what was expected."""


class RecipeError(TemperingError):
    """A recipe, option or value cannot mean what it says."""


class ModelError(TemperingError):
    """A pretrained model cannot be found, read, or served by a method."""


class ResumeError(TemperingError):
    """A checkpoint or a study on disk does not belong to this run."""


class CollapseError(TemperingError):
    """Training produced a loss that is not finite."""


class MemoryShort(TemperingError):
    """Something needs more memory than there is and cannot be cut any smaller."""
