"""A maker's tool that keeps writing lines, and the newest of them.

Starting a tool for every sample would cost a process each; one that repeats by itself costs little,
and reading its pipe waits without using the processor.
"""

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

FRESH_S = 5.0  # a line that is older tells nothing about now
_END_TIMEOUT_S = 5.0


class ToolStream:
    """Runs a command and hands every line that it writes to `take`.

    Parameters
    ----------
    command : sequence of str
    take : callable
        Called with each line, from a thread of its own.

    Raises
    ------
    OSError
        If the command cannot be started.
    """

    def __init__(self, command: list[str], take: Callable[[str], None]) -> None:
        self._take = take
        self._last_line_s = time.monotonic()
        # a tool may hold lines back in a pipe; stdbuf(1) makes it write each at once
        unbuffered = ["stdbuf", "-oL"] if shutil.which("stdbuf") else []
        self._process = subprocess.Popen(
            [*unbuffered, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            errors="replace",
            bufsize=1,
        )
        self._last_spent_s = 0.0
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    @property
    def is_running(self) -> bool:
        """Whether the command still runs."""
        return self._process.poll() is None

    @property
    def is_fresh(self) -> bool:
        """Whether the command runs and wrote a line lately."""
        return self.is_running and time.monotonic() - self._last_line_s < FRESH_S

    @property
    def spent_s(self) -> float:
        """Processor time of the command: utime and stime of `/proc/PID/stat`, proc(5)."""
        try:
            text = Path(f"/proc/{self._process.pid}/stat").read_text(encoding="utf-8")
            user, system = text.rpartition(")")[2].split()[11:13]
            self._last_spent_s = (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
        except (AttributeError, OSError, ValueError):
            pass  # it has ended, or this is no Linux: what was told last
        return self._last_spent_s

    def close(self) -> None:
        """End the command and wait for it."""
        _ = self.spent_s
        self._process.terminate()
        try:
            self._process.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._thread.join(_END_TIMEOUT_S)
        if self._process.stdout is not None:
            with suppress(OSError):
                self._process.stdout.close()

    def _read(self) -> None:
        stream = self._process.stdout
        with suppress(OSError, ValueError):  # closed while it was read
            for line in stream or ():
                self._last_line_s = time.monotonic()
                self._take(line)
