"""Settings of one replica: from the command line, then the environment (`QIN_...`), then defaults."""

import ipaddress
import os
import sys
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from contract.bundle import BundleError, check_name
from contract.store import TIMEOUT_S
from scoring.buckets import MOST_ROWS, Buckets
from service.errors import SettingsError


def default_data_dir() -> Path:
    """Return the folder of the embedded Valkey under the user's data folder."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "qin"
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "qin"


class Settings(BaseSettings):
    """Everything that can be set; built once, in the composition root."""

    model_config = SettingsConfigDict(env_prefix="QIN_", frozen=True, extra="forbid")

    store: SecretStr = Field(description="folder of models, or a URL, which may hold a password")
    cache_dir: Path | None = Field(default=None, description="copies from a store at a URL; by default the user's")
    store_timeout_s: float = Field(default=TIMEOUT_S, gt=0, description="for a store at a URL to answer")
    model: str = "qin"
    redis_url: SecretStr | None = Field(default=None, description="none: an embedded Valkey in data_dir")
    data_dir: Path = Field(default_factory=default_data_dir)
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535, description="0 takes a free port")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    device_memory_mb: int | None = Field(
        default=None,
        ge=1,
        description="of a GPU, for all loaded versions; none: nine tenths of what is free",
    )
    device_graphs: bool = Field(default=True, description="on a GPU, capture runs when a version is loaded")
    device_candidates: tuple[int, ...] = Field(
        default=Buckets().candidates, description="sizes that a GPU's runs are padded to, ascending"
    )
    device_users: tuple[int, ...] = Field(default=Buckets().users, description="the same for users of one run")
    workers: int = Field(default=1, ge=1, le=256, description="processes that answer requests; Linux, on the CPU")
    num_threads: int = Field(
        default=0, ge=0, description="of one scoring run; 0 takes the physical cores, divided among the workers"
    )
    require_kernels: bool = Field(default=False, description="serve no version whose ranker runs unfused")
    admin_key: SecretStr | None = None
    admin_key_file: Path | None = None
    read_key: SecretStr | None = Field(default=None, description="needed to rank and to read, where one is set")
    read_key_file: Path | None = None

    max_candidates: int = Field(default=4096, ge=1, description="of one request body")
    max_users: int = Field(default=256, ge=1, description="of one request body")
    max_body_bytes: int = Field(default=2**20, ge=1024, description="of a body, or of a line in bulk")
    max_arriving_bytes: int = Field(
        default=2**27, ge=1, description="of bodies that are not whole yet, past which none above 64 KiB is taken"
    )
    max_item_ids: int = Field(default=10_000, ge=1, description="of a history or of events in one request")
    body_timeout_s: float = Field(
        default=5, gt=0, description="for a whole body to arrive, or for the next piece of one in bulk"
    )
    max_queued_candidates: int = Field(default=65_536, ge=1, description="being ranked or waiting for it at once")
    max_queue_ms: float = Field(
        default=100, gt=0, description="expected wait from which on requests are shed; under overload less may wait"
    )
    deadline_ms: float | None = Field(default=None, gt=0, description="of every ranking; requests may set less")
    batch_candidates: int = Field(
        default=400, ge=0, description="of requests that wait at once to be scored together; 0 scores each alone"
    )
    history_timeout_ms: float = Field(default=20, gt=0, description="how long a rank waits for a history")
    mirror_capacity: int | None = Field(default=None, ge=2, description="items held in memory; none holds all")
    item_timeout_ms: float = Field(
        default=20, gt=0, description="how long a rank waits for items that are not in memory"
    )
    max_item_lag_ms: float = Field(
        default=700, ge=300, description="how long the catalogue may not have been followed before ranks say so"
    )
    stored_history_length: int = Field(
        default=64, ge=1, description="ids kept of each user, if the model needs no more"
    )
    redis_timeout_s: float = Field(default=2, gt=0)
    follow_interval_s: float = Field(default=0.5, gt=0, description="how often the active version is looked up")
    gate_requests: int = Field(
        default=256, ge=0, description="recent requests kept in Redis, to compare a new version by; 0: none"
    )
    gate_max_auc_drop: float = Field(
        default=0.005, ge=0, description="how far a promoted version's AUC may lie below the serving version's"
    )
    gate_max_auc_drop_other_data: float = Field(
        default=0.05, ge=0, description="the same where both were not measured on the same data"
    )
    gate_max_psi: float = Field(
        default=0.25, ge=0, description="how far its scores' distribution may lie from the serving version's"
    )
    slow_ms: float = Field(default=200, gt=0, description="from when on a ranking is logged as slow")
    access_log: bool = Field(default=False, description="log a line for every answer")
    request_log_dir: Path | None = Field(default=None, description="folder of a sample of rankings, as parquet")
    request_log_rate: float = Field(default=0.01, gt=0, le=1, description="the share of rank requests in it")
    # Less than a day: what nobody has written to for so long counts as left by a process that was killed.
    request_log_file_s: float = Field(default=300, gt=0, le=43_200, description="how long one file of it gathers")
    shutdown_grace_s: float = Field(default=10, ge=0, description="how long requests in flight may take to end")

    @field_validator("store", mode="before")
    @classmethod
    def _is_path_or_url(cls, store: object) -> object:
        return str(store) if isinstance(store, Path) else store

    @field_validator("model")
    @classmethod
    def _is_a_name(cls, model: str) -> str:
        try:
            return check_name(model)
        except BundleError as error:
            raise ValueError(str(error)) from error

    @field_validator("device_candidates", "device_users")
    @classmethod
    def _ascend(cls, sizes: tuple[int, ...], others: ValidationInfo) -> tuple[int, ...]:
        if not sizes or list(sizes) != sorted(set(sizes)) or sizes[0] < 1:
            raise ValueError("must be ascending sizes, all at least 1")
        if sizes[-1] * sizes[0] > MOST_ROWS or sizes[0] * max(others.data.get("device_candidates", [1])) > MOST_ROWS:
            raise ValueError(f"must leave the smallest number of users at most {MOST_ROWS} candidates together")
        return sizes

    @field_validator("mirror_capacity")
    @classmethod
    def _holds_what_one_request_ranks(cls, capacity: int | None, others: ValidationInfo) -> int | None:
        if capacity is not None and capacity < 2 * others.data.get("max_candidates", 0):
            raise ValueError("must be at least twice max_candidates, or one request puts out what another needs")
        if capacity is not None and others.data.get("workers", 1) > 1:
            raise ValueError("needs workers = 1")
        return capacity

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine can reach the service."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def read_settings(**overrides: object) -> Settings:
    """Build the settings; an override that is None counts as not given.

    Raises
    ------
    SettingsError
        A value is wrong; the message names the setting.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        return Settings(**given)  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise SettingsError(f"setting {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def read_admin_key(settings: Settings) -> bytes | None:
    """Return the admin key from the environment or its file, without blanks and line ends around it.

    None where none is set.

    Raises
    ------
    SettingsError
        The key is empty, its file cannot be read, or both are given.
    """
    return _read_key("admin_key", settings.admin_key, settings.admin_key_file)


def read_read_key(settings: Settings) -> bytes | None:
    """Return the key for ranking and reading; see `read_admin_key`."""
    return _read_key("read_key", settings.read_key, settings.read_key_file)


def _read_key(name: str, given: SecretStr | None, file: Path | None) -> bytes | None:
    if given is not None and file is not None:
        raise SettingsError(f"setting {name}: give the key or its file, not both")
    if file is not None:
        try:
            key = file.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"setting {name}_file: {file} cannot be read") from error
    elif given is not None:
        key = given.get_secret_value()
    else:
        return None
    if not key.strip():
        raise SettingsError(f"setting {name}: the key is empty")
    return key.strip().encode()
