"""What the documents name is there, and what is there they name."""

import re
from pathlib import Path

import pytest
from fastapi.routing import APIRoute

from service import (
    infer_routes,
    item_routes,
    model_routes,
    probe_routes,
    rank_routes,
    repository_routes,
    user_routes,
    v2_routes,
)
from service.settings import Settings

ROOT = Path(__file__).parents[1]
DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]


def test_every_setting_is_in_the_operators_table() -> None:
    """And none that is not there any more."""
    table = (ROOT / "docs/operations.md").read_text().split("## Settings")[1].split("\n## ")[0]
    named = {name for row in re.findall(r"^\| (.*?) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)}
    assert named == set(Settings.model_fields)


def test_the_readme_names_settings_that_are_there() -> None:
    """Those of the table; `..._FILE` stands for several."""
    table = (ROOT / "README.md").read_text().split("## Routes and settings")[1].split("\n## ")[0]
    assert set(re.findall(r"`QIN_(\w+)`", table)) <= {name.upper() for name in Settings.model_fields}


def test_the_readme_names_every_route() -> None:
    """Each path that the service has, with its methods, and no other."""
    table = (ROOT / "README.md").read_text().split("## Routes and settings")[1].split("\nA key is sent")[0]
    told = {pair for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for pair in _routes_in(row)}
    described = {("GET", "/docs"), ("GET", "/openapi.json")}
    assert told == _routes_of_the_service() | described


def _routes_of_the_service() -> set[tuple[str, str]]:
    modules = rank_routes, infer_routes, user_routes, item_routes, model_routes, probe_routes, v2_routes
    routers = [*(module.router for module in modules), repository_routes.router]
    routes = [route for router in routers for route in router.routes if isinstance(route, APIRoute)]
    return {
        (method, re.sub(r"{(user|item)_id}", "{id}", route.path))
        for route in routes
        for method in route.methods
        if method != "HEAD"
    }


def _routes_in(row: str) -> set[tuple[str, str]]:
    """Take one cell apart: methods stand before a path, `.../x` is in the place of the last part, `[...]` may be."""
    found: set[tuple[str, str]] = set()
    methods: list[str] = []
    path, begins = "", True
    for word in re.findall(r"[A-Z]+(?=[ `])|(?:/|\.\.\.)[^`]*", row):
        if word.isupper():
            methods = [word] if begins else [*methods, word]
            begins = False
        else:
            path = word if word.startswith("/") else path.rsplit("/", 1)[0] + word.removeprefix("...")
            found |= {(method, one) for method in methods for one in _spelt_out(path)}
            begins = True
    return found


def _spelt_out(path: str) -> list[str]:
    optional = re.search(r"\[([^\]]*)\]", path)
    if optional is None:
        return [path]
    choices = ["", *optional[1].split(", ")]
    return [
        one for choice in choices for one in _spelt_out(path[: optional.start()] + choice + path[optional.end() :])
    ]


def test_the_map_of_the_service_has_every_file_once() -> None:
    """Whoever looks for a file finds its group."""
    text = (ROOT / "docs/architecture.md").read_text()
    table = text.split("## What is where in `service/`")[1].split("\n## ")[0]
    named = re.findall(r"`(\w+)`", table)
    assert sorted(named) == sorted(path.stem for path in ROOT.glob("service/*.py") if path.stem != "__init__")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    """To a file of this repository, and to a heading that it has."""
    for target, anchor in re.findall(r"\]\((?!http)([^)#]*)(?:#([^)]*))?\)", document.read_text()):
        path = (document.parent / target).resolve() if target else document
        assert path.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
            assert anchor in {_anchor(heading) for heading in headings}, f"{target}#{anchor}"


def _anchor(heading: str) -> str:
    """Return what GitHub calls a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
