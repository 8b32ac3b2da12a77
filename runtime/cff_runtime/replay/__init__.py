"""Replay: stored parts scored again after a change, and every verdict that changed.

`rescoring` scores with both sides, `known` says what is known of parts, `tally` counts, `pictures`,
`scatter` and `page` draw. Importing this package loads none of them.
"""

from cff_runtime.replay.command import add_replay_parser

__all__ = ["add_replay_parser"]
