"""What can go wrong with a comparison.

PeerError            a peer cannot be installed, does not start or does not answer: it is left out, and named
DifferentScoresError a server does not score as the model does: nothing may be compared
"""


class PeerError(Exception):
    """A server cannot take part; the first line of the message says why, more may follow."""


class DifferentScoresError(Exception):
    """A server's scores are not the model's."""
