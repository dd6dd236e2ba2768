"""Ids in paths: plain decimal digits, so that each has one path only."""

import re
from typing import Annotated

from fastapi import Path
from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

from contract.ids import MAX_ID

_DECIMAL = re.compile(r"0|[1-9][0-9]*")


def _decimal(text: str) -> str:
    if not _DECIMAL.fullmatch(text):
        raise PydanticCustomError("id", "not a number in plain decimal digits")
    return text


PathId = Annotated[int, BeforeValidator(_decimal), Path(ge=0, le=MAX_ID)]
"""An item's or a user's id; Python's own reading would take `1_0` and `10.0` for 10 as well."""
