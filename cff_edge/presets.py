"""Recipes by name: layers of configuration, below the file and the overrides.

OPEN_CLIP is laid under every run on an open_clip backbone: the paper's recipe for CLIP (CFF,
Sensors 2026, section 4, on VisA). The embedded backbone keeps the defaults.

MODEL_RECIPES names the detectors, each with what is laid under all of its runs. TFA-Net's is the
optimiser of its released code, but for a larger learning rate, which suits the small network of the
embedded trunk.

PRESETS are asked for by name. The APRIL-GAN ones are what its published scripts train, named after
the data set trained on: projectors alone, a loss on every stage's map, raw tokens in the bank. The
activation is plain GELU, as in its released weights, which is what the model's name stands for.
``tfa-net`` is the embedded recipe; ``tfa-net-published`` is what TFA-Net's released code trains,
but for its choice of epoch, which looked at test images.
"""

from typing import Any

OPEN_CLIP: dict[str, dict[str, Any]] = {
    "backbone": {"weights": "openai", "image_size": 518},
    "head": {"projector_init": "default", "text_weight": 1.0, "distance": "cosine"},
    "train": {
        "projector_epochs": 15,
        "calibrator_epochs": 15,
    },
}

MODEL_RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "cff": {},
    "tfa-net": {
        "train": {"batch_size": 4, "learning_rate": 5e-4, "adam_betas": [0.9, 0.95]},
    },
}

_APRIL_GAN: dict[str, dict[str, Any]] = {
    "backbone": {"name": "open_clip:ViT-L-14-336", "weights": "openai", "image_size": 518},
    "head": {
        "calibrator": "none",
        "projector_init": "default",
        "text_weight": 1.0,
        "bank": "raw",
        "distance": "cosine",
    },
    "train": {
        "calibrator_epochs": 0,
        "learning_rate": 1e-3,
        "adam_betas": [0.5, 0.999],
        "batch_size": 8,
        "seed": 111,
        "loss_map": "stages",
        "focal_weight": 1.0,
        "dice_weight": 1.0,
    },
}

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "april-gan-mvtec": {
        **_APRIL_GAN,
        "train": {**_APRIL_GAN["train"], "projector_epochs": 3, "mosaic": 0.2},
    },
    "april-gan-visa": {**_APRIL_GAN, "train": {**_APRIL_GAN["train"], "projector_epochs": 15}},
    "tfa-net": {"model": {"name": "tfa-net"}},
    "tfa-net-published": {
        "model": {"name": "tfa-net"},
        "backbone": {"name": "wide_resnet50_2", "image_size": 256},
        "train": {"learning_rate": 1e-4},
        "tfa": {
            "patch": 4,
            "width": 768,
            "heads": 12,
            "aggregation_blocks": 12,
            "refinement_width": 512,
            "refinement_heads": 16,
            "refinement_blocks": 8,
            "masking": "none",
            "template": "first",
            "template_normalization": "as_published",
            "training_template": "fixed",
            "feature_norm": "none",
            "selection": "held_out",
            "epochs": 400,
        },
    },
}
