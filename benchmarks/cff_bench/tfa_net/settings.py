"""What `cff-bench tfa-net` does: parts, networks, where everything lies."""

from dataclasses import dataclass
from pathlib import Path

from cff_edge.config import Config, load_config
from cff_runtime.errors import UsageError

PRESET = "tfa-net"
PARTS = ("training", "accuracy", "latency")
TIMED = ("fp32", "int8")  # ONNX Runtime computes the others in float32 on a CPU
POOL = "train"  # so that no reference is ever a test image
METRICS = {
    "pixel_auroc": "pixel AUROC",
    "pixel_ap": "pixel AP",
    "pro": "PRO",
    "image_auroc": "image AUROC",
}
COMPARED = ("pixel_auroc", "pixel_ap", "image_auroc")

CFF = "cff"
TRAINED = "tfa-net"
UNTRAINED = "untrained"
PLAIN = "untrained-plain"


@dataclass(frozen=True)
class Network:
    """One network per product.

    Attributes
    ----------
    name : str
        Of its folder, and of the method in `cff-eval`.
    label : str
        What it is, for people.
    overrides : tuple of str
        Of the preset, ``section.key=value``.
    """

    name: str
    label: str
    overrides: tuple[str, ...] = ()


NETWORKS = (
    Network(TRAINED, "trained on the product's normals"),
    Network(UNTRAINED, "no epoch, the normals' channel statistics", ("tfa.epochs=0",)),
    Network(PLAIN, "no epoch, no statistics", ("tfa.epochs=0", "tfa.feature_norm=none")),
)
LABELS = {CFF: "CFF, never saw the product", **{one.name: one.label for one in NETWORKS}}


@dataclass(frozen=True)
class TfaNetSettings:
    """What to train, judge and time.

    Attributes
    ----------
    data : Path
        Data set in a layout of `cff_edge.datasets`.
    products : tuple of str
        One network each; latency is taken on the first.
    out : Path
        Folder of runs, bundles and cells; finished ones are not made again.
    cff : Path
        Bundle to stand beside.
    epochs : int or None
        None takes the preset's.
    overrides : tuple of str
        Of the preset, ``section.key=value``.
    shots : tuple of int
        Values of K, ascending.
    seeds : int
        Draws of references.
    n, warmup : int
        Timed rounds and those before them.
    threads : int
        Of ONNX Runtime when timed.
    precisions : tuple of str
        That are timed where a bundle has them and a CPU computes them.
    parts : tuple of str
        Of `PARTS`, those to do.
    command : tuple of str
        The command line, for the report.
    """

    data: Path
    products: tuple[str, ...]
    out: Path
    cff: Path
    epochs: int | None = None
    overrides: tuple[str, ...] = ()
    shots: tuple[int, ...] = (1, 4)
    seeds: int = 5
    n: int = 100
    warmup: int = 10
    threads: int = 2
    precisions: tuple[str, ...] = ("fp32", "int8")
    parts: tuple[str, ...] = PARTS
    command: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        unknown = [name for name in self.parts if name not in PARTS]
        if unknown or not self.parts:
            given = ", ".join(unknown) or "none"
            raise UsageError(f"`--only` must be of {', '.join(PARTS)}, got {given!r}")
        foreign = [name for name in self.precisions if name not in TIMED]
        if foreign or not self.precisions:
            raise UsageError(
                f"`--precisions` must be of {', '.join(TIMED)}, which a CPU computes, got "
                f"{', '.join(foreign) or 'none'}"
            )
        if not self.products:
            raise UsageError("`--products` must name at least one product, got none")
        if not self.shots or min(self.shots) < 1 or min(self.seeds, self.n, self.threads) < 1:
            raise UsageError(
                "`--shots`, `--seeds`, `-n` and `--threads` must be at least 1, got "
                f"{list(self.shots)}, {self.seeds}, {self.n} and {self.threads}"
            )
        if self.warmup < 0 or (self.epochs or 0) < 0:
            raise UsageError(
                "`--warmup` and `--epochs` must not be negative, got "
                f"{self.warmup} and {self.epochs}"
            )

    @property
    def dataset(self) -> str:
        """Name of the data set, as `cff-eval` has it."""
        return self.data.resolve().name

    def overrides_of(self, network: Network) -> tuple[str, ...]:
        """Return a network's overrides, its own last."""
        epochs = () if self.epochs is None else (f"tfa.epochs={self.epochs}",)
        return (*self.overrides, *epochs, *network.overrides)

    def config_of(self, network: Network) -> Config:
        """Return a network's configuration, but for its data.

        Raises
        ------
        UsageError
            If an override is unknown or out of range.
        """
        return load_config(None, self.overrides_of(network), PRESET)

    def run_folder(self, product: str, network: str) -> Path:
        """Folder of a product's training run."""
        return self.out / product / network / "run"

    def bundle(self, product: str, network: str) -> Path:
        """Folder of a product's bundle."""
        return self.out / product / network / "bundle"

    def evaluation(self, product: str) -> Path:
        """Folder of a product's cells."""
        return self.out / product / "evaluation"
