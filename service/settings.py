"""Settings of one replica: from the command line, then the environment (`QIN_...`), then defaults."""

import ipaddress
import os
import sys
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from contract.bundle import BundleError, check_name
from service.errors import SettingsError


def default_data_dir() -> Path:
    """Return the folder of the embedded Valkey under the user's data folder."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "qin"
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "qin"


class Settings(BaseSettings):
    """Everything that can be set; built once, in the composition root."""

    model_config = SettingsConfigDict(env_prefix="QIN_", frozen=True, extra="forbid")

    store: Path = Field(description="folder of bundles")
    model: str = "qin"
    redis_url: SecretStr | None = Field(default=None, description="none: an embedded Valkey in data_dir")
    data_dir: Path = Field(default_factory=default_data_dir)
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535, description="0 takes a free port")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: int = Field(default=1, ge=1, le=256, description="processes that answer requests; Linux, on the CPU")
    num_threads: int = Field(
        default=0, ge=0, description="of one scoring run; 0 takes the physical cores, divided among the workers"
    )
    require_kernels: bool = Field(default=False, description="serve no version whose ranker runs unfused")
    admin_key: SecretStr | None = None
    admin_key_file: Path | None = None

    max_candidates: int = Field(default=4096, ge=1, description="of one request body")
    max_users: int = Field(default=256, ge=1, description="of one request body")
    max_body_bytes: int = Field(default=2**20, ge=1024, description="of a body, or of a line in bulk")
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
    shutdown_grace_s: float = Field(default=10, ge=0, description="how long requests in flight may take to end")

    @field_validator("model")
    @classmethod
    def _is_a_name(cls, model: str) -> str:
        try:
            return check_name(model)
        except BundleError as error:
            raise ValueError(str(error)) from error

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
    if settings.admin_key is not None and settings.admin_key_file is not None:
        raise SettingsError("setting admin_key: give the key or its file, not both")
    if settings.admin_key_file is not None:
        try:
            key = settings.admin_key_file.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"setting admin_key_file: {settings.admin_key_file} cannot be read") from error
    elif settings.admin_key is not None:
        key = settings.admin_key.get_secret_value()
    else:
        return None
    if not key.strip():
        raise SettingsError("setting admin_key: the key is empty")
    return key.strip().encode()
