"""Targets that others have wrapped: PEFT's adapters in their layers, weights accelerate brings,
the precision it wraps a forward in.

Both packages are optional; where one is missing its tests say so and are skipped.
"""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from family_cases import draft_for, prompts, tiny, turns

from sparrow_kernels.drafting import SparrowDraft
from sparrow_kernels.models import SparrowDecoder, sparrow_generate
from sparrow_kernels.models.families import Parts
from sparrow_kernels.models.target import TargetState

SETTINGS = {"max_new_tokens": 20, "do_sample": False}
pytestmark = [
    # PEFT itself calls what transformers has renamed.
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning"),
    # A `device_map` of weights is as good as one of modules.
    pytest.mark.filterwarnings("ignore:The following device_map keys:UserWarning"),
]


def ragged(name: str) -> dict[str, Any]:
    return prompts(tiny(name).processor, turns("Why?"), turns(4, "What happens in the clip?"))


def text(target: Any, inputs: dict[str, Any], **more: Any) -> torch.Tensor:
    return target.generate(**inputs, **SETTINGS, **more)


def adapted(name: str) -> Any:
    """A target in a PEFT model, with an adapter that changes what it says."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    config = peft.LoraConfig(
        r=4,
        target_modules=r".*(language_model|model\.layers).*(q_proj|v_proj|down_proj)",
        init_lora_weights=False,
    )
    return peft.get_peft_model(copy.deepcopy(tiny(name).target), config).eval()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl", "llava_onevision", "Llama"])
def test_an_adapter_is_in_force_and_what_is_done_to_it_is_seen(name: str) -> None:
    target, draft, inputs = adapted(name), draft_for(name), ragged(name)
    decoder = SparrowDecoder(target, draft, "6-5-1")

    def ours() -> torch.Tensor:
        return decoder.generate(**inputs, **SETTINGS).sequences

    with_adapter, without = text(target, inputs), text(tiny(name).target, inputs)
    assert not torch.equal(with_adapter, without)
    assert torch.equal(ours(), with_adapter)
    drop_in = text(target, inputs, custom_generate=sparrow_generate, draft=draft)
    assert torch.equal(drop_in, with_adapter)
    with target.disable_adapter():
        assert torch.equal(ours(), without)
    assert torch.equal(ours(), with_adapter)
    target.merge_adapter()
    assert torch.equal(ours(), with_adapter)
    target.unmerge_adapter()
    assert torch.equal(ours(), with_adapter)


def test_an_adapter_that_transformers_has_loaded() -> None:
    peft = pytest.importorskip("peft", minversion="0.22", reason="transformers asks for it")
    target, inputs = copy.deepcopy(tiny("qwen2_5_vl").target), ragged("qwen2_5_vl")
    config = peft.LoraConfig(r=4, target_modules=["v_proj"], init_lora_weights=False)
    target.add_adapter(config)
    expected = text(target, inputs)
    assert not torch.equal(expected, text(tiny("qwen2_5_vl").target, inputs))
    decoder = SparrowDecoder(target, draft_for("qwen2_5_vl"), "6-5-1")
    assert torch.equal(decoder.generate(**inputs, **SETTINGS).sequences, expected)


def test_buffers_and_graphs_of_another_state_of_an_adapter_are_not_used_again() -> None:
    target = adapted("qwen2_5_vl")
    state = TargetState(Parts(target).private(), 1, 8)

    def fits() -> bool:
        return state.fits(Parts(target).private())

    assert fits()
    with target.disable_adapter():
        assert not fits()
    assert fits()
    target.merge_adapter()
    assert not fits()
    target.unmerge_adapter()
    assert fits()
    next(one for one in target.modules() if hasattr(one, "lora_A")).scaling["default"] = 9.0
    assert not fits()


def test_a_draft_is_made_for_a_target_with_an_adapter() -> None:
    target, inputs = adapted("qwen2_5_vl"), ragged("qwen2_5_vl")
    draft = SparrowDraft.for_target(target)
    result = SparrowDecoder(target, draft).generate(**inputs, **SETTINGS)
    assert torch.equal(result.sequences, text(target, inputs))


def test_learned_prompts_are_refused_by_name() -> None:
    base = tiny("Llama").target
    wrapper = SimpleNamespace(
        _modules={},
        peft_config={"default": SimpleNamespace(is_prompt_learning=True)},
        get_base_model=lambda: base,
    )
    with pytest.raises(NotImplementedError, match="adapter in its layers.*learned rows"):
        Parts(wrapper)
    wrapper.peft_config["default"].is_prompt_learning = False
    assert Parts(wrapper).model is base


def test_mixed_precision_is_taken_from_the_call_and_not_from_a_forward() -> None:
    """A step does not go through the whole model's forward, where accelerate turns autocast on."""
    accelerate = pytest.importorskip("accelerate")
    accelerate.state.AcceleratorState._reset_state(True)
    accelerator = accelerate.Accelerator(cpu=True, mixed_precision="bf16")
    target = accelerator.prepare_model(copy.deepcopy(tiny("Llama").target), evaluation_mode=True)
    inputs = prompts(tiny("Llama").processor, turns("Why?"))
    decoder = SparrowDecoder(target, draft_for("Llama"), "6-5-1")
    said = "precision of the call, got autocast to bfloat16 of .* in a call of no autocast in Llama"
    with pytest.raises(ValueError, match=rf"{said}.*accelerator\.autocast"):
        decoder.generate(**inputs, **SETTINGS)
    with accelerator.autocast():
        assert torch.equal(decoder.generate(**inputs, **SETTINGS).sequences, text(target, inputs))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, where",
    [
        *((name, where) for name in ("qwen2_5_vl", "qwen3_vl") for where in ("cpu", "disk")),
        # Not all of LLaVA-OneVision: its newline token is a parameter that no hook brings along.
        *((name, "layers") for name in ("qwen2_5_vl", "llava_onevision", "Llama")),
    ],
)
def test_offloaded_weights_are_brought_along(name: str, where: str, tmp_path: Path) -> None:
    accelerate = pytest.importorskip("accelerate")
    target, inputs = copy.deepcopy(tiny(name).target), ragged(name)
    if where == "cpu":
        accelerate.cpu_offload(target, "cpu")
    elif where == "disk":
        accelerate.disk_offload(target, tmp_path, "cpu")
    else:
        places = layers_on_disk(target)
        accelerate.dispatch_model(target, places, main_device="cpu", offload_dir=tmp_path)
    assert {"meta"} <= {weight.device.type for weight in target.parameters()}
    plain = text(tiny(name).target, inputs)
    assert torch.equal(text(target, inputs), plain)
    # A reduced vocabulary wants rows of the head, which an offloaded one cannot give.
    for words in (None, range(100, 200)):
        decoder = SparrowDecoder(target, draft_for(name).lighter(vocabulary=words), "9-2-4")
        for _ in range(2):
            assert torch.equal(decoder.generate(**inputs, **SETTINGS).sequences, plain)
        (used,) = decoder._workspaces["speculative"]._kept
        assert used.draft is not None
        drafted = used.draft._head._ids
        expected = set(words) if words and where == "layers" else None
        assert (None if drafted is None else set(drafted.tolist())) == expected
    assert torch.equal(decoder.generate_plainly(**inputs, **SETTINGS).sequences, plain)


def test_layers_on_several_devices_are_refused_by_name() -> None:
    target = copy.deepcopy(tiny("Llama").target)
    target.model.layers[1].to("meta")
    said = r"one device, got cpu, meta \(of several GPUs .*DistributedConfig"
    with pytest.raises(NotImplementedError, match=said):
        SparrowDecoder(target, draft_for("Llama"))


def layers_on_disk(target: Any) -> dict[str, str]:
    """A `device_map` of all decoder layers but the first, which names each other weight."""
    kinds = ((name, type(module).__name__) for name, module in target.named_modules())
    layers = [name for name, kind in kinds if kind.endswith("DecoderLayer")][1:]
    weights = (name for name, _ in target.named_parameters())
    others = (name for name in weights if not name.startswith(tuple(f"{one}." for one in layers)))
    return {**dict.fromkeys(layers, "disk"), **dict.fromkeys(others, "cpu")}
