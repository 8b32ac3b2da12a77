"""Finished bundles in other hosts: one ONNX file, a Triton repository, EPContext models.

Everything here works from a bundle and a profile and imports no PyTorch, so that it runs on a box
as well. Names are imported on first use: `add_host_arguments` must not cost a start of ONNX.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cff_export.hosts.command import add_host_arguments, write_hosts
    from cff_export.hosts.ep_context import EpContextReport, write_ep_context
    from cff_export.hosts.external_data import check_external_data
    from cff_export.hosts.standalone import StandaloneReport, write_standalone
    from cff_export.hosts.triton import TritonReport, write_triton_repository

_MODULE_OF = {
    "EpContextReport": "ep_context",
    "StandaloneReport": "standalone",
    "TritonReport": "triton",
    "add_host_arguments": "command",
    "check_external_data": "external_data",
    "write_ep_context": "ep_context",
    "write_hosts": "command",
    "write_standalone": "standalone",
    "write_triton_repository": "triton",
}

__all__ = [
    "EpContextReport",
    "StandaloneReport",
    "TritonReport",
    "add_host_arguments",
    "check_external_data",
    "write_ep_context",
    "write_hosts",
    "write_standalone",
    "write_triton_repository",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
