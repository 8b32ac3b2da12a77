"""Backbones without a text tower: fixed anchors take the place of text vectors."""

from torch import Tensor, nn


class AnchoredBackbone:
    """A trunk whose stem reads padded input, and anchors; subclasses set both, and `info`."""

    _trunk: nn.Module
    _anchors: Tensor

    @property
    def module(self) -> nn.Module:
        """The image trunk; its embedding is None."""
        return self._trunk

    @property
    def unpadded_stem(self) -> None:
        """None: the stem reads padded input, so the normalisation cannot be folded into it."""
        return None

    def text_vectors(self, product: str) -> Tensor:
        """Return the anchors, float32 [C,2], the same for every product."""
        return self._anchors.clone()
