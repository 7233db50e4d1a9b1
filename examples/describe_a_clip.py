"""For Vid-LLM users: the same text, faster, with the embedded pair and a clip it understands."""

import tempfile
from pathlib import Path

from sparrow_kernels import SparrowDecoder
from sparrow_kernels.embedded.clips import make_clip, render, write_mp4
from sparrow_kernels.models.inputs import build_inputs
from sparrow_kernels.models.pair import load_pair

target, draft, processor = load_pair()  # or directories of your own
with tempfile.TemporaryDirectory() as folder:
    clip = Path(folder) / "clip.mp4"
    write_mp4(clip, render(make_clip(visual_tokens=500, seed=3)))
    inputs = build_inputs(processor, "Describe the video in detail.", [clip])

result = SparrowDecoder(target, draft).generate(**inputs, max_new_tokens=256)
prompt_length = inputs["input_ids"].shape[1]
print(processor.tokenizer.decode(result.sequences[0, prompt_length:], skip_special_tokens=True))
print(f"{result.stats.mean_emitted:.2f} tokens a target call; steps by tokens emitted:")
print(result.stats.histogram)
