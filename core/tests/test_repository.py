"""House rules that a machine can check; CONTRIBUTING.md has the others."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("core", "sinfoniafs", "groupcomm", "chaos", "ansible", "dashboards")
DOCUMENTS = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE")

FILE_LINES_MAX = 700
FUNCTION_LINES_MAX = 70
FILE_BYTES_MAX = 256 * 1024

# Joined here, so that this file does not find itself.
LEFT_OPEN = re.compile("|".join(["FIX" + "ME", "XX" + "X", "TO" + "DO"]))
MACHINE_PATH = re.compile("/(?:home|work|root|Users)" + r"/\w")

# What may not be imported because it says nothing about what is in it.
NAMES_THAT_SAY_NOTHING = {"utils", "util", "helpers", "common", "misc"}


def tracked() -> list[Path]:
    """The files of the repository; as they are now, and those that are about to be in it."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listing.returncode != 0:
        pytest.skip("not a git checkout")
    files = [ROOT / name for name in listing.stdout.decode().split("\0") if name]
    return [file for file in files if file.is_file()]


def python_files() -> list[Path]:
    return [file for file in tracked() if file.suffix == ".py"]


def text_files() -> Iterator[tuple[Path, str]]:
    for file in tracked():
        try:
            yield file.relative_to(ROOT), file.read_text("utf-8")
        except UnicodeDecodeError:
            continue


def test_no_file_is_too_long_to_read() -> None:
    too_long = {file.name: n for file in python_files() if (n := _lines(file)) > FILE_LINES_MAX}
    assert too_long == {}


def test_no_function_is_too_long_to_see_at_once() -> None:
    too_long = {
        f"{file.name}:{node.lineno} {node.name}": length
        for file in python_files()
        for node in ast.walk(ast.parse(file.read_bytes()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or 0) - node.lineno + 1) > FUNCTION_LINES_MAX
    }
    assert too_long == {}


def test_nothing_is_left_open() -> None:
    assert [str(name) for name, text in text_files() if LEFT_OPEN.search(text)] == []


def test_nothing_depends_on_the_machine_it_was_written_on() -> None:
    found = [
        f"{name}: {hit[0]}" for name, text in text_files() if (hit := MACHINE_PATH.search(text))
    ]
    assert found == []


def test_every_module_says_what_law_it_keeps() -> None:
    silent = [
        str(file.relative_to(ROOT))
        for file in python_files()
        if (module := ast.parse(file.read_bytes())).body and not ast.get_docstring(module)
    ]
    assert silent == []


def test_modules_are_named_for_what_is_in_them() -> None:
    assert [file.name for file in python_files() if file.stem in NAMES_THAT_SAY_NOTHING] == []


def test_rooms_and_tests_are_not_packages() -> None:
    """A room named like its package would hide it; so would a package of tests."""
    rooms = [ROOT / room / "__init__.py" for room in ROOMS]
    tests = [path for room in ROOMS for path in (ROOT / room / "tests").rglob("__init__.py")]
    assert [path for path in rooms + tests if path.exists()] == []


def test_test_files_have_unique_names() -> None:
    names = [file.name for file in python_files() if "tests" in file.relative_to(ROOT).parts]
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_says_what_it_is(room: str) -> None:
    assert len((ROOT / room / "README.md").read_text("utf-8")) > 200


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_document_is_there(document: str) -> None:
    assert (ROOT / document).stat().st_size > 0


def test_links_between_documents_lead_somewhere() -> None:
    dead = [
        f"{file.relative_to(ROOT)}: {target}"
        for file in tracked()
        if file.suffix == ".md"
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", file.read_text("utf-8"))
        if "://" not in target and not (file.parent / target).exists()
    ]
    assert dead == []


def test_no_large_or_generated_files() -> None:
    large = [str(file) for file in tracked() if file.stat().st_size > FILE_BYTES_MAX]
    assert large == []


def test_the_room_core_is_not_ignored() -> None:
    """Stock ignore files list `core`, for core dumps."""
    ignored = subprocess.run(["git", "check-ignore", "core"], cwd=ROOT, check=False)
    assert ignored.returncode != 0


def _lines(file: Path) -> int:
    return file.read_bytes().count(b"\n")
