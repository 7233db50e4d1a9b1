"""`sparrow generate` of targets of any family, in any dtype, on any device, about several clips."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("av")
pytest.importorskip("transformers")
pytest.importorskip("PIL")

from family_cases import FAMILIES, draft_for, pixels, tiny  # noqa: E402
from generate_cases import one_line_error  # noqa: E402

from sparrow_kernels.cli import generate, main, question  # noqa: E402
from sparrow_kernels.ops.env import current_backend  # noqa: E402

QUESTION, NEW_TOKENS = "What happens?", 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pair of each family in FAMILY/target and FAMILY/draft, and clips of 4, 4 and 8 frames."""
    from sparrow_kernels.embedded.clips import write_mp4

    root = tmp_path_factory.mktemp("targets")
    for name in FAMILIES:
        target, processor = tiny(name)
        target.save_pretrained(root / name / "target")
        processor.save_pretrained(root / name / "target")
        draft_for(name).save_pretrained(root / name / "draft")
    for clip, (frames, seed) in {"a": (4, 1), "b": (4, 2), "long": (8, 3)}.items():
        write_mp4(root / f"{clip}.mp4", pixels(frames, seed=seed).numpy().transpose(0, 2, 3, 1))
    return root


@pytest.fixture(autouse=True)
def nothing_printed_yet(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()  # transformers' bars while saving


def words(folder: Path, name: str, clip: str, *more: str) -> list[str]:
    pair = ("--target", str(folder / name / "target"), "--draft", str(folder / name / "draft"))
    limit = ("--max-new-tokens", str(NEW_TOKENS))
    return ["generate", str(folder / f"{clip}.mp4"), QUESTION, *pair, *limit, *more]


def plain(folder: Path, name: str, clip: str) -> tuple[str, int]:
    """What transformers alone answers, and its tokens."""
    from sparrow_kernels.models.inputs import build_inputs

    target, processor = tiny(name)
    inputs = build_inputs(processor, QUESTION, [folder / f"{clip}.mp4"])
    ids = target.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
    new = ids[0, inputs["input_ids"].shape[1] :]
    return processor.tokenizer.decode(new, skip_special_tokens=True), len(new)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_target_of_any_family_answers(
    name: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(folder, name, "long", "--json")) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["text"], report["new_tokens"]) == plain(folder, name, "long")
    assert report["visual_tokens"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_each_clip_of_a_batch_has_the_answer_it_has_alone(
    name: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clips = ["a", "b" if name == "llava_onevision" else "long", "a"]
    more = ("--batch", *(str(folder / f"{clip}.mp4") for clip in clips[1:]))
    alone = [plain(folder, name, clip) for clip in clips]
    assert alone[0] != alone[1]
    assert main(words(folder, name, clips[0], *more, "--json")) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    reports = json.loads(out)
    assert [(report["text"], report["new_tokens"]) for report in reports] == alone
    assert [report["clip"] for report in reports] == [str(folder / f"{one}.mp4") for one in clips]
    assert (reports[1]["visual_tokens"] > reports[0]["visual_tokens"]) == (clips[1] == "long")
    assert all(report["seconds"] == reports[0]["seconds"] for report in reports)


def test_a_batch_has_a_line_for_each_clip(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name, long = "qwen2_5_vl", str(folder / "long.mp4")
    assert main(words(folder, name, "a", "--batch", long)) == 0
    captured = capsys.readouterr()
    expected = [f"{folder}/{clip}.mp4: {plain(folder, name, clip)[0]}" for clip in ("a", "long")]
    assert captured.out == "\n".join(expected) + "\n"
    first, second, together = captured.err.splitlines()
    assert first.startswith(f"{folder}/a.mp4: ") and f"{NEW_TOKENS} tokens in " in first
    assert second.startswith(f"{long}: ") and first.split(": ")[1] != second.split(": ")[1]
    assert together.startswith("all together: prefill ")


class TestRefusals:
    def test_a_batch_is_not_compared(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        more = ("--compare", "--batch", str(folder / "b.mp4"))
        assert main(words(folder, "qwen2_5_vl", "a", *more)) == 2
        assert "--compare must be left out with --batch (compare clip by clip)" in one_line_error(
            capsys
        )

    def test_every_clip_of_a_batch_must_be_there(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(words(folder, "qwen2_5_vl", "a", "--batch", "none.mp4")) == 1
        assert "clip none.mp4 does not exist" in one_line_error(capsys)

    def test_clips_that_a_processor_cannot_stack(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        more = ("--batch", str(folder / "long.mp4"))
        assert main(words(folder, "llava_onevision", "a", *more)) == 1
        message = one_line_error(capsys)
        assert "one number of frames for LlavaOnevisionVideoProcessor, got 4, 8" in message
        assert "(ask about them one by one)" in message

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
    def test_a_device_that_is_not_there(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(words(folder, "qwen2_5_vl", "a", "--device", "cuda:1")) == 1
        message = one_line_error(capsys)
        assert "--device must be one that torch sees, got cuda:1, and it sees no GPU" in message
        assert "--device cpu is always there" in message


@pytest.mark.slow
def test_the_dtype_asked_for_is_the_one_that_runs(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    decode = generate._decode

    def spied(asked: question.Question, *rest: Any) -> Any:
        target = asked.decoder.target
        seen.append((target.dtype, target.lm_head.weight.dtype, asked.decoder.draft.dtype))
        return decode(asked, *rest)

    monkeypatch.setattr(generate, "_decode", spied)
    for name, dtype in [
        *((name, "bfloat16") for name in FAMILIES),
        ("qwen2_5_vl", "float16"),
        ("qwen2_5_vl", "float32"),
        ("qwen2_5_vl", "auto"),
    ]:
        assert main(words(folder, name, "a", "--dtype", dtype, "--device", "cpu", "--json")) == 0
        assert json.loads(capsys.readouterr().out)["new_tokens"] > 1
        expected = getattr(torch, dtype.replace("auto", "float32"))
        assert seen.pop() == (expected,) * 3


def test_auto_is_as_saved_on_a_gpu_but_for_the_embedded_target() -> None:
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    assert question.dtype_of("auto", False, gpu) == "auto"
    assert question.dtype_of("auto", True, gpu) == "float32"
    assert question.dtype_of("auto", False, cpu) == "float32"
    assert question.dtype_of("float16", True, cpu) == "float16"


@pytest.mark.parametrize("seen, auto", [(0, "cpu"), (2, "cuda")])
def test_devices(seen: int, auto: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: seen > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: seen)
    assert question.device_of("auto") == torch.device(auto)
    assert question.device_of("cpu") == torch.device("cpu")
    for asked in ("cuda", "cuda:1"):
        if seen:
            assert question.device_of(asked) == torch.device(asked)
    with pytest.raises(ValueError, match=f"got cuda:2, and it sees {seen or 'no GPU'}"):
        question.device_of("cuda:2")


def test_attn_is_the_backend_of_the_command_alone(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    decode = generate._decode

    def spied(*arguments: Any) -> Any:
        seen.append(current_backend())
        return decode(*arguments)

    monkeypatch.setattr(generate, "_decode", spied)
    before, texts = current_backend(), set()
    for name in ("reference", "torch", "native", "auto"):
        assert main(words(folder, "qwen2_5_vl", "a", "--attn", name)) == 0
        texts.add(capsys.readouterr().out)
        assert current_backend() == before
    assert seen == ["reference", "torch", "native", "auto"] and len(texts) == 1


def test_a_target_without_a_draft_is_no_riddle(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = ["--target", str(folder / "qwen3_vl" / "target")]
    assert main(["generate", str(folder / "a.mp4"), QUESTION, *target]) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert "draft must be named for" in said and "target has qwen3_vl" in said
