"""What can go wrong in the service. HTTP status codes stand here and nowhere deeper.

ServiceError
├── StartError              the service cannot start; the message is one line for a person
│   ├── SettingsError       a setting is missing or wrong
│   ├── RedisAbsentError    no Redis answers where one was expected
│   ├── DataFolderError     the embedded Valkey cannot use its data folder
│   └── NoVersionError      the store holds no version that can be served
└── RequestError            a request cannot be answered; carries its status
    ├── MalformedError      400  the body is not JSON
    ├── UnauthorizedError   401  a key is needed
    ├── ForbiddenError      403  the key is wrong, or writing is not allowed here
    ├── NotFoundError       404  no such item, model or version
    ├── BodyTimeoutError    408  the body did not arrive in time
    ├── ConflictError       409  at odds with what is served or stored
    ├── TooLargeError       413  over a limit
    ├── UnsupportedError    415  the body is encoded in a way that is not known here
    ├── InvalidError        422  a value is wrong; `field` says which
    ├── InternalError       500  a fault of the program, which the log describes
    ├── UnavailableError    503  Redis is away; worth another try
    ├── OverloadedError     503  more is waiting than can be answered in time; worth another try
    └── DeadlineError       504  the caller's deadline is past
"""

from collections.abc import Mapping
from typing import ClassVar


class ServiceError(Exception):
    """The service cannot do what it was asked to do."""


class StartError(ServiceError):
    """The service cannot start."""


class SettingsError(StartError):
    """A setting is missing or wrong."""


class RedisAbsentError(StartError):
    """No Redis answers where one was expected."""


class DataFolderError(StartError):
    """The embedded Valkey cannot use its data folder."""


class NoVersionError(StartError):
    """The store holds no version that can be served."""


class RequestError(ServiceError):
    """A request cannot be answered.

    Parameters
    ----------
    detail
        What is wrong, for the caller.
    field
        Path of the value that is wrong, such as `candidates[3]`.
    """

    status: ClassVar[int]
    title: ClassVar[str]
    headers: ClassVar[Mapping[str, str]] = {}

    def __init__(self, detail: str, field: str | None = None) -> None:
        super().__init__(detail)
        self.detail, self.field = detail, field


class MalformedError(RequestError):
    """The body is not JSON."""

    status, title = 400, "Malformed JSON"


class UnauthorizedError(RequestError):
    """A key is needed and none was sent."""

    status, title = 401, "Key needed"
    headers: ClassVar[Mapping[str, str]] = {"WWW-Authenticate": "Bearer"}


class ForbiddenError(RequestError):
    """The key is wrong, or writing is not allowed here at all."""

    status, title = 403, "Not allowed"


class NotFoundError(RequestError):
    """No such item, model or version."""

    status, title = 404, "Not found"


class BodyTimeoutError(RequestError):
    """The body did not arrive in time; the connection is closed."""

    status, title = 408, "Body too slow"
    headers: ClassVar[Mapping[str, str]] = {"Connection": "close"}


class ConflictError(RequestError):
    """At odds with what is served or stored."""

    status, title = 409, "Conflict"


class TooLargeError(RequestError):
    """Over a limit."""

    status, title = 413, "Too large"


class UnsupportedError(RequestError):
    """The body is encoded in a way that is not known here."""

    status, title = 415, "Unsupported encoding"


class InvalidError(RequestError):
    """A value is wrong."""

    status, title = 422, "Invalid value"


class InternalError(RequestError):
    """A fault of the program; the log has it, the caller hears nothing of it."""

    status, title = 500, "Internal error"


class UnavailableError(RequestError):
    """Redis is away; the same request may succeed later."""

    status, title = 503, "Unavailable"
    headers: ClassVar[Mapping[str, str]] = {"Retry-After": "1"}


class OverloadedError(RequestError):
    """More is waiting than can be answered in time; nothing was done."""

    status, title = 503, "Overloaded"
    headers: ClassVar[Mapping[str, str]] = {"Retry-After": "1"}


class DeadlineError(RequestError):
    """The caller's deadline is past."""

    status, title = 504, "Deadline passed"
