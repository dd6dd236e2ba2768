"""One connection of HTTP/1.1 as uvicorn speaks it, with a bound on what it keeps, and deaf to offers of upgrades."""

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MOST_HEAD_BYTES = 2**16
"""Of request line and headers, or of what trails a body in chunks."""

_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-type: text/plain; charset=utf-8\r\ncontent-length: 25\r\nconnection: close\r\n\r\n"
    b"The headers are too long."
)


class HttpConnection(HttpToolsProtocol):
    """The protocol of one connection.

    Uvicorn keeps headers of any length while they arrive. And where a client offers to go on in another protocol, as
    Java's does by default with `Upgrade: h2c`, its parser takes the body for that protocol; but a server may pass
    over the offer (RFC 9110, 7.8), and this one does.
    """

    _num_bytes = 0
    """Received since something of a request was whole."""

    def data_received(self, data: bytes) -> None:
        """Parse what arrived."""
        self._unset_keepalive_if_required()
        self._num_bytes += len(data)
        try:
            self._parse(data)
        except httptools.HttpParserError:
            self.logger.warning("Invalid HTTP request received.")
            self.send_400_response("Invalid HTTP request received.")
            return
        if self._num_bytes > MOST_HEAD_BYTES:
            self._refuse_head()

    def on_headers_complete(self) -> None:
        """Start a request, unless it is about to be read again."""
        self._num_bytes = 0
        if not self.parser.should_upgrade():
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Pass on a piece of a body."""
        self._num_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End a request, unless it is about to be read again."""
        self._num_bytes = 0
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def _parse(self, data: bytes) -> None:
        left = memoryview(data)
        while True:
            try:
                self.parser.feed_data(left)
            except httptools.HttpParserUpgrade as offer:
                left = left[offer.args[0] :]
                head = self._head_without_offer()
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
                self.parser.feed_data(head)
            else:
                return

    def _head_without_offer(self) -> bytes:
        """Return request line and headers as they came, but for the offer; raises HttpParserError."""
        method = self.parser.get_method()
        if method == b"CONNECT":
            raise httptools.HttpParserError("this is no proxy")
        lines = [b"%s %s HTTP/%s" % (method, self.url, self.parser.get_http_version().encode())]
        for name, value in self.headers:
            if name == b"connection":
                options = (option.strip() for option in value.split(b","))
                lines.append(b"connection: " + b", ".join(o for o in options if o.lower() != b"upgrade"))
            elif name != b"upgrade":
                lines.append(name + b": " + value)
        return b"\r\n".join([*lines, b"", b""])

    def _refuse_head(self) -> None:
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete:
            self.transport.write(_TOO_LARGE)
        self.transport.close()
