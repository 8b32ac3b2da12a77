"""Export a trained run as a bundle: fold, write ONNX, check against PyTorch.

Dimension letters are those of `cff_runtime`. Names are imported on first use, so that the command
line can say what is missing on a machine without the export packages.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cff_export.exporter import export_bundle
    from cff_export.subject import ExportSettings

_MODULE_OF = {"ExportSettings": "subject", "export_bundle": "exporter"}

__all__ = ["ExportSettings", "export_bundle"]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
