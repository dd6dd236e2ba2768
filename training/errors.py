"""The errors of this room; each message says what is wrong and where.

    TrainingError
    ├── DataError            the parquet files do not fit together, or do not fit the model
    ├── RecipeError          no such recipe, no such setting, or a value that a setting cannot take
    ├── DivergenceError      the loss is no longer finite
    ├── CheckpointError      a checkpoint is missing, truncated, changed or of other shapes
    │   └── ResumeError      a run cannot be continued: another recipe, other data, or nothing there
    ├── ForeignCheckpointError   a published checkpoint that is not a QIN, or not its feature map's
    └── OutputError          a file or folder cannot be written

A parquet file that is not of the MM-CTR layout raises `contract.mmctr.MmctrError`, which is the contract's.
"""


class TrainingError(Exception):
    """Training, importing or evaluating cannot go on."""


class DataError(TrainingError):
    """The data's files do not fit together, or do not fit the model."""


class RecipeError(TrainingError):
    """There is no such recipe or setting, or a setting cannot take the value."""


class DivergenceError(TrainingError):
    """The loss is no longer a finite number."""


class CheckpointError(TrainingError):
    """A checkpoint is missing, truncated, changed or of other shapes than it says."""


class ResumeError(CheckpointError):
    """A run cannot be continued from what its folder holds."""


class ForeignCheckpointError(TrainingError):
    """A published checkpoint cannot be turned into one of ours."""


class OutputError(TrainingError):
    """A result cannot be written where it was asked for."""
