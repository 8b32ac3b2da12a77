"""``--trusted-key`` for every command of ``cff-run``, and ``cff-run sign-profile``."""

import argparse
import json
from pathlib import Path
from typing import Any

from cff_runtime.console import say
from cff_runtime.storage import sha256_file
from cff_runtime.trust.policy import TRUSTED_KEY_VARIABLE

Commands = Any  # argparse gives its subparsers no public name


def add_sign_profile_parser(commands: Commands) -> None:
    """Add ``sign-profile`` to the subparsers of ``cff-run``."""
    parser = commands.add_parser(
        "sign-profile",
        help="vouch for a profile with a private key (cff-edge[sign])",
        description="Write a signature into a profile, for boxes that trust the key. See first "
        "what it holds, with `cff-run show`: whoever signs vouches for it. A change makes an "
        "unsigned profile again.",
    )
    parser.add_argument("profile", type=Path, metavar="PROFILE")
    parser.add_argument(
        "--key", type=Path, required=True, metavar="KEY.pem", help="Ed25519, PKCS8, PEM"
    )
    parser.add_argument("--json", action="store_true", help="JSON to stdout")
    parser.set_defaults(command=_sign_profile)


def add_trust_options(commands: Commands) -> None:
    """Add ``--trusted-key`` to every command that is there; `require_trusted` takes it.

    To be called after the last command was added. Signing asks for no signature.
    """
    for name, parser in commands.choices.items():
        if name == "sign-profile":
            continue
        parser.add_argument(
            "--trusted-key",
            type=Path,
            action="append",
            metavar="PUB.pem",
            help="load no bundle or profile that this key, or another given one, has not signed; "
            f"{TRUSTED_KEY_VARIABLE} if not given",
        )


def _sign_profile(arguments: argparse.Namespace) -> int:
    from cff_runtime.trust.keys import read_private_key
    from cff_runtime.trust.profile_signing import sign_profile

    key = read_private_key(arguments.key)
    profile = sign_profile(arguments.profile, key)
    facts = {
        "profile": str(arguments.profile),
        "key_id": key.id,
        "product": profile.product,
        "n_references": profile.n_references,
        "threshold": profile.threshold.value,
        "sha256": sha256_file(arguments.profile),
    }
    say(
        json.dumps(facts)
        if arguments.json
        else f"{arguments.profile}  {profile.product}, K = {profile.n_references}, threshold "
        f"{profile.threshold.value:.4f}, signed by {key.id}"
    )
    return 0
