import re
from pathlib import Path

import pytest

from contract import client as client_module

PAGE = (Path(__file__).parents[2] / "docs" / "client.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
URL = "http://127.0.0.1:8000"


def test_the_page_has_examples():
    """There is something to run."""
    assert len(EXAMPLES) == 6


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_an_example_of_the_documentation_runs(number: int, served: str, capsys, monkeypatch):
    """Each stands for itself, prints something, and says no wrong comment about what it prints."""
    monkeypatch.setattr(client_module.Client.__init__, "__defaults__", (served, None, 10))
    exec(EXAMPLES[number].replace(URL, served), {})
    printed = capsys.readouterr().out
    assert printed
    for comment in re.findall(r"print\(.*\)  # (.*)", EXAMPLES[number]):
        assert comment in printed
