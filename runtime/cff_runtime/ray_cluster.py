"""Joining a Ray cluster, or starting one for a while."""

import contextlib
import logging
import os
import socket
from collections.abc import Iterator
from typing import Any

import ray

from cff_runtime.errors import BackendError

_CONNECT_SECONDS = 10


@contextlib.contextmanager
def join_cluster(
    address: str, n_cpus: int, store_bytes: int | None = None
) -> Iterator[dict[str, float]]:
    """Join a Ray cluster, or start one on this machine for the time of the block.

    Parameters
    ----------
    address : str
        ``local`` starts a cluster, ``auto`` finds one of this machine, HOST:PORT names one. Where
        this process has joined a cluster already, that one is used and left as it is.
    n_cpus : int
        Of a local cluster.
    store_bytes : int, optional
        Shared memory of a local cluster's object store; Ray's default, a third of the memory, if
        None.

    Yields
    ------
    dict of str to float
        The cluster's resources, such as ``CPU`` and ``GPU``.

    Raises
    ------
    BackendError
        If the cluster cannot be joined or started.
    """
    if ray.is_initialized():
        yield ray.cluster_resources()
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a box reports to nobody
    local: dict[str, Any] = {}
    if address == "local":
        local = {"num_cpus": n_cpus, "object_store_memory": store_bytes}
        local["include_dashboard"] = False
        # an error that Ray prints of Ray Data's own actors, whatever one does
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        if address not in ("local", "auto"):
            _require_listener(address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **local)
    except (OSError, RuntimeError, ValueError) as error:
        raise BackendError(
            f"`--ray` must be local, auto or HOST:PORT of a Ray cluster, got {address!r}: {error}"
        ) from error
    try:
        yield ray.cluster_resources()
    finally:
        ray.shutdown()


def _require_listener(address: str) -> None:
    """Raise an OSError or ValueError if nobody listens: Ray itself would try for ten minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    with socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS):
        pass
