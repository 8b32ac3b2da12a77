"""Options of `cff-export` for other hosts, and what they do with a finished bundle.

Imports are few, so that ``cff-export --help`` stays quick: ONNX is loaded when something is
written.
"""

import argparse
import re
from pathlib import Path

from cff_runtime.bundle import Bundle
from cff_runtime.errors import MissingDependencyError, UsageError
from cff_runtime.profile import Profile

_PROVIDERS = ("tensorrt", "nv-tensorrt-rtx")
_DEVICES = ("gpu", "cpu")
# option -> the option it belongs to
_NEEDS = {
    "standalone_inputs": "standalone",
    "triton_name": "triton",
    "triton_device": "triton",
    "max_batch": "triton",
    "queue_delay_us": "triton",
    "plan": "triton",
    "provider": "ep_context",
}


def add_host_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options for other hosts to a parser, as a group of their own."""
    group = parser.add_argument_group(
        "other hosts", "write the finished bundle for hosts other than cff-run; see docs/hosts.md"
    )
    group.add_argument(
        "--standalone", type=Path, metavar="FILE", help="one ONNX file, image to answer"
    )
    group.add_argument(
        "--standalone-inputs",
        action="store_true",
        help="leave the product's tensors as inputs of it, written to FILE.inputs.safetensors",
    )
    group.add_argument(
        "--profile", type=Path, metavar="PROFILE", help="product for --standalone and --triton"
    )
    group.add_argument(
        "--triton", type=Path, metavar="DIR", help="model repository of Triton Inference Server"
    )
    group.add_argument(
        "--triton-name", metavar="NAME", help="the model's name there; by default the product's"
    )
    group.add_argument("--triton-device", choices=_DEVICES, help="where it runs; gpu by default")
    group.add_argument(
        "--max-batch",
        type=int,
        metavar="N",
        help="largest batch of Triton, 0 for none; 8 by default, 0 for plans and fixed batches",
    )
    group.add_argument(
        "--queue-delay-us",
        type=int,
        metavar="N",
        help="how long Triton lets a request wait for others, in microseconds; 0 by default",
    )
    group.add_argument(
        "--plan",
        type=Path,
        metavar="ENGINE",
        help="serve this TensorRT engine of the standalone graph instead of the graph",
    )
    group.add_argument(
        "--ep-context",
        type=Path,
        metavar="DIR",
        help="encoder compiled by a TensorRT provider of ONNX Runtime; needs its GPU",
    )
    group.add_argument(
        "--provider", choices=_PROVIDERS, help="provider of --ep-context; tensorrt by default"
    )


def write_hosts(arguments: argparse.Namespace, bundle: Bundle) -> list[str]:
    """Write what the options of `add_host_arguments` ask for.

    Parameters
    ----------
    arguments : argparse.Namespace
    bundle : Bundle
        The encoder's precision is that of the profile.

    Returns
    -------
    list of str
        A line about every thing written; none if nothing was asked for.

    Raises
    ------
    UsageError
        If options do not go together.
    CffError
        As `write_standalone`, `write_triton_repository` and `write_ep_context`.
    """
    _check_options(arguments)
    if not (arguments.standalone or arguments.triton or arguments.ep_context):
        return []
    profile = None if arguments.profile is None else Profile.load(arguments.profile)
    if profile is not None:
        bundle = bundle.view(profile.precision_in(bundle.manifest))
    lines = []
    try:
        if arguments.standalone is not None and profile is not None:
            lines.append(_standalone(arguments, bundle, profile))
        if arguments.triton is not None and profile is not None:
            lines.append(_triton(arguments, bundle, profile))
        if arguments.ep_context is not None:
            lines.append(_ep_context(arguments, bundle))
    except ImportError as error:
        raise MissingDependencyError(
            f"writing for other hosts needs a package that is not installed ({error}); "
            "install onnx, onnx-ir and onnxruntime with pip"
        ) from error
    return lines


def _check_options(arguments: argparse.Namespace) -> None:
    for option, owner in _NEEDS.items():
        if getattr(arguments, option) not in (None, False) and getattr(arguments, owner) is None:
            raise UsageError(
                f"`{_flag(option)}` belongs to `{_flag(owner)}`, which must be given too"
            )
    takes_profile = [owner for owner in ("standalone", "triton") if getattr(arguments, owner)]
    if takes_profile and arguments.profile is None:
        raise UsageError(
            f"`{_flag(takes_profile[0])}` must have a product's `--profile PROFILE`; "
            "make one with `cff-run enroll`"
        )
    if arguments.profile is not None and not takes_profile:
        raise UsageError("`--profile` belongs to `--standalone` or `--triton`; give one of them")


def _flag(option: str) -> str:
    return f"--{option.replace('_', '-')}"


def _standalone(arguments: argparse.Namespace, bundle: Bundle, profile: Profile) -> str:
    from cff_export.hosts.standalone import write_standalone

    report = write_standalone(bundle, profile, arguments.standalone, arguments.standalone_inputs)
    beside = [path.name for path in (report.data, report.inputs) if path is not None]
    batch = "any batch" if report.batch is None else f"batch of {report.batch}"
    more = f", with {' and '.join(beside)} beside it" if beside else ""
    return f"{report.path}  standalone, {batch}, {report.n_bytes / 1e6:.1f} MB{more}"


def _triton(arguments: argparse.Namespace, bundle: Bundle, profile: Profile) -> str:
    from cff_export.hosts.triton import write_triton_repository

    report = write_triton_repository(
        bundle,
        profile,
        arguments.triton,
        model_name=arguments.triton_name or _model_name(profile.product),
        platform="onnx" if arguments.plan is None else "tensorrt",
        max_batch_size=arguments.max_batch,
        queue_delay_us=arguments.queue_delay_us or 0,
        device=arguments.triton_device or "gpu",
        plan=arguments.plan,
    )
    unchecked = "" if arguments.plan is None else "; the plan itself was not opened"
    batches = ", ".join(str(size) for size in report.warmup_batches)
    return (
        f"{report.path}  Triton model, max_batch_size {report.max_batch_size}, "
        f"warm-up with batches of {batches}{unchecked}"
    )


def _model_name(product: str) -> str:
    """Return the product's name as Triton can take it in a URL."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "_", product.strip()).strip("_.-")
    if not name:
        raise UsageError(
            f"`--triton-name` must be given, product {product!r:.80} has no letter for it"
        )
    return name


def _ep_context(arguments: argparse.Namespace, bundle: Bundle) -> str:
    from cff_export.hosts.ep_context import write_ep_context

    provider = arguments.provider or _PROVIDERS[0]
    report = write_ep_context(bundle, provider, arguments.ep_context)
    return f"{report.path}  EPContext model of {report.provider}, batch of 1"
