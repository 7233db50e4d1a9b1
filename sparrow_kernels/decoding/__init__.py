"""The decoding loop: draft, verify, accept, commit, emit, over any target and draft."""

from sparrow_kernels.decoding.auto import AutoTree
from sparrow_kernels.decoding.coins import Coins
from sparrow_kernels.decoding.growth import grow_tree
from sparrow_kernels.decoding.loop import Cut, decode
from sparrow_kernels.decoding.protocols import (
    Choose,
    Committed,
    Draft,
    Target,
    Tree,
    Verification,
)
from sparrow_kernels.decoding.stats import DecodeStats, PhaseTimer
from sparrow_kernels.decoding.step import Step, first_committed, next_root
from sparrow_kernels.decoding.trace import Observer, StepTrace
from sparrow_kernels.decoding.tree_config import TreeConfig

__all__ = [
    "AutoTree",
    "Choose",
    "Coins",
    "Committed",
    "Cut",
    "DecodeStats",
    "Draft",
    "Observer",
    "PhaseTimer",
    "Step",
    "StepTrace",
    "Target",
    "Tree",
    "TreeConfig",
    "Verification",
    "decode",
    "first_committed",
    "grow_tree",
    "next_root",
]
