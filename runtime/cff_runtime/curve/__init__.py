"""The learning curve: what one more reference would bring, from the parts at hand.

`gallery` encodes every image once, `trials` enrols and judges, `intervals` and `points` estimate,
`statement` and `picture` tell. Importing this package loads none of them.
"""

from cff_runtime.curve.command import add_curve_parser

__all__ = ["add_curve_parser"]
