"""Opening an inspector from a command's arguments."""

import argparse
import logging
from collections.abc import Sequence
from typing import Any

from cff_runtime.backends import BACKEND_HELP, DEFAULT_BACKEND, Backend, open_backend
from cff_runtime.backends import backend_options as known_options
from cff_runtime.bundle import Bundle
from cff_runtime.errors import UsageError
from cff_runtime.inspector import Inspector
from cff_runtime.precisions import refusal

log = logging.getLogger(__name__)


_WORDS = {"true": True, "on": True, "1": True, "false": False, "off": False, "0": False}


def add_backend_arguments(
    parser: argparse.ArgumentParser, threads: str = "CPU threads, 0 for all cores"
) -> None:
    """Add the options that say where a bundle runs; `backend_options` reads them."""
    parser.add_argument("--backend", default=DEFAULT_BACKEND, help=BACKEND_HELP)
    parser.add_argument("--provider", default="cpu", help="execution provider of onnxruntime")
    parser.add_argument("--threads", type=int, default=0, help=threads)
    for name, owner in (("--provider-option", "provider"), ("--backend-option", "backend")):
        parser.add_argument(
            name,
            action="append",
            default=[],
            metavar="KEY=VALUE",
            help=f"of the {owner}, may be given again (docs/gpu.md)",
        )


def open_inspector(arguments: argparse.Namespace, bundle: Bundle) -> Inspector:
    """Load a bundle's graphs; see `open_named_backend`."""
    return Inspector(bundle, open_named_backend(arguments, bundle))


def open_named_backend(arguments: argparse.Namespace, bundle: Bundle) -> Backend:
    """Load a bundle's graphs as the options of `add_backend_arguments` say.

    Raises
    ------
    UsageError, BackendError, MissingDependencyError
        As `cff_runtime.backends.open_backend`.
    """
    precision = bundle.manifest.precision
    reason = refusal(precision, arguments.provider)
    if arguments.backend == DEFAULT_BACKEND and reason:
        log.warning("note: %s on provider %s: %s", precision, arguments.provider, reason)
    return open_backend(arguments.backend, bundle, backend_options(arguments))


def backend_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the options of `open_backend` that a command line asks for.

    Raises
    ------
    UsageError
        If an option is of another backend, is not KEY=VALUE, or has a value of another type.
    MissingDependencyError
        If the backend's package is not installed.
    """
    of_provider = _pairs("--provider-option", getattr(arguments, "provider_option", []))
    options: dict[str, Any] = {}
    if arguments.backend == DEFAULT_BACKEND:
        options = {"provider": arguments.provider, "threads": arguments.threads}
        if of_provider:
            options["provider_options"] = of_provider
    elif arguments.provider != "cpu" or arguments.threads != 0 or of_provider:
        raise UsageError(
            f"`--provider`, `--provider-option` and `--threads` are of backend "
            f"{DEFAULT_BACKEND}, got them with `--backend {arguments.backend}`; see "
            "`--backend-option`"
        )
    given = _pairs("--backend-option", getattr(arguments, "backend_option", []))
    defaults = known_options(arguments.backend) if given else {}
    for key, text in given.items():
        options[key] = _typed(key, text, defaults.get(key, ""))  # an unknown key is refused later
    return options


def _pairs(option: str, texts: Sequence[str]) -> dict[str, str]:
    pairs = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise UsageError(f"`{option}` must be KEY=VALUE, got {text!r:.80}")
        if key in pairs:
            raise UsageError(f"`{option}` must name an option once, {key!r:.80} came twice")
        pairs[key] = value
    return pairs


def _typed(key: str, text: str, default: Any) -> Any:
    """Return an option's value, of the type of its default."""
    if isinstance(default, bool):
        if text.lower() not in _WORDS:
            raise UsageError(f"option `{key}` must be true or false, got {text!r:.80}")
        return _WORDS[text.lower()]
    if isinstance(default, int):
        if not text.isdecimal():
            raise UsageError(f"option `{key}` must be a whole number, got {text!r:.80}")
        return int(text)
    if not isinstance(default, str):
        raise UsageError(f"option `{key}` cannot be given with `--backend-option`")
    return text
