import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import qin
from contract.bundle import list_versions, read_bundle
from demo.server import running
from tests.e2e.conftest import Product

DATA = Path(__file__).parent.parent / "data"
COMMANDS = [
    "prepare",
    "prepare-item",
    "check-data",
    "train",
    "report",
    "import",
    "evaluate",
    "export",
    "prune",
    "load-items",
    "load-histories",
    "serve",
    "rank",
    "models",
    "promote",
    "trial",
    "rollback",
    "demo",
]


def call(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    command = [sys.executable, "-m", "qin", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command: str) -> None:
    """`--help` says what a command does and shows a call."""
    shown = CliRunner().invoke(qin.app, [command, "--help"])
    assert shown.exit_code == 0
    assert f"Example: qin {command}" in " ".join(shown.output.split())


def test_the_version_is_told() -> None:
    """`qin --version` needs no command."""
    shown = CliRunner().invoke(qin.app, ["--version"])
    assert shown.exit_code == 0
    assert shown.output.strip() == version("qin-ranker")


def test_a_checkpoint_and_its_bundle_evaluate_alike(product: Product, tmp_path: Path) -> None:
    """Both forms print AUC and log loss and write one float32 per row."""
    lines, scores = [], []
    for name, folder in (("checkpoint", product.checkpoint), ("bundle", product.bundle)):
        file = tmp_path / f"{name}.npy"
        done = call(
            "evaluate",
            f"--{name}",
            folder,
            "--data",
            product.data.valid,
            "--items",
            product.data.items,
            "--out",
            file,
        )
        assert done.returncode == 0, done.stderr
        lines.append(done.stdout)
        scores.append(np.load(file))
    assert lines[0].startswith("1500 rows: AUC 0.")
    assert lines[0] == lines[1]
    assert scores[0].dtype == np.float32
    assert scores[0].shape == (1500,)
    assert np.abs(scores[0] - scores[1]).max() < 5e-6  # both are float32, summed in another order


def test_evaluate_takes_a_checkpoint_or_a_bundle_but_not_both(product: Product) -> None:
    """Which one is meant must be said."""
    done = call("evaluate", "--data", product.data.valid, "--items", product.data.items)
    assert done.returncode == 2
    assert "either --checkpoint or --bundle" in done.stderr


def test_a_published_checkpoint_is_imported_and_exported(product: Product, tmp_path: Path) -> None:
    """The authors' file becomes a checkpoint of ours, and the versions of its bundles are printed."""
    done = call(
        "import",
        DATA / "qin_small.model",
        "--feature-map",
        DATA / "qin_small.feature_map.json",
        "--out",
        tmp_path / "c",
    )
    assert done.returncode == 0, done.stderr
    store, items = tmp_path / "store", oracle_items(tmp_path)
    folded = call("export", "--checkpoint", tmp_path / "c", "--items", items, "--store", store)
    published = call("export", "--checkpoint", tmp_path / "c", "--items", items, "--store", store, "--no-fold")
    assert [folded.stdout.strip(), published.stdout.strip()] == list_versions(store, "qin")
    forms = [read_bundle(store / "qin" / version).manifest.folded for version in list_versions(store, "qin")]
    assert forms == [True, False]


def oracle_items(folder: Path) -> Path:
    """Write the oracle's items as an item_info file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with np.load(DATA / "qin_small.npz") as oracle:
        tags, embedding = oracle["item/item_tags"], oracle["item/item_emb"]
    columns = {"item_id": np.arange(len(tags)), "item_tags": list(tags), "item_emb_d128": list(embedding)}
    pq.write_table(pa.table(columns), folder / "items.parquet")
    return folder / "items.parquet"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["train", "--data", "nowhere", "--out", "out"], "does not exist"),
        (["train", "--data", "nowhere[/bold]", "--out", "out"], "nowhere[/bold]"),
        (["train", "--data", "nowhere", "--out", "out", "--set", "epochs=[x]"], "epochs=[x]"),
        (["train", "--data", "nowhere", "--out", "out", "--recipe", "huge"], "there is no recipe 'huge'"),
        (["train", "--data", "nowhere", "--out", "out", "--set", "epoch=3"], "there is no setting 'epoch'"),
        (["export", "--checkpoint", "nowhere", "--items", "i", "--store", "s"], "nowhere"),
        (["evaluate", "--bundle", "nowhere", "--data", "d", "--items", "i"], "no bundle at nowhere"),
        (["load-items", "--items", "nowhere.parquet"], "nowhere.parquet does not exist"),
        (["rank", "--user", "1", "--candidates", "1", "--url", "http://127.0.0.1:9"], "does not answer"),
        (["rank", "--user", "1", "--candidates", "1,x"], "is not a list of item ids"),
        (["serve", "--store", "nowhere", "--redis", "redis://127.0.0.1:9/0"], "127.0.0.1:9"),
    ],
)
def test_what_goes_wrong_is_one_readable_line(arguments: list[str], complaint: str, tmp_path: Path) -> None:
    """Bad input ends with a status and a reason, never with a stack trace."""
    command = [sys.executable, "-m", "qin", *arguments]
    environment = {"PYTHONPATH": str(Path(qin.__file__).parent), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment, timeout=120
    )
    assert done.returncode in (1, 2)
    assert complaint in " ".join(done.stderr.replace("│", " ").split())
    assert "Traceback" not in done.stderr


def test_the_environment_sets_what_the_command_line_leaves_open(product: Product, tmp_path: Path) -> None:
    """`QIN_...` variables reach `qin serve`; a wrong one is named."""
    settings = {"QIN_STORE": str(product.store), "QIN_DEVICE": "abacus", "QIN_DATA_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "qin", "serve"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | settings, timeout=60)
    assert done.returncode == 1
    assert "setting device" in done.stderr


def test_a_service_is_asked_and_told_from_the_command_line(product: Product, tmp_path: Path) -> None:
    """Load, rank, list, promote and roll back, with the words of the README."""
    data_dir = tmp_path / "valkey"
    loaded = call("load-items", "--items", product.data.items, "--levels", product.data.train, "--data-dir", data_dir)
    assert "301 items written, 0 had levels that differed" in loaded.stdout
    with running(product.store, data_dir, tmp_path / "serve.log") as url:
        histories = call("load-histories", "--data", product.data.train, "--data-dir", data_dir)
        assert "200 histories written, 0 users had rows that differed" in histories.stdout
        ranked = call("rank", "--user", 7, "--candidates", "1,2,3", "--top-k", 2, "--url", url, "--json")
        answer = json.loads(ranked.stdout)
        assert answer["version"] == product.bundle.name
        assert len(answer["items"]) == len(answer["scores"]) == 2
        assert answer["unknown_items"] == answer["degraded"] == []
        listed = json.loads(call("models", "--url", url, "--json").stdout)
        assert listed["serving"] == product.bundle.name
        exported = call(
            "export", "--checkpoint", product.checkpoint, "--items", product.data.items, "--store", product.store
        )
        second = exported.stdout.strip()
        assert second in call("models", "--url", url).stdout
        assert "shadow" in call("promote", second, "--shadow", "--url", url).stdout
        assert f"{product.bundle.name} is active, {second} is on trial" in call("trial", "--url", url).stdout
        assert json.loads(call("trial", "--json", "--url", url).stdout)["shadow"]["requests"] == 0
        tried = json.loads(call("promote", second, "--canary", 0.05, "--force", "--url", url, "--json").stdout)
        assert (tried["models"][0]["trial"]["canary"], tried["gate"]["forced"]) == (0.05, True)
        promoted = json.loads(call("promote", second, "--url", url, "--json").stdout)
        assert promoted["models"][0]["serving"] == second
        rolled_back = json.loads(call("rollback", "--url", url, "--json").stdout)
        assert rolled_back["models"][0]["serving"] == product.bundle.name
        unknown = call("promote", "no-such-version", "--url", url)
        assert unknown.returncode == 1
        assert "no version no-such-version" in unknown.stderr
