"""The grammar of commands: `sdseg WORD`, `python -m sdseg WORD`, and modules that are commands of their own."""

import ast
import os
import shlex
import struct
import subprocess
import sys
from pathlib import Path

import pyarrow
import pytest
from safetensors import SafetensorError

from sdseg.cli import COMMANDS, main
from synth_data.errors import MissingFile, MissingPackage, NotAFolder, UserError, reported

ROOT = Path(__file__).parent.parent
HEAVY = {"torch", "mitsuba", "diffusers", "transformers", "peft", "accelerate", "cv2", "scipy", "skimage", "datasets"}
SOURCES = sorted(file for folder in ("sdseg", "synth_data") for file in (ROOT / folder).rglob("*.py"))


def defines_main(file: Path) -> bool:
    return any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in ast.parse(file.read_text()).body)


def runnable(file: Path) -> str:
    """The name by which `python -m` runs a file."""
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")


def run(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True)


def loads_nothing_heavy(code: str) -> subprocess.CompletedProcess:
    """Runs code that ends in SystemExit, and checks that it imported no heavy module.

    The time that `--help` takes is that of its imports; measured in seconds it would depend on what else the machine
    does.
    """
    lines = [
        "import runpy, sys",
        "try:",
        f"    {code}",
        "except SystemExit as end:",
        "    assert not end.code, end.code",
    ]
    result = run("-c", "\n".join([*lines, f"print({HEAVY!r} & set(sys.modules), file=sys.stderr)"]))
    assert result.returncode == 0, result.stderr
    assert result.stderr.strip() == "set()"
    return result


@pytest.mark.parametrize("word", COMMANDS)
def test_help_of_every_word_answers_at_once_and_names_the_word(word):
    code = f"from sdseg.cli import main; sys.exit(main([{word!r}, '--help']))"
    assert f"usage: sdseg {word} " in loads_nothing_heavy(code).stdout


@pytest.mark.parametrize("script", ["train.py", "infer.py"])
def test_help_of_the_scripts(script):
    code = f"sys.argv = [{script!r}, '--help']; runpy.run_path({script!r}, run_name='__main__')"
    assert f"usage: {script} " in loads_nothing_heavy(code).stdout


def test_the_list_of_words_and_python_m_sdseg():
    listed = run("-m", "sdseg", "--help")
    assert listed.returncode == 0 and all(f"\n  {word} " in listed.stdout for word in COMMANDS)
    version = run("-m", "sdseg", "--version")
    assert version.stdout.startswith("sdseg 0.")


@pytest.mark.parametrize("file", filter(defines_main, SOURCES), ids=runnable)
def test_every_module_with_a_main_is_a_command(file):
    """One that did nothing and exited 0 would look like success."""
    if file.stem == "__main__" and file.parent.name == "sdseg":
        return  # tried above
    result = run("-m", runnable(file), "--help")
    assert result.returncode == 0 and "usage" in result.stdout.lower(), (result.stdout, result.stderr)


def test_unknown_words_name_the_nearest(capsys):
    assert main(["trian"]) == 2
    assert capsys.readouterr().err == "error: unknown command 'trian'; did you mean 'train'?\n"
    assert main(["zzz"]) == 2
    assert "choose among infer, train" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error, line",
    [
        (UserError("rank is 0; give 1 or more"), "error: rank is 0; give 1 or more\n"),
        (MissingFile("a.png: no such file; check the path"), "error: a.png: no such file; check the path\n"),
        (NotAFolder("a: is a file; name a folder"), "error: a: is a file; name a folder\n"),
        (MissingPackage("x is not installed: pip install x"), "error: x is not installed: pip install x\n"),
        (
            PermissionError(13, "Permission denied", "out/a.png"),
            "error: out/a.png: Permission denied; check path, permissions and free space\n",
        ),
        (
            OSError(28, "No space left on device"),
            "error: the disk is full (No space left on device); free space there\n",
        ),
        (
            OSError(27, "File too large", "out/a"),
            "error: out/a: the disk is full (File too large); free space there\n",
        ),
        (
            SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
            "error: the disk is full (Error while serializing: I/O error: No space left on device (os error 28)); "
            "free space there\n",
        ),
        (SafetensorError("a.safetensors: header\ntoo large"), "error: a.safetensors: header too large\n"),
        (pyarrow.ArrowInvalid("a.parquet: magic bytes not found"), "error: a.parquet: magic bytes not found\n"),
        (struct.error("unpack requires 4 bytes"), "error: unpack requires 4 bytes\n"),
    ],
)
def test_what_a_user_can_mend_becomes_one_line(error, line, capsys):
    def command():
        raise error

    assert reported(command) == 2
    assert capsys.readouterr() == ("", line)


@pytest.mark.parametrize(
    "error", [ValueError("shapes differ"), KeyError("step"), RuntimeError("stack"), OSError("connection lost")]
)
def test_a_fault_of_the_program_keeps_its_traceback(error):
    def command():
        raise error

    with pytest.raises(type(error)) as raised:
        reported(command)
    assert raised.value is error


def test_errors_are_of_the_kinds_that_python_knows_too():
    """So that code which expects FileNotFoundError, say, still catches them."""
    assert issubclass(MissingFile, FileNotFoundError) and issubclass(NotAFolder, NotADirectoryError)
    assert issubclass(MissingPackage, ImportError) and issubclass(UserError, ValueError)
    from sdseg.adapter import AdapterError
    from sdseg.data import DataError
    from sdseg.imaging import ImageError
    from sdseg.model import BaseError
    from sdseg.training import ConfigError

    for kind in (AdapterError, BaseError, ConfigError, DataError, ImageError, MissingFile, NotAFolder, MissingPackage):
        assert issubclass(kind, UserError)


@pytest.mark.parametrize("script", ["train.py", "infer.py", "-m sdseg", "-m sdseg render"])
@pytest.mark.parametrize("code_page", ["cp1252", "ascii"])
def test_help_goes_into_a_pipe_of_any_code_page(script, code_page):
    environment = os.environ | {"PYTHONIOENCODING": code_page}
    command = [sys.executable, *script.split(), "--help"]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True)
    assert result.returncode == 0 and result.stdout and not result.stderr, result.stderr


WRITER = """
import os, sys
from sdseg.errors import steady_streams
steady_streams()
opened = open(sys.argv[1], "w")
for _ in range(3):
    print("\\u2265 one" * 20000)
    print("\\u2265 two", file=sys.stderr)
try:
    os.write(2, b"from a C library")
except OSError:
    pass
opened.write("whole")
"""


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "| true", "2>&1 | true", "<&- >&- 2>&-"])
def test_a_closed_stream_changes_nothing(closed, tmp_path):
    command = f"set -o pipefail; {shlex.quote(sys.executable)} -c {shlex.quote(WRITER)} {tmp_path / 'file'} {closed}"
    result = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr and "Exception" not in result.stderr
    assert (tmp_path / "file").read_text() == "whole"
