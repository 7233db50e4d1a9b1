"""The Triton tree attention on drawn trees, lengths, anchors and sizes."""

import pytest
from hypothesis import given, settings
from interpreter import DEVICES
from test_attention_tree import drawn_cases
from triton_plans import WAYS, planned


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("way", WAYS)
def test_drawn_cases(way, device):
    """With NaN in every key and value that no row sees."""

    @given(case=drawn_cases(most_requests=2, most_slots=40))
    @settings(max_examples=45, deadline=None)
    def holds(case):
        with planned(way):
            case.check(case.poisoned().run(device))

    holds()
