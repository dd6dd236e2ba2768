from pathlib import Path

import pytest
from pydantic import ValidationError

from service.errors import SettingsError
from service.settings import read_settings


def test_the_command_line_stands_before_the_environment(tmp_path: Path, monkeypatch):
    """A given value wins over QIN_..., which wins over the default; None is not given."""
    monkeypatch.setenv("QIN_PORT", "9000")
    monkeypatch.setenv("QIN_MAX_CANDIDATES", "10")
    settings = read_settings(store=tmp_path, port=9001, model=None)
    assert (settings.port, settings.max_candidates, settings.model) == (9001, 10, "qin")
    assert read_settings(store=tmp_path, port=None).port == 9000


def test_the_data_folder_follows_the_users(tmp_path: Path, monkeypatch):
    """The default lies under XDG_DATA_HOME where that is set."""
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert read_settings(store=tmp_path).data_dir == tmp_path / "qin"
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read_settings(store=tmp_path).data_dir == tmp_path / ".local" / "share" / "qin"


@pytest.mark.parametrize(
    ("wrong", "name"),
    [({"device": "tpu"}, "device"), ({"history_timeout_ms": 0}, "history_timeout_ms"), ({"x": 1}, "x")],
)
def test_a_wrong_setting_is_named(tmp_path: Path, wrong, name):
    """The message names the setting."""
    with pytest.raises(SettingsError, match=f"setting {name}:"):
        read_settings(store=tmp_path, **wrong)


def test_settings_are_frozen_and_keep_secrets(tmp_path: Path):
    """Nothing changes them later, and printing them shows no password."""
    settings = read_settings(store=tmp_path, redis_url="redis://u:geheim@h/0", admin_key="k3y")
    with pytest.raises(ValidationError):
        settings.port = 1
    assert "geheim" not in repr(settings)
    assert "k3y" not in repr(settings)
