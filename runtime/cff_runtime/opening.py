"""Opening an inspector from a command's arguments."""

import argparse
import logging

from cff_runtime.backends import Backend, open_backend
from cff_runtime.bundle import Bundle
from cff_runtime.inspector import Inspector
from cff_runtime.precisions import refusal

log = logging.getLogger(__name__)


def open_inspector(arguments: argparse.Namespace, bundle: Bundle) -> Inspector:
    """Load a bundle's graphs; see `open_named_backend`."""
    return Inspector(bundle, open_named_backend(arguments, bundle))


def open_named_backend(arguments: argparse.Namespace, bundle: Bundle) -> Backend:
    """Load a bundle's graphs as ``--backend``, ``--provider`` and ``--threads`` say.

    Raises
    ------
    UsageError, BackendError, MissingDependencyError
        As `cff_runtime.backends.open_backend`.
    """
    precision = bundle.manifest.precision
    if reason := refusal(precision, arguments.provider):
        log.warning("note: %s on provider %s: %s", precision, arguments.provider, reason)
    options = {"provider": arguments.provider, "threads": arguments.threads}
    return open_backend(arguments.backend, bundle, options)
