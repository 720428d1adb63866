"""Both clients show the same names, and everything public says what it does, once."""

import ast
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sinfonia
from sinfonia import structures
from sinfonia.client.api import ClusterApi, ConnectedApi
from sinfonia.testing.model import ModelCluster

# Only these differ: what AnyIO and what the standard library call it.
CLOSES = {sinfonia.Cluster: "aclose", sinfonia.BlockingCluster: "close"}


def public(owner: Any) -> dict[str, Any]:  # noqa: ANN401 - of a module or a class alike
    """Its public members that are ours."""
    return {
        name: member
        for name, member in inspect.getmembers(owner)
        if not name.startswith("_") and not inspect.ismodule(member)
    }


def test_asynchronous_and_blocking_clients_have_the_same_methods() -> None:
    ours, theirs = (
        {name: member for name, member in public(client).items() if name != closes}
        for client, closes in CLOSES.items()
    )
    assert ours.keys() == theirs.keys()
    for name, member in ours.items():
        if callable(member):
            assert _parameters(member) == _parameters(theirs[name]), name


def test_libraries_can_do_with_the_protocol_and_be_tested_on_the_model() -> None:
    names = public(ClusterApi).keys()
    assert names <= public(sinfonia.Cluster).keys()
    assert names <= public(ModelCluster).keys() | {"statistics"}


@pytest.mark.parametrize("client", [sinfonia.Cluster, sinfonia.BlockingCluster])
def test_clients_have_the_docstrings_of_the_interface_and_none_of_their_own(client: type) -> None:
    """``Cluster.aclose`` is the interface's, and ``BlockingCluster.close`` has no counterpart."""
    said = {name: inspect.getdoc(member) for name, member in public(ConnectedApi).items()}
    assert all(said.values())
    for name, member in public(client).items():
        if name != "close":
            assert inspect.getdoc(member) == said[name], name
    source = ast.parse(Path(inspect.getfile(client)).read_text("utf-8"))
    [body] = [each for each in source.body if getattr(each, "name", "") == client.__name__]
    assert isinstance(body, ast.ClassDef)
    functions = [
        each for each in body.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    repeated = [each.name for each in functions if each.name in said and ast.get_docstring(each)]
    assert repeated == []


@pytest.mark.parametrize("module", [sinfonia, structures])
def test_everything_public_is_documented(module: Any) -> None:  # noqa: ANN401 - a module
    missing = []
    for name, member in public(module).items():
        if not (inspect.isclass(member) or inspect.isfunction(member)):
            continue
        if not inspect.getdoc(member):
            missing.append(name)
        if inspect.isclass(member) and member.__module__.startswith("sinfonia"):
            missing += [
                f"{name}.{each}"
                for each, method in vars(member).items()
                if not each.startswith("_")
                and (inspect.isfunction(method) or isinstance(method, property))
                and not inspect.getdoc(method)
            ]
    assert missing == []


def _parameters(function: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(function).parameters)
