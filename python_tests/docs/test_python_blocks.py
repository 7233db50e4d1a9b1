"""Every Python block of README and docs runs, page by page, in the order a reader meets them.

Where a page loads a model of several GB, or a draft or clip of the reader's own, the embedded pair
and a clip it understands stand in: under the page's own names, so that the page's own lines run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from doc_pages import PAGES, ROOT, Block, blocks
from transformers import AutoModelForImageTextToText, AutoProcessor

import sparrow_kernels as sk
from sparrow_kernels.embedded.clips import make_clip, render, write_mp4
from sparrow_kernels.models.inputs import build_inputs
from sparrow_kernels.models.pair import EMBEDDED_WEIGHTS, load_pair
from sparrow_kernels.ops import native, registry
from sparrow_kernels.training.data.dialogues import read_dialogues

Scope = dict[str, Any]


def code(name: str, language: str) -> list[Block]:
    return [block for block in blocks(ROOT / name) if block.language == language]


@pytest.fixture
def stand_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scope]:
    """A folder with what pages load, and the names they take for granted."""
    monkeypatch.chdir(tmp_path)
    for draft in ("my-draft", "path/or/owner/name"):
        Path(draft).parent.mkdir(parents=True, exist_ok=True)
        Path(draft).symlink_to(EMBEDDED_WEIGHTS / "draft")
    for seed, clip in enumerate(("clip.mp4", "other.mp4")):
        write_mp4(clip, render(make_clip(visual_tokens=100, seed=seed)))
    target, _, processor = load_pair()
    monkeypatch.setattr(AutoModelForImageTextToText, "from_pretrained", lambda *_, **__: target)
    monkeypatch.setattr(AutoProcessor, "from_pretrained", lambda *_, **__: processor)

    def about(question: str) -> Any:
        return build_inputs(processor, question, ["clip.mp4"])

    with torch.compiler.set_stance("force_eager"):  # compiling takes minutes on a CPU
        yield {"target": target, "about": about, "inputs": about("What happens?"), "torch": torch}


def of_readme(scope: Scope) -> None:
    assert scope["acceptance"].path[0].tolist() == [0, 1, 4, -1]
    assert scope["acceptance"].tokens[0].tolist() == [21, 32, 77, -1]
    assert scope["result"].stats.mean_emitted > 2
    assert scope["second"].stats.reused_slots > 100


def of_decoder(scope: Scope) -> None:
    assert scope["result"].sequences.shape[0] == 2
    assert scope["second"].stats.reused_slots > 100


def in_pages(scope: Scope) -> Scope:
    """Two requests of a tree of two nodes, over caches of eight pages of four slots."""
    parent = torch.tensor([[-1, 0]] * 2, dtype=torch.int32)
    pages = [torch.zeros(8, 1, 4, 8) for _ in range(4)]
    return {
        **{name: getattr(sk, name) for name in ("append_cache_", "commit_tree_")},
        **{"key": torch.ones(2, 1, 2, 8), "value": torch.ones(2, 1, 2, 8)},
        **{"key_pages": pages[0], "value_pages": pages[1], "max_path": 2},
        **{"keys": pages[:2], "values": pages[2:], "states": [torch.ones(2, 2, 8)]},
        "prefix_lens": torch.tensor([3, 5], dtype=torch.int32),
        "block_table": torch.tensor([[6, 1, 0], [2, 7, 5]], dtype=torch.int32),
        **{"tokens": torch.tensor([[1, 2]] * 2), "layout": sk.build_tree(parent)},
        "target_tokens": torch.tensor([[2, 3], [4, 5]]),
    }


def of_pages(scope: Scope) -> None:
    assert scope["key_pages"][6, 0, 3].sum() == scope["key_pages"][1, 0, 0].sum() == 8
    assert scope["prefix_lens"].tolist() == [5, 6]


def with_idle_requests(scope: Scope) -> Scope:
    """Three requests over pages of four slots: one is busy, one has a node of three, one has
    finished and its pages are the first's. Pages 6, 7 and 8 are spare."""
    num_nodes = torch.tensor([3, 1, 0], dtype=torch.int32)
    parent = torch.tensor([[-1, 0, 0]] * 3, dtype=torch.int32)
    pages = torch.zeros(2, 9, 1, 4, 8)
    return {
        **{name: getattr(sk, name) for name in ("append_cache_", "tree_attention")},
        **{"torch": torch, "num_nodes": num_nodes, "layout": sk.build_tree(parent, num_nodes)},
        **{"key": torch.ones(3, 1, 3, 8), "value": torch.ones(3, 1, 3, 8)},
        **{"query": torch.ones(3, 1, 3, 8), "page_size": 4},
        **{"key_pages": pages[0], "value_pages": pages[1]},
        "prefix_lens": torch.tensor([6, 7, 5], dtype=torch.int32),
        "block_table": torch.tensor([[4, 1, 2], [3, 5, -1], [1, 2, -1]], dtype=torch.int32),
        "spare": torch.tensor([[6], [7], [8]], dtype=torch.int32),
    }


