"""The Python in the READMEs runs, as it stands there, against a real cluster."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from sinfonia.testing.plugin import ClusterFactory

ROOT = Path(__file__).parents[2]
READMES = sorted(
    path
    for path in [ROOT / "README.md", *ROOT.glob("*/README.md")]
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


def test_there_is_something_to_run() -> None:
    assert ROOT / "core" / "README.md" in READMES
