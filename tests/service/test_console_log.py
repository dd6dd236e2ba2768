"""What a terminal shows of the log."""

import os
import pty
import subprocess
import sys

CODE = """
import logging
import structlog
from service import logs

def fail(url):
    hidden = url
    raise RuntimeError("no room")

logs.configure()
try:
    fail("redis://:hush@host")
except RuntimeError:
    structlog.get_logger("ours").exception("it failed", path="/\\x1b[2Jv1")
    logging.getLogger("theirs").exception("it failed too")
"""


def shown_on_a_terminal(code: str) -> str:
    """What a program writes to standard error where that is a terminal."""
    ours, theirs = pty.openpty()
    with subprocess.Popen([sys.executable, "-c", code], stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        try:
            while part := os.read(ours, 2**16):
                shown += part
        except OSError:  # how Linux tells that nobody writes any more
            pass
        finally:
            os.close(ours)
        assert process.wait() == 0
    return shown.decode()


def test_tracebacks_on_a_terminal_show_no_values():
    """Variables hold keys, and URLs with passwords; the places in the code are enough."""
    shown = shown_on_a_terminal(CODE)
    assert shown.count("RuntimeError: no room") == 2
    assert "in fail" in shown
    assert "hush" not in shown


def test_what_callers_send_cannot_steer_a_terminal():
    """Control characters in a value are shown, not obeyed."""
    assert "\x1b[2J" not in shown_on_a_terminal(CODE)
