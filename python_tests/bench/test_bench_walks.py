"""Predictions of residual acceptance: against what two GPUs measured, and what they depend on."""

from __future__ import annotations

import pytest
import torch

from bench import walks
from bench.cases.sampling import AcceptTreeResidual, AcceptTreeResidualLogits
from bench.devices import A100, H100, H200, Device

OF_LOGITS = AcceptTreeResidualLogits(torch.bfloat16)


@pytest.mark.parametrize(
    ("device", "case", "us"),
    [(H200, AcceptTreeResidual(), 43.4), (H100, AcceptTreeResidual(), 47.2),
     (H200, OF_LOGITS, 71.6), (H100, OF_LOGITS, 73.5)],
    ids=str,
)  # fmt: skip
def test_what_one_cluster_took(device: Device, case: AcceptTreeResidual, us: float) -> None:
    assert walks.microseconds(case, device, walks.THEN) == pytest.approx(us, rel=0.05)


@pytest.mark.parametrize("device", [H100, H200, A100])
def test_nodes_that_are_tried_apart_take_no_more_if_there_are_more(device: Device) -> None:
    """Until there are more than clusters: then one goes from node to node."""
    took = [walks.microseconds(AcceptTreeResidual(levels=levels), device) for levels in (2, 8, 17)]
    assert took[1] < 1.6 * took[0] < took[2]


def test_a_larger_batch_has_fewer_clusters_a_request() -> None:
    assert [walks.clusters(AcceptTreeResidual(batch=batch), H100) for batch in (1, 4, 8, 64)] == [
        8, 2, 1, 1,
    ]  # fmt: skip
    assert [walks.clusters(AcceptTreeResidual(batch=batch), A100) for batch in (1, 8, 64)] == [
        16, 6, 1,
    ]  # fmt: skip
