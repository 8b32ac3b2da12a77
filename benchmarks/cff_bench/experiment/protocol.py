"""The experiment's fixed choices: data, rows, and what was chosen where.

Every product that is judged is new to the head that is judged: a run leaves the whole data set of
the product out. The distance, the text weight and the kind of calibration were chosen on the
development sets; the test sets report.
"""

from dataclasses import dataclass

# below CFF_DATA; `SYNTHETIC` is drawn by `cff_bench.demo.synthetic`
SYNTHETIC = "synthetic"
TRAINING_SETS = ("piped", "fabric_hsst", "ballscrew", "deeppcb", SYNTHETIC)

# Data set -> products that are judged, all if empty. Four of piped's twelve, which are alike.
# hazelnut_toy is never trained on: its parts are those of a product of mvtec_mini.
MAIN_SET = "mvtec_mini"
TEST_SETS: dict[str, tuple[str, ...]] = {
    MAIN_SET: (),
    "piped": ("paper_bdp01_tl", "paper_brg02_rl", "paper_fvn01_tl", "paper_zpb01_rl"),
    "ballscrew": (),
}
DEVELOPMENT_SETS: dict[str, tuple[str, ...]] = {
    "fabric_hsst": (),
    "hazelnut_toy": (),
    SYNTHETIC: (),
}
# an even diet: piped alone has as many images as all the others
MAX_PER_PRODUCT = 24

SHOTS = (1, 2, 4)
N_SEEDS = 5
# Two products of mvtec_mini have no more than four good training images, one draw at K = 4; so
# references come from all good images, and those drawn are not tested.
POOL = "good"
DEVELOPMENT_SEEDS = 3
TEXT_WEIGHTS = (0.0, 0.1, 0.3, 1.0)

BASELINE = "raw"
PROJECTORS = "projectors"
DEFAULT = "affine"


@dataclass(frozen=True)
class Row:
    """One line of the tables.

    Attributes
    ----------
    name : str
        Of the method in `cff-eval`.
    label : str
        What it is, for people.
    training : tuple of str
        Overrides of the default configuration, ``section.key=value``.
    run : str
        Row whose run is evaluated; its own if empty.
    evaluation : tuple of str
        Overrides when it is evaluated.
    """

    name: str
    label: str
    training: tuple[str, ...] = ()
    run: str = ""
    evaluation: tuple[str, ...] = ()


_RAW = ("head.calibrator=none", "train.projector_epochs=0", "head.text_weight=0")
_BANK = ("train.calibrator_map=bank",)

ROWS = (
    Row(BASELINE, "raw features, cosine distance", (*_RAW, "head.distance=cosine")),
    Row("raw-log", "raw features, log distance", _RAW),
    Row(
        "april-gan",
        "as APRIL-GAN: raw bank, projectors for the text map at weight 1, cosine distance",
        run=PROJECTORS,
        evaluation=("head.bank=raw", "head.distance=cosine", "head.text_weight=1"),
    ),
    Row(PROJECTORS, "projectors", ("head.calibrator=none",)),
    Row(DEFAULT, "affine calibrators (default)"),
    Row("affine-bank-only", "the default, text map off", (), DEFAULT, ("head.text_weight=0",)),
    Row(
        "affine-cosine",
        "the default's run with cosine distance and text weight 0.02",
        run=DEFAULT,
        evaluation=("head.distance=cosine", "head.text_weight=0.02"),
    ),
    Row("mlp", "MLP calibrators", ("head.calibrator=mlp",)),
    Row("affine-episodes", "affine calibrators trained on the bank map, in episodes", _BANK),
    *(
        Row(
            f"align-{weight}",
            f"affine, alignment weight {weight}",
            (f"train.align_weight={weight}",),
        )
        for weight in (0.0, 0.05, 0.2, 0.5)
    ),
)
# judged on every test set; the others on `MAIN_SET` alone
EVERYWHERE = (BASELINE, "raw-log", PROJECTORS, DEFAULT)

# Aligned on the references of the product inspected, one run each: the first draw at the largest K.
ON_REFERENCES = Row(
    "align-references", "affine, aligned on the K references", ('train.align_on="references"',)
)
