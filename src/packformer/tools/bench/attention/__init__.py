"""``packformer bench attention``."""

from __future__ import annotations

import argparse
from pathlib import Path

from packformer.tools.device_arguments import add_device, device_and_dtype
from packformer.tools.help_format import HelpFormatter


def add_to(commands: argparse._SubParsersAction) -> None:
    """Adds the command, with its arguments."""
    parser = commands.add_parser(
        "attention",
        help="kernels beside what one would write otherwise",
        description="Time and memory of packed attention, beside xFormers as users call it, "
        "torch's varlen_attn and padded SDPA.",
        formatter_class=HelpFormatter,
    )
    add_device(parser)
    parser.add_argument("--heads", type=int, default=12, help="query heads")
    parser.add_argument(
        "--kv-heads",
        type=int,
        default=None,
        help="key/value heads; default: as many as query heads",
    )
    parser.add_argument("--head-dim", type=int, default=64, help="head size")
    parser.add_argument(
        "--tokens",
        type=int,
        nargs="+",
        help="row lengths; by default 1,024 to 262,144 on a GPU, 256 to 4,096 on CPU",
    )
    parser.add_argument(
        "--documents",
        nargs="+",
        default=["one", "600"],
        help="`one` document per row, or log-normal lengths of this mean",
    )
    parser.add_argument(
        "--longest", type=int, default=4096, help="longest of the log-normal lengths"
    )
    parser.add_argument(
        "--variants", nargs="+", default=["plain", "alibi"], help="plain, alibi, window"
    )
    parser.add_argument(
        "--output",
        type=Path,
        help="folder for the CSV and pictures (default: attention, or attention-2, ...)",
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    from packformer.tools.bench.attention.measure import Bench, run_bench
    from packformer.tools.output_folder import output_folder

    device, dtype = device_and_dtype(options)
    powers = range(10, 19) if device == "cuda" else range(8, 13)
    with output_folder(options.output, "attention") as folder:
        run_bench(
            Bench(
                device_type=device,
                dtype=dtype,
                num_heads=options.heads,
                num_kv_heads=options.heads if options.kv_heads is None else options.kv_heads,
                head_dim=options.head_dim,
                tokens=tuple(options.tokens or [2**n for n in powers]),
                documents=tuple(options.documents),
                longest=options.longest,
                variants=tuple(options.variants),
            ),
            folder,
        )
