"""Which tiles a Triton without the fence gets, and that `sparrow env` says so."""

from __future__ import annotations

import pytest
import torch

from sparrow_kernels.cli import environment
from sparrow_kernels.ops import env, fences
from sparrow_kernels.ops.attention.triton import configurations, window_tiles

VERSIONS = {
    "3.6.0": False,
    "3.7.0": False,
    "3.7.1": True,
    "3.7.1+gitd2e4": True,
    "3.8": True,
    "3.9.0": True,
    "4.0.0": True,
    "": False,
    "unknown": False,
}


@pytest.mark.parametrize("version", VERSIONS)
def test_versions_with_the_fence(version: str) -> None:
    assert fences.is_fenced(version) == VERSIONS[version]


@pytest.mark.parametrize("asked", [None, True, False])
@pytest.mark.parametrize("version", ["3.6.0", "3.9.0"])
def test_the_table_follows_triton_and_the_setting(
    version: str, asked: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fences, "installed", lambda: version)
    monkeypatch.setattr(env, "_warpgroup_products", asked)
    used = VERSIONS[version] if asked is None else asked
    for capability, usual in (((9, 0), 90), ((10, 0), 80), ((10, 3), 80)):
        wanted = usual if used else configurations.UNFENCED
        assert configurations.architecture(capability) == wanted
    for capability in ((8, 0), (8, 9), (12, 0)):  # their products read registers
        assert configurations.architecture(capability) == 80
    monkeypatch.setattr(window_tiles, "_major", lambda _: 9)
    for kernel in ("forward", "query", "key"):
        found = window_tiles.tiles_for(kernel, torch.empty(1, 1, 1, 128, dtype=torch.bfloat16))
        assert found == window_tiles.tiles(kernel, torch.bfloat16, 128, 9, used)
        other = window_tiles.tiles(kernel, torch.bfloat16, 128, 9, not used)
        assert found != other


@pytest.mark.parametrize("anchored", [False, True])
@pytest.mark.parametrize("head_dim", [16, 64, 80, 128, 256])
def test_tiles_that_the_compiler_has_no_warpgroup_products_for(
    head_dim: int, anchored: bool
) -> None:
    """A warpgroup is four warps, its product 64 rows at least. The static table says the same of
    what was compiled."""
    unfenced = configurations.UNFENCED
    for each in configurations.configurations(unfenced, torch.bfloat16, head_dim, anchored):
        assert each.rows < 64 or each.num_warps == 2
    float32 = configurations.configurations(unfenced, torch.float32, head_dim, anchored)
    assert float32 == configurations.configurations(90, torch.float32, head_dim, anchored)


WORDS = {
    ("3.6.0", None): "not used: triton 3.6.0 leaves out a fence that 3.7.1 has",
    ("3.9.0", None): "used",
    ("", None): "not used: triton is not installed",
    ("3.6.0", True): "used, as SPARROW_WGMMA says",
    ("3.9.0", False): "not used, as SPARROW_WGMMA says",
}


@pytest.mark.parametrize(("version", "asked"), WORDS)
def test_sparrow_env_says_so(
    version: str, asked: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fences, "installed", lambda: version)
    monkeypatch.setattr(env, "_warpgroup_products", asked)
    said = environment.describe()["warpgroup_products"]
    assert said.startswith(WORDS[version, asked])
