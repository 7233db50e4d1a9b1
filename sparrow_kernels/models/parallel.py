"""A target split over several processes by transformers' tensor parallelism.

Each process holds a share of every layer and decodes the same call, with a draft of its own; the
target's modules gather what a layer needs. Another seed, another clock or a draft that rounds
otherwise would send the processes apart, and the next gathering would wait for ever or mix texts:
so coins are the first process's, and so is what is drafted, chosen and stopped.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList
from transformers.generation import EosTokenCriteria, MaxLengthCriteria

from sparrow_kernels.decoding.coins import Generators
from sparrow_kernels.models.families import VidLLM

_LAYER = "model.language_model.layers.*."
QWEN3_VL_PLAN = {
    **{_LAYER + f"self_attn.{name}_proj": "colwise" for name in ("q", "k", "v")},
    _LAYER + "self_attn.o_proj": "rowwise",
    **{_LAYER + f"mlp.{name}_proj": "colwise" for name in ("gate", "up")},
    _LAYER + "mlp.down_proj": "rowwise",
}
"""`DistributedConfig(tp_plan=QWEN3_VL_PLAN)`: with "auto", Qwen3-VL's layers are not split at all,
since its configuration names none of them."""


class Agreement:
    """What the processes of a target agree on; of one process, whatever it says.

    Args:
        model: the target.
    """

    def __init__(self, model: VidLLM) -> None:
        self._group = _group(model)

    def __call__(self, *tensors: Tensor) -> None:
        """Overwrite tensors of integers with the first process's, in one message."""
        if self._group is None:
            return
        message = torch.cat([tensor.flatten().long() for tensor in tensors])
        dist.broadcast(message, group_src=0, group=self._group)
        said = message.split([tensor.numel() for tensor in tensors])
        for tensor, values in zip(tensors, said, strict=True):
            tensor.copy_(values.view(tensor.shape))

    def on_coins(self, generators: Generators, device: torch.device) -> None:
        """Set generators to where the first process's stand, so that all draw alike."""
        if self._group is None:
            return
        if generators is None:
            generators = _torchs_own(device)
        each = [generators] if isinstance(generators, torch.Generator) else generators
        for generator in each:
            state = generator.get_state().to(device)
            self(state)
            generator.set_state(state.cpu())

    def on_stops(self, criteria: StoppingCriteriaList) -> StoppingCriteriaList:
        """`criteria` with the first process's verdicts, where they may differ: clocks do."""
        if self._group is None:
            return criteria
        alike = (MaxLengthCriteria, EosTokenCriteria)
        return StoppingCriteriaList(
            one if type(one) in alike else _AgreedCriterion(one, self) for one in criteria
        )


class _AgreedCriterion(StoppingCriteria):
    def __init__(self, criterion: StoppingCriteria, agree: Agreement) -> None:
        self._criterion, self._agree = criterion, agree

    def __call__(self, input_ids: Any, scores: Any, **keywords: Any) -> Any:
        verdict = torch.as_tensor(self._criterion(input_ids, scores, **keywords))
        self._agree(verdict)
        return cast(Any, verdict)


def is_split(model: VidLLM) -> bool:
    """Whether other processes hold shares of the model."""
    return _group(model) is not None


def _torchs_own(device: torch.device) -> torch.Generator:
    if device.type != "cuda":
        return torch.default_generator
    index = torch.cuda.current_device() if device.index is None else device.index
    return torch.cuda.default_generators[index]


def _group(model: VidLLM) -> dist.ProcessGroup | None:
    if (getattr(model, "_tp_size", None) or 1) == 1:
        return None
    mesh = model._device_mesh
    # Since 5.18 a mesh has a dimension for each kind of parallelism.
    return mesh.get_group("tp" if mesh.mesh_dim_names else None)
