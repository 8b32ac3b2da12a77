"""Blocks of an exported encoder: what may keep a precision of its own.

A node is named after the PyTorch module it came from, ``<module>/<operator>_<index>``. Its block is
that module's path up to the first number, such as ``trunk.visual.transformer.resblocks.7`` or
``heads.2``; without a number, its first two parts, such as ``trunk.bn0``. What belongs to no module
(casts of the input, L2 norms, text maps) is the block ``encoder``.
"""

ENCODER_SCOPE = "encoder"


def block_of(node_name: str) -> str:
    """Return the block of a node of an exported encoder.

    Parameters
    ----------
    node_name : str
        As `cff_export.graphs` names nodes.
    """
    parts = node_name.partition("/")[0].split(".")
    for index, part in enumerate(parts):
        if part.isdigit():
            return ".".join(parts[: index + 1])
    return ".".join(parts[:2])
