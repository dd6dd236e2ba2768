"""What can go wrong with a load test, as opposed to what it measures.

LoadTestError
├── WrongCallError      what was asked for makes no sense; nothing was sent
└── GeneratorError      a process that sends requests ended
"""


class LoadTestError(Exception):
    """Nothing could be measured; the message says why.

    Attributes
    ----------
    exit_status
        Of a command that fails so: neither that of an SLO that held nor of one that broke.
    """

    exit_status = 2


class WrongCallError(LoadTestError, ValueError):
    """An option is wrong, or one is missing."""


class GeneratorError(LoadTestError):
    """A generator process ended before its requests did."""
