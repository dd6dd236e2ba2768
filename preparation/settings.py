"""Everything that decides how logs become training rows."""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from preparation.errors import SettingError

IdRule = Literal["auto", "keep", "dense"]
"""keep: the ids are integers and stay what they are; dense: 1 to n; auto: keep where that is possible."""
Share = Annotated[float, Field(ge=0, lt=1)]


class Columns(BaseModel):
    """What the columns of logs and catalogue are called."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    user: str = "user_id"
    item: str = "item_id"
    time: str = "time"
    label: str = "label"
    tags: str = "tags"
    image: str = "image"
    text: tuple[str, ...] = ("title", "description")
    """Joined by a space, in this order; those that the catalogue lacks are left out."""


class Settings(BaseModel):
    """The rules by which rows, histories, negatives, levels, tags and embeddings are made; defaults are the usual."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    columns: Columns = Columns()
    time_unit: Literal["s", "ms", "us"] = "s"
    tag_separator: str = Field(default="|", min_length=1)
    history_length: int = Field(default=64, ge=1, le=4096)
    valid_share: Share = 0.1
    """Of the clicks, the last ones before the test's."""
    test_share: Share = 0.1
    """Of the clicks, the very last ones."""
    valid_from: datetime | None = None
    test_from: datetime | None = None
    rows_from: datetime | None = None
    """What happened before counts in histories and levels but is no row itself."""
    num_negatives: int | None = Field(default=None, ge=0)
    """Per click: 4 sampled ones where nothing says what was shown, else at most so many shown ones; None: all."""
    uniform_share: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Of the sampled negatives; the others by popularity."""
    popularity_power: float = Field(default=0.75, ge=0, le=4)
    click_window_s: float = Field(default=1800.0, gt=0)
    """How long after it was shown a click still belongs to an impression or a served candidate."""
    served_top: int | None = Field(default=None, ge=1)
    """Only the best so many candidates of a served request count as shown; None: all."""
    max_unknown_share: Share = 0.05
    """More events than this on items that the catalogue lacks are an error; up to it they are left out."""
    levels: Literal["quantile", "log"] = "quantile"
    num_tags: int = Field(default=10_000, ge=1, le=2**31 - 1)
    max_tags: int = Field(default=5, ge=1, le=64)
    width: int = Field(default=128, ge=1, le=8192)
    text_encoder: str = "auto"
    """tfidf, sentence-transformers:NAME, or auto: tfidf."""
    image_encoder: str = "none"
    """none or open_clip:MODEL/PRETRAINED."""
    user_ids: IdRule = "auto"
    item_ids: IdRule = "auto"
    seed: int = Field(default=20_242_025, ge=0)

    @model_validator(mode="after")
    def _leaves_rows_to_train_on(self) -> "Settings":
        if self.valid_share + self.test_share >= 1:
            raise ValueError("valid_share and test_share leave nothing to train on")
        return self


_FITTED = ("width", "text_encoder", "image_encoder", "max_tags", "levels", "user_ids", "item_ids")
"""What an earlier preparation has decided for good: vectors and numbers would no longer mean the same."""


def make_settings(
    columns: Sequence[str] = (), settings: Sequence[str] = (), before: Settings | None = None, **values: object
) -> Settings:
    """Return settings with some columns renamed and some values changed.

    Parameters
    ----------
    columns
        role=name each, such as user=viewer; text=title,body for the columns of text.
    settings
        key=value each, the last one of a key counting.
    before
        Settings to start from, without their moments of time; none: the defaults.
    values
        Changes too; None changes nothing.

    Raises
    ------
    SettingError
        There is no such role or setting, or a value cannot be taken.
    """
    base = Settings() if before is None else before
    moments = {"rows_from", "valid_from", "test_from"}
    changed: dict[str, Any] = base.model_dump(exclude=moments)
    roles: dict[str, Any] = changed["columns"]
    roles |= _pairs(columns, roles.keys(), "column")
    if isinstance(roles["text"], str):
        roles["text"] = tuple(roles["text"].split(","))
    changed |= _pairs(settings, Settings.model_fields.keys() - {"columns"}, "setting")
    changed |= {name: value for name, value in values.items() if value is not None}
    try:
        return Settings.model_validate(changed)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "settings"
        raise SettingError(f"{where}: {first['msg']}") from error


def _pairs(texts: Sequence[str], known: Collection[str], what: str) -> dict[str, str]:
    pairs = {}
    for text in texts:
        key, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not value:
            raise SettingError(f"{what} {text!r} is not of the form key=value")
        if key not in known:
            raise SettingError(f"there is no {what} {key!r}; there are {', '.join(sorted(known))}")
        pairs[key] = value
    return pairs


def check_alike(before: Settings, now: Settings) -> None:
    """Refuse settings that an earlier preparation has decided otherwise; raises SettingError."""
    for name in _FITTED:
        old, new = getattr(before, name), getattr(now, name)
        if old != new:
            raise SettingError(f"{name} was {old} in the preparation to go on from and cannot be {new}")


def microseconds(time: datetime) -> int:
    """Return a time in microseconds since 1970; one without a zone is in UTC."""
    aware = time if time.tzinfo else time.replace(tzinfo=UTC)
    return round(aware.timestamp() * 1e6)
