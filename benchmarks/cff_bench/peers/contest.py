"""One bundle's contestants after their turns."""

from collections.abc import Sequence
from dataclasses import dataclass

from cff_bench.peers.subject import Subject
from cff_bench.peers.turns import Contestant
from cff_runtime.manifest import Manifest


@dataclass(frozen=True, eq=False)
class Contest:
    """Who inspected what.

    Attributes
    ----------
    key : str
        Stable name of the network at its size.
    manifest : Manifest
    subject : Subject
    contestants : sequence of Contestant
        Those that did not take part among them.
    """

    key: str
    manifest: Manifest
    subject: Subject
    contestants: Sequence[Contestant]

    @property
    def took_part(self) -> list[Contestant]:
        """Those that ran."""
        return [one for one in self.contestants if one.absent is None]

    @property
    def has_head(self) -> bool:
        """Whether PyTorch has the bundle's head: of its run, or as untrained as the bundle's."""
        untrained = self.manifest.backbone["weights"] == "random" and not self.manifest.head.get(
            "trained_on"
        )
        return self.subject.run is not None or untrained


def subject_key(manifest: Manifest) -> str:
    """Return the stable name of a network at a size, such as ``efficientnet-lite0-256``."""
    name = str(manifest.backbone["name"]).removeprefix("open_clip:")
    return f"{name}-{manifest.preprocessing.height}"
