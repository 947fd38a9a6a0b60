"""Kill a process, or fill its disk, at a chosen moment: the harness of the kill tests.

Everything happens in a forked child, whose operating-system calls are wrapped; the library
itself has no hook. An event is a call that changes the disk: a write to a file, fsync, mkdir,
rename, replace, unlink, rmdir.
"""

import builtins
import errno
import os
import pathlib
import signal
import sys
import time
import traceback
from hashlib import sha256
from pathlib import Path

import torch

EVENTS = ("fsync", "mkdir", "rename", "replace", "unlink", "rmdir")


def in_child(work, *, kill_after=None, number=signal.SIGKILL, stderr=None) -> int:
    """Run `work()` in a forked child; returns its exit code, or minus the signal that ended it.

    Args:
        kill_after: seconds after which the child gets the signal `number`.
        stderr: a file for what the child says; else it says nothing.
    """
    child = os.fork()
    if child == 0:
        code = 99
        try:
            torch.set_num_threads(1)
            sys.stderr = open(stderr or os.devnull, "w")  # noqa: SIM115
            work()
            code = 0
        except SystemExit as stop:
            code = stop.code
        except ValueError as error:  # what the command line shows as one line
            print(error, file=sys.stderr)
            code = 2
        except BaseException:
            traceback.print_exc()
        sys.stderr.flush()
        os._exit(code)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, number)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


class Faults:
    """Counts the events of this process; at number `at` it is killed or its disk is full.

    A write is torn: half of it reaches the file. `fail` None kills.
    """

    def __init__(self, at: int | None = None, fail: int | None = None, log: list | None = None):
        self.at, self.fail, self.count, self.log = at, fail, 0, log

    def install(self) -> None:
        kept = getattr(pathlib, "_NormalAccessor", object)  # Python 3.10's own references to these
        for name in EVENTS:
            wrapped = self._wrap(name, getattr(os, name))
            setattr(os, name, wrapped)
            if hasattr(kept, name):
                setattr(kept, name, staticmethod(wrapped))
        opened = builtins.open

        def open_and_watch(*arguments, **options):
            file = opened(*arguments, **options)
            mode = arguments[1] if len(arguments) > 1 else options.get("mode", "r")
            return _Watched(file, self) if "w" in mode or "a" in mode else file

        builtins.open = open_and_watch
        if hasattr(kept, "open"):
            kept.open = staticmethod(open_and_watch)

    def event(self, name: str, path, half=None) -> None:
        self.count += 1
        if self.log is not None:
            self.log.append(name)
        if self.count == self.at or (self.fail and self.at and self.count > self.at):
            if half is not None:
                half()
            if self.fail is None:
                os.kill(os.getpid(), signal.SIGKILL)
            if name in ("write", "fsync", "mkdir"):  # a full disk still lets go of files
                raise OSError(self.fail, os.strerror(self.fail), str(path))

    def _wrap(self, name, call):
        def wrapped(path, *arguments, **options):
            self.event(name, path)
            return call(path, *arguments, **options)

        return wrapped


class _Watched:
    """A file whose writes are events."""

    def __init__(self, file, faults):
        self._file, self._faults = file, faults

    def write(self, data):
        def half():
            self._file.write(data[: len(data) // 2])
            self._file.flush()

        self._faults.event("write", self._file.name, half)
        return self._file.write(data)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()

    def __getattr__(self, name):
        return getattr(self._file, name)

    def __iter__(self):
        return iter(self._file)


def full_disk(at: int) -> Faults:
    return Faults(at, errno.ENOSPC)


def count_events(work) -> int:
    """How many events `work()` has, run in a child."""
    read, write = os.pipe()

    def counted():
        faults = Faults()
        faults.install()
        work()
        os.write(write, str(faults.count).encode())

    code = in_child(counted)
    os.close(write)
    answer = os.read(read, 100)
    os.close(read)
    assert code == 0, f"the run without faults ends with {code}"
    return int(answer)


def ends(run: Path) -> dict[str, str]:
    """Hashes of all that must be the same: logs, model, and the newest checkpoint."""
    newest = sorted((run / "checkpoints").glob("step-*"))[-1]
    logs = [run / "metrics.jsonl", *run.glob("samples.jsonl"), *run.glob("pairs.jsonl")]
    files = [*logs, *sorted((run / "model").iterdir()), *sorted(newest.iterdir())]
    return {str(f.relative_to(run)): sha256(f.read_bytes()).hexdigest() for f in files}


def warm_up() -> None:
    """Import what torch imports late, so that each child need not; no autograd before a fork."""
    parameter = torch.nn.Parameter(torch.ones(1))
    parameter.grad = torch.ones(1)
    torch.optim.RMSprop([parameter]).step()
    torch.optim.RMSprop([parameter]).zero_grad()
