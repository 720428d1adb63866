"""The Python in the READMEs, and the commands in core's, run as they stand there."""

import os
import re
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from sinfonia.config import CONFIG_FILE
from sinfonia.operating.local_cluster import LOOPBACK, LocalCluster, free_ports
from sinfonia.testing.plugin import ClusterFactory

ROOT = Path(__file__).parents[2]
READMES = sorted(
    path
    for path in [ROOT / "README.md", *ROOT.glob("*/README.md"), ROOT / "core" / "STRUCTURES.md"]
    if "```python" in path.read_text("utf-8")
)


@pytest.mark.network
@pytest.mark.parametrize("readme", READMES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_python_in_a_readme_runs(
    readme: Path, cluster_factory: ClusterFactory, tmp_path: Path
) -> None:
    """All blocks of a README are one program; the endpoint in them becomes the test's."""
    blocks = re.findall(r"```python\n(.*?)```", readme.read_text("utf-8"), re.DOTALL)
    cluster = cluster_factory(memory_nodes=3)
    endpoint = cluster.endpoint
    program = tmp_path / "readme.py"
    program.write_text(
        "\n".join(blocks).replace("tcp://127.0.0.1:7000", endpoint), encoding="utf-8"
    )
    done = subprocess.run(
        [sys.executable, program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.network
@pytest.mark.slow
def test_the_commands_in_the_readme_of_core_run(tmp_path: Path) -> None:
    """One after the other in one directory; only the ports are the test's."""
    text = (ROOT / "core" / "README.md").read_text("utf-8")
    blocks = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    commands = [line[2:] for block in blocks for line in block.splitlines() if line[:2] == "$ "]
    assert len(commands) > 10
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    try:
        for command in commands:
            done = subprocess.run(
                ["/bin/bash", "-c", _on_free_ports(command, tmp_path)],
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
                cwd=tmp_path,
                env=environment,
            )
            assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    finally:
        for directory in tmp_path.iterdir():
            if (directory / CONFIG_FILE).exists():
                LocalCluster(directory).stop()


def _on_free_ports(command: str, directory: Path) -> str:
    made = re.match(r"sinfonia up (\w+)", command)
    if made is None or (directory / made[1]).exists():
        return command
    first = _first_of_free_ports(16)
    command = re.sub(r" --port \d+", "", command.partition("#")[0])
    command = re.sub(r"--metrics-port \d+", f"--metrics-port {first + 8}", command)
    return f"{command} --port {first}"


def _first_of_free_ports(number: int) -> int:
    """Where so many ports in a row are free."""
    while True:
        [first] = free_ports(1)
        with ExitStack() as probes:
            try:
                for port in range(first, first + number):
                    probes.enter_context(socket.socket()).bind((LOOPBACK, port))
            except OSError:
                continue
            return first


def test_there_is_something_to_run() -> None:
    assert ROOT / "core" / "README.md" in READMES
