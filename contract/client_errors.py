"""What can go wrong between a caller and the service.

ClientError
├── NoAnswerError            nothing came back: no connection, it broke, or the time was up; `status` is None
├── ForeignAnswerError       an answer came, but none of this service
└── RefusedError             the service answered with an error; `status` says which
    ├── BadRequestError      400, 413, 422  a value is wrong; `field` says which
    ├── NotAllowedError      401, 403       a key is missing or wrong
    ├── MissingError         404            no such item, model or version
    ├── AtOddsError          409            at odds with what is served or stored
    ├── BusyError            429, 503       too much to do, or Redis is away; `retry_after_s` says when to come back
    └── TooLateError         504            past the deadline
"""


class ClientError(Exception):
    """The service refused a request, or did not answer.

    Attributes
    ----------
    status
        The HTTP status, None where no answer came.
    field
        Path of the value that is wrong, where one is.
    retry_after_s
        How long the service asks to be left alone, where it does.
    request_id
        What the service's logs call the request, where it said so.
    """

    def __init__(
        self,
        message: str,
        status: int | None = None,
        field: str | None = None,
        *,
        retry_after_s: float | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.field, self.retry_after_s, self.request_id = status, field, retry_after_s, request_id


class NoAnswerError(ClientError):
    """Nothing came back: there is no connection, it broke, or the time was up."""


class ForeignAnswerError(ClientError):
    """An answer came, but it is none of this service."""


class RefusedError(ClientError):
    """The service, or a gateway before it, answered with an error."""


class BadRequestError(RefusedError):
    """A value is wrong."""


class NotAllowedError(RefusedError):
    """A key is missing or wrong."""


class MissingError(RefusedError):
    """No such item, model or version."""


class AtOddsError(RefusedError):
    """At odds with what is served or stored."""


class BusyError(RefusedError):
    """The service has too much to do, or its Redis is away."""


class TooLateError(RefusedError):
    """The deadline passed."""


_BY_STATUS: dict[int, type[RefusedError]] = {
    400: BadRequestError,
    401: NotAllowedError,
    403: NotAllowedError,
    404: MissingError,
    409: AtOddsError,
    413: BadRequestError,
    422: BadRequestError,
    429: BusyError,
    503: BusyError,
    504: TooLateError,
}


def refusal(status: int) -> type[RefusedError]:
    """Return the class of an answer's error."""
    return _BY_STATUS.get(status, RefusedError)
