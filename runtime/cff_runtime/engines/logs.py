"""TensorRT's own log: collected, and passed on to `logging` as debug messages.

Errors come back as exceptions and warnings in the report of the build, so nothing here speaks
louder than DEBUG.
"""

import contextlib
import functools
import logging
import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from cff_runtime.engines.flavours import Flavour

log = logging.getLogger(__name__)

_MAX_SHOWN = 4
_MAX_CHARACTERS = 400
_SOURCE_LINE = re.compile(r"^\w+\.cpp:\d+: (ERROR: )?")


@dataclass
class BuildLog:
    """What TensorRT said during one build, and the logger to give it."""

    logger: Any
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


# TensorRT keeps the first logger it is given for the whole process, so there is one per package
# and one build at a time
_one_build = threading.Lock()


@contextlib.contextmanager
def collected_log(flavour: Flavour) -> Iterator[BuildLog]:
    """Collect what TensorRT logs meanwhile; a second caller waits."""
    with _one_build:
        logger = _logger_of(flavour.trt)
        logger.build_log = BuildLog(logger)
        try:
            yield logger.build_log
        finally:
            logger.build_log = None


@functools.cache
def _logger_of(trt: Any) -> Any:
    loud = (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR)

    class CollectingLogger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.build_log: BuildLog | None = None

        def log(self, severity: Any, message: str) -> None:
            if self.build_log is not None:
                if severity in loud:
                    self.build_log.errors.append(message)
                elif severity == trt.ILogger.Severity.WARNING:
                    self.build_log.warnings.append(message)
            log.debug("%s: %s", severity.name, message)

    return CollectingLogger()


def summarize(messages: Sequence[str]) -> str:
    """Return TensorRT's messages as one line: each once, without its source files, not too long."""
    lines = dict.fromkeys(" ".join(_SOURCE_LINE.sub("", text).split()) for text in messages)
    shown = [line[:_MAX_CHARACTERS] for line in lines if line][:_MAX_SHOWN]
    more = len(lines) - len(shown)
    return "; ".join([*shown, f"and {more} more"] if more > 0 else shown)
