"""What a run reports of each epoch: a line of JSON, and curves for TensorBoard."""

from pathlib import Path
from types import TracebackType
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError
from torch.utils.tensorboard import SummaryWriter

from training.errors import ResumeError
from training.tensorfile import make_folder, write_whole

METRICS = "metrics.jsonl"
TENSORBOARD = "tensorboard"


class EpochRecord(BaseModel):
    """One epoch; losses are means over its training rows, as seen before each step."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epoch: int
    loss: float  # binary cross-entropy and the L2 term
    penalty: float  # the L2 term alone
    grad_norm: float  # before clipping
    learning_rate: float
    rows_per_s: float  # training alone
    train_s: float
    evaluate_s: float
    auc: float
    log_loss: float
    best: bool


class Journal:
    """Appends records to the files of a run's folder; records after `last_epoch` of an older attempt are dropped."""

    def __init__(self, folder: Path, last_epoch: int = 0) -> None:
        self._path = folder / METRICS
        # A fresh run keeps nothing, so what lies there need not even be a journal.
        kept = [record for record in read_journal(folder) if record.epoch <= last_epoch] if last_epoch else []
        write_whole(self._path, "".join(_line(record) for record in kept).encode())
        make_folder(folder / TENSORBOARD)
        self._writer = SummaryWriter(str(folder / TENSORBOARD), purge_step=last_epoch + 1)

    def write(self, record: EpochRecord) -> None:
        """Append one epoch."""
        with self._path.open("a") as file:
            file.write(_line(record))
        for name, value in record.model_dump(exclude={"epoch", "best"}).items():
            group = "valid" if name in ("auc", "log_loss") else "train"
            self._writer.add_scalar(f"{group}/{name}", value, record.epoch)
        self._writer.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._writer.close()


def read_journal(folder: Path) -> list[EpochRecord]:
    """Return the records of a run so far; a last line that was cut short by a crash does not count.

    Raises
    ------
    ResumeError
        The file cannot be read, or a whole line is not the record of an epoch; the message names the line.
    """
    path = folder / METRICS
    try:
        lines = path.read_bytes().split(b"\n") if path.exists() else [b""]
    except OSError as error:
        raise ResumeError(f"{path} cannot be read: {error.strerror or error}") from error
    # What follows the last line's end is empty, or the beginning of a line that was never finished.
    return [_record(path, number, line) for number, line in enumerate(lines[:-1], start=1)]


def _record(path: Path, number: int, line: bytes) -> EpochRecord:
    try:
        return EpochRecord.model_validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "top level"
        raise ResumeError(
            f"{path}: line {number} is not the record of an epoch: {where}: {first['msg']}; "
            "remove the line to go on without it"
        ) from error


def _line(record: EpochRecord) -> str:
    return record.model_dump_json() + "\n"