def of_library_authors(scope: Scope) -> None:
    written = scope["key_pages"].sum((1, 3)) > 0
    assert written.nonzero().tolist() == [
        *([1, 2], [1, 3], [2, 0]),  # all of the first
        [5, 3],  # the one node of the second
        *([7, 0], [7, 1], [8, 0], [8, 1], [8, 2]),  # what is nobody's
    ]
    assert scope["attended"].shape == (3, 1, 3, 8)


def of_an_op(scope: Scope) -> Scope:
    reference = SimpleNamespace(my_op=lambda rows, count: rows[:, :count].clone())
    checks: Callable[..., None] = lambda rows, count: None  # noqa: E731
    return {"registry": registry, "native": native, "reference": reference, "check_my_op": checks}


def of_my_op(scope: Scope) -> None:
    registry._OPS.pop("my_op")  # other tests ask every op for a case
    assert scope["MY_OP"](torch.arange(6).reshape(2, 3), 2).tolist() == [[0, 1], [3, 4]]


def as_given(scope: Scope) -> Scope:
    return scope


def of_a_model(scope: Scope) -> Scope:
    return {**scope, "SparrowDraft": sk.SparrowDraft, "SparrowDecoder": sk.SparrowDecoder}


def with_a_decoder(scope: Scope) -> Scope:
    target, draft, processor = load_pair()
    return {**scope, "decoder": sk.SparrowDecoder(target, draft), "processor": processor}


def of_a_trace(scope: Scope) -> None:
    emitted = [token for step in scope["steps"] for token in step.emitted]
    assert emitted == scope["result"].sequences[0, -len(emitted) :].tolist()
    assert scope["page"].startswith("<!DOCTYPE html>")


# For each page with Python in it: what its reader has before the first block, and what must be true
# after the last.
RUN: dict[str, tuple[Callable[[Scope], Scope], Callable[[Scope], None]]] = {
    "README.md": (as_given, of_readme),
    "docs/adding-a-model.md": (of_a_model, lambda scope: None),  # it asserts itself
    "docs/adding-an-op.md": (of_an_op, of_my_op),
    "docs/decoder.md": (lambda scope: {}, of_decoder),
    "docs/drafts.md": (as_given, lambda scope: None),
    "docs/integrations.md": (as_given, lambda scope: None),
    "docs/kernels/paged_caches.md": (in_pages, of_pages),
    "docs/library-authors.md": (with_idle_requests, of_library_authors),
    "docs/trace.md": (with_a_decoder, of_a_trace),
}


def test_every_page_with_python_is_run() -> None:
    names = {path.relative_to(ROOT).as_posix() for path in PAGES}
    assert {name for name in names if code(name, "python")} == set(RUN)


@pytest.mark.slow
@pytest.mark.parametrize("name", RUN)
def test_blocks_run(name: str, stand_ins: Scope) -> None:
    before, after = RUN[name]
    scope = before(stand_ins)
    for block in code(name, "python"):
        # Its lines are those of the page, also in a traceback.
        program = compile("\n" * (block.line - 1) + block.code, block.path, "exec")
        exec(program, scope)
    after(scope)


def test_dialogues_are_read(tmp_path: Path) -> None:
    (block,) = code("docs/training.md", "json")
    (tmp_path / "data.jsonl").write_text(block.code, encoding="utf-8")
    write_mp4(tmp_path / "cat.mp4", render(make_clip(visual_tokens=100, seed=0)))
    read = read_dialogues(tmp_path / "data.jsonl")
    assert [len(each.media) for each in read] == [1, 0]


def test_public_names_are_in_the_reference() -> None:
    pages = (ROOT / "docs" / "reference").glob("*.md")
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    described = {line.split()[1] for line in text.splitlines() if line.startswith("::: ")}
    public = {f"sparrow_kernels.{name}" for name in sk.__all__} - {"sparrow_kernels.__version__"}
    assert public - described == set()
