"""Ask a question about a clip, and read the answer as it is decoded.

The answer goes to stdout; what it took goes to stderr.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sparrow_kernels.cli.arguments import (
    clip,
    fps,
    path,
    positive,
    question,
    seed,
    temperature,
    tree,
    whole,
)
from sparrow_kernels.cli.report import as_object, comparison_as_object, lines
from sparrow_kernels.cli.streams import print_json
from sparrow_kernels.cli.terminal import ProgressBar, WordStream

if TYPE_CHECKING:
    from sparrow_kernels.measuring.comparison import Comparison
    from sparrow_kernels.models import SparrowDecoder

HELP = "ask a question about a clip"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("clip", metavar="CLIP.mp4", type=clip, help="any video file FFmpeg reads")
    parser.add_argument("question", metavar="QUESTION", type=question)
    parser.add_argument("--target", type=path, metavar="DIR", help="default: the embedded one")
    parser.add_argument("--draft", type=path, metavar="DIR", help="default: the embedded one")
    parser.add_argument(
        "--max-new-tokens", type=positive, default=256, metavar="N", help="default: 256"
    )
    parser.add_argument(
        "--temperature",
        type=temperature,
        default=0.0,
        metavar="T",
        help="sample at this temperature (default: 0, greedy)",
    )
    parser.add_argument(
        "--tree",
        type=tree,
        metavar="30-4-8",
        help="nodes-levels-children of the draft tree, or children a level such as 4x2x1"
        " (default: the draft's own)",
    )
    parser.add_argument(
        "--fps",
        type=fps,
        default=2.0,
        metavar="F",
        help="frames a second to look at: 2 divided by a whole number, such as 1 or 2/3"
        " (default: 2)",
    )
    parser.add_argument("--seed", type=seed, default=0, metavar="S", help="default: 0")
    parser.add_argument(
        "--compare", action="store_true", help="also decode without speculation, and compare"
    )
    parser.add_argument(
        "--repeats",
        type=whole(1, 1000),
        default=3,
        metavar="N",
        help="runs of each way with --compare, of which medians are shown (default: 3)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")


class _Prepared(NamedTuple):
    """A question ready to be decoded."""

    decoder: SparrowDecoder
    processor: Any
    inputs: dict[str, Any]
    settings: dict[str, Any]
    """Further keywords of `generate`."""
    visual_tokens: int

    def text(self, sequence: Any) -> str:
        """The new text of a sequence `[prompt + new]`."""
        tokens = sequence[self.inputs["input_ids"].shape[1] :]
        return self.processor.tokenizer.decode(tokens, skip_special_tokens=True)


def run(arguments: argparse.Namespace) -> int:
    if not Path(arguments.clip).exists():  # said before seconds of imports and loading
        if "://" in arguments.clip:
            from sparrow_kernels.video.clip import clip_path

            clip_path(arguments.clip)  # has words for a URL
        raise FileNotFoundError(f"clip {arguments.clip} does not exist")
    streams = sys.stdout.isatty() and not arguments.json
    with ProgressBar("prefill") as bar:
        bar.note("loading the models")
        prepared = _prepare(arguments, bar)
        result = _decode(prepared, arguments.seed, bar, streams)
        comparison = _compare(prepared, arguments, bar) if arguments.compare else None
    text, stats = prepared.text(result.sequences[0]), result.stats
    if arguments.json:
        report = as_object(text, prepared.visual_tokens, stats)
        if comparison is not None:
            baseline = comparison.runs["generate"][0].sequence
            report |= comparison_as_object(comparison, prepared.text(baseline))
        print_json(report)
        return 0
    if not streams:
        print(text, flush=True)
    for line in lines(prepared.visual_tokens, stats, comparison):
        print(line, file=sys.stderr)
    return 0


def _prepare(arguments: argparse.Namespace, bar: ProgressBar) -> _Prepared:
    """Load the models and read the clip."""
    import torch

    from sparrow_kernels import SparrowDecoder
    from sparrow_kernels.models.families import Parts
    from sparrow_kernels.models.inputs import build_inputs
    from sparrow_kernels.models.pair import load_draft, load_target
    from sparrow_kernels.models.quiet import quiet_transformers

    device = "cuda" if torch.cuda.is_available() else "cpu"
    target: Any
    with quiet_transformers():
        target, processor = load_target(arguments.target)
        target.to(device)
        decoder = SparrowDecoder(target, load_draft(target, arguments.draft), arguments.tree)
        bar.note("reading the clip")
        inputs = build_inputs(processor, arguments.question, [arguments.clip], fps=arguments.fps)
    inputs = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in inputs.items()}
    visual_tokens = int(Parts(target).visual_mask(inputs["input_ids"]).sum())
    settings = _settings(arguments, target, inputs["input_ids"].shape[1])
    return _Prepared(decoder, processor, inputs, settings, visual_tokens)


def _decode(prepared: _Prepared, seed: int, bar: ProgressBar, streams: bool) -> Any:
    """Decode speculatively; on a terminal, print words as they are accepted."""
    import torch

    from sparrow_kernels.models.progress import prefill_progress
    from sparrow_kernels.models.quiet import quiet_transformers

    words = WordStream(prepared.processor.tokenizer, bar) if streams else None
    torch.manual_seed(seed)
    decoder = prepared.decoder
    try:
        with quiet_transformers(), prefill_progress(decoder.target, bar):
            return decoder.generate(**prepared.inputs, **prepared.settings, streamer=words)
    finally:
        if words is not None:
            words.cut()


def _compare(prepared: _Prepared, arguments: argparse.Namespace, bar: ProgressBar) -> Comparison:
    """Decode again with and without speculation, saying which run is on."""
    from sparrow_kernels.measuring.comparison import compare
    from sparrow_kernels.models.quiet import quiet_transformers

    repeats = arguments.repeats
    with quiet_transformers():
        return compare(
            prepared.decoder,
            prepared.inputs,
            repeats=repeats,
            seed=arguments.seed,
            on_run=lambda way, repeat: bar.note(f"comparing: {way}, {repeat + 1} of {repeats}"),
            **prepared.settings,
        )


def _settings(arguments: argparse.Namespace, target: Any, prompt_length: int) -> dict[str, Any]:
    """Keywords for `generate`, after checking that the prompt and some text fit the context."""
    context = target.config.get_text_config().max_position_embeddings
    if prompt_length >= context:
        raise ValueError(
            f"prompt must be shorter than the model's context of {context} tokens, got"
            f" {prompt_length} (a shorter clip, or fewer frames: --fps {arguments.fps / 2})"
        )
    new_tokens = min(arguments.max_new_tokens, context - prompt_length)
    settings: dict[str, Any] = {"max_new_tokens": new_tokens, "do_sample": False}
    if arguments.temperature > 0:
        settings |= {"do_sample": True, "temperature": arguments.temperature}
    return settings
