"""Files are whole, damage is found out, and one command writes a directory at a time."""

import errno
import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from experiments.groundwork.files import FileError, Lines
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.groundwork import files

ROOT = Path(__file__).parents[1]
ROWS = [
    {"epoch": 1, "loss": 0.1, "name": "ü"},
    {"epoch": 2, "loss": 1e-30, "matrix": [[1, 2], [3]]},
]


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.fixture
def small_disk(monkeypatch):
    """Nothing is forced onto the disk any more: it is full."""

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "file"
    files.write_whole(path, b"old")
    files.write_whole(path, b"new")
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["file"]


def test_content_and_name_are_on_the_disk_in_that_order(tmp_path, monkeypatch):
    """A rename that reaches the disk before the content would name an empty file."""
    calls = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(
        os,
        "fsync",
        lambda descriptor: (
            calls.append("directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
            or fsync(descriptor)
        ),
    )
    monkeypatch.setattr(Path, "replace", lambda *paths: calls.append("rename") or replace(*paths))
    files.write_whole(tmp_path / "file", b"content")
    assert calls == ["file", "rename", "directory"]


def test_on_a_full_disk_the_old_file_stays(tmp_path, small_disk):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match="No space left") as error:
        files.write_whole(path, b"new")
    assert error.value.filename == str(path)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("kind", ["directory", "fifo"])
def test_only_a_regular_file_is_replaced(tmp_path, kind):
    """Above all no device: a rename would take the place of /dev/null."""
    path = tmp_path / kind
    path.mkdir() if kind == "directory" else os.mkfifo(path)
    with pytest.raises(OSError, match="no regular file"):
        files.write_whole(path, b"")
    assert names(tmp_path) == [kind]
    assert not path.is_file()


def test_a_file_too_large_is_not_read(tmp_path):
    path = tmp_path / "file"
    path.touch()
    os.truncate(path, 2**40)
    with pytest.raises(OSError, match="at most") as error:
        files.read_regular(path)
    assert error.value.filename == str(path)


def test_lines_come_back(tmp_path):
    """Appended in two calls; NaN becomes null, since JSON has none."""
    path = tmp_path / "lines"
    assert files.read_lines(path) == Lines([], torn=False)
    files.append_lines(path, ROWS[:1])
    files.append_lines(path, [*ROWS[1:], {"loss": float("nan")}])
    assert files.read_lines(path) == Lines([*ROWS, {"loss": None}], torn=False)
    for line in path.read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)


def test_lines_are_on_the_disk_or_not_there(tmp_path, small_disk):
    path = tmp_path / "lines"
    path.write_bytes(files.as_lines(ROWS[:1]))
    with pytest.raises(OSError, match="No space left"):
        files.append_lines(path, ROWS[1:])
    assert files.read_lines(path) == Lines(ROWS[:1], torn=False)


@settings(deadline=None)
@given(data=st.data())
def test_damaged_lines_are_found_out(data, tmp_path_factory):
    """Whatever is overwritten, put in or cut out: what is read was written, or an error says no.

    Only whole lines can be missing unnoticed; their readers look for holes.
    """
    good = files.as_lines(ROWS * 2)
    start = data.draw(st.integers(0, len(good) - 1))
    stop = data.draw(st.integers(start, min(len(good), start + 100)))
    bad = good[:start] + data.draw(st.binary(max_size=20)) + good[stop:]
    path = tmp_path_factory.mktemp("damaged") / "lines"
    path.write_bytes(bad)
    try:
        found = files.read_lines(path)
    except FileError as error:
        assert str(error).startswith(f"{path}: line ")
        assert "\n" not in str(error)
    else:
        assert all(row in ROWS for row in found.values)
        assert found.torn == (not bad.endswith(b"\n") and bad != b"")
        assert bad.startswith(files.as_lines(found.values))


@pytest.mark.parametrize("cut", [1, 30])
def test_a_torn_last_line_is_found_out(tmp_path, cut):
    """Even where only its end is missing: the next line would be glued to it."""
    path = tmp_path / "lines"
    path.write_bytes(files.as_lines(ROWS)[:-cut])
    assert files.read_lines(path) == Lines(ROWS[:1], torn=True)


@settings(deadline=None)
@given(data=st.data())
def test_a_damaged_document_is_found_out(data, tmp_path_factory):
    good = files.as_json({"rows": ROWS})
    start = data.draw(st.integers(0, len(good) - 1))
    stop = data.draw(st.integers(start, min(len(good), start + 100)))
    bad = good[:start] + data.draw(st.binary(max_size=20)) + good[stop:]
    path = tmp_path_factory.mktemp("damaged") / "document"
    path.write_bytes(bad)
    if bad == good:
        assert files.read_json(path) == {"rows": ROWS}
        return
    with pytest.raises(FileError) as error:
        files.read_json(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["absent", "directory", "fifo", "number", "deep"])
def test_what_is_no_document_is_one_line(tmp_path, kind):
    path = tmp_path / kind
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind != "absent":
        path.write_text("3\n" if kind == "number" else "[" * 100_000)
    with pytest.raises(FileError, match=f"^{path}: .*$"):
        files.read_json(path)


def test_directories_are_numbered(tmp_path):
    parent = tmp_path / "runs"
    made = [files.new_directory(parent, "none-seed0") for _ in range(3)]
    assert [path.name for path in made] == ["none-seed0", "none-seed0-2", "none-seed0-3"]
    assert names(parent) == sorted(path.name for path in made)


HOLDER = """
import sys
from pathlib import Path
from experiments.groundwork import files
with files.locked(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of `tmp_path` until its standard input is closed."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        cwd=ROOT,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        yield process


def test_a_second_command_is_refused(tmp_path, holder):
    """In one line with the directory and the process that holds it, and can go on afterwards."""
    with pytest.raises(FileError) as error, files.locked(tmp_path):
        pass
    assert str(error.value).startswith(f"{tmp_path}: process {holder.pid} on ")
    assert "\n" not in str(error.value)
    holder.communicate(timeout=60)
    with files.locked(tmp_path):
        pass
    assert names(tmp_path) == []


def test_a_killed_command_leaves_no_lock(tmp_path, holder):
    """And what it had half-written is removed by the next one, which keeps everything else."""
    holder.send_signal(signal.SIGKILL)
    holder.wait(timeout=60)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "0123456789abcdef.incomplete").touch()
    (tmp_path / "mine.incomplete").touch()
    with files.locked(tmp_path):
        assert names(tmp_path / "folder") == []
    assert names(tmp_path) == ["folder", "mine.incomplete"]


def test_the_same_process_cannot_lock_twice(tmp_path):
    with (
        files.locked(tmp_path),
        pytest.raises(FileError, match=f"process {os.getpid()}"),
        files.locked(tmp_path),
    ):
        pass
