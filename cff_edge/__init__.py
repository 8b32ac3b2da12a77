"""Train CFF heads on frozen backbones (PyTorch).

Dimension letters are those of `cff_runtime`. Names are imported on first use, so that the command
line can say what is missing on a machine without PyTorch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cff_edge.backbones import Backbone, BackboneInfo, load_backbone
    from cff_edge.config import Config, load_config
    from cff_edge.datasets import Dataset, Sample, load_mask, read_dataset
    from cff_edge.detector import Detection, Detector
    from cff_edge.few_shot import FewShotDetector, FewShotOutput
    from cff_edge.heads import Head
    from cff_edge.meta_json import write_meta
    from cff_edge.training import train

_MODULE_OF = {
    "Backbone": "backbones",
    "BackboneInfo": "backbones",
    "Config": "config",
    "Dataset": "datasets",
    "Detection": "detector",
    "Detector": "detector",
    "FewShotDetector": "few_shot",
    "FewShotOutput": "few_shot",
    "Head": "heads",
    "Sample": "datasets",
    "load_backbone": "backbones",
    "load_config": "config",
    "load_mask": "datasets",
    "read_dataset": "datasets",
    "train": "training",
    "write_meta": "meta_json",
}

__all__ = [
    "Backbone",
    "BackboneInfo",
    "Config",
    "Dataset",
    "Detection",
    "Detector",
    "FewShotDetector",
    "FewShotOutput",
    "Head",
    "Sample",
    "load_backbone",
    "load_config",
    "load_mask",
    "read_dataset",
    "train",
    "write_meta",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
