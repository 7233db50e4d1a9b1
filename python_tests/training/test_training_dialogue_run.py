"""A draft from a user's dialogues: what is written, what is refused, what is left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import training_run
from dialogue_cases import clip_dialogue, text_dialogue, write_clip, write_lines
from family_cases import tiny
from safetensors.torch import load_file

from sparrow_kernels import SparrowDecoder, TreeConfig, load_draft
from sparrow_kernels.drafting import SparrowDraft
from sparrow_kernels.drafting.modes import MODES
from sparrow_kernels.training import held_out
from sparrow_kernels.training.checkpoint import write_whole
from sparrow_kernels.training.data.dialogues import DataError, read_dialogues
from sparrow_kernels.training.data.encoding import Encoder
from sparrow_kernels.training.dialogue_training import DialogueTraining, TrainingSettings
from sparrow_kernels.training.history import COLUMNS
from sparrow_kernels.training.workers import Workers

SHORT: dict[str, Any] = {"steps": 2, "text_steps": 0, "held_out": 0, "passes": 2}


def trained(folder: Path, out: Path, **settings: Any) -> Path:
    if not (folder / "data.jsonl").exists():
        training_run.dialogues(folder)
    return training_run.training(folder, out, **{**SHORT, **settings}).run()


@pytest.mark.slow
def test_what_a_run_leaves(tmp_path: Path) -> None:
    out = trained(tmp_path, tmp_path / "out", steps=4, held_out=2, measure_every=2)
    target, processor = tiny("qwen2_5_vl")
    draft = load_draft(out, target)
    assert (draft.config.sees_clip, draft.config.trained_to_see) == ("nothing", "middle")
    assert draft.config.tree == {"total": 6, "depth": 5, "width": 1}
    weights = load_file(out / "model.safetensors")
    assert not [name for name in weights if "embed" in name.replace("embedding_norm", "")]
    assert not [name for name in weights if "head" in name], "the target's are not saved"
    lines = (out / "training.csv").read_text().splitlines()
    assert lines[0] == ",".join(COLUMNS)
    assert [line.split(",")[0] for line in lines[1:]] == ["2", "4"]
    assert all(float(line.split(",")[-1]) >= 1 for line in lines[1:])
    assert (out / "training.png").read_bytes().startswith(b"\x89PNG")
    card = (out / "README.md").read_text()
    assert "4 steps in" in card and "tokens a target call on held-out prompts, tree 6-5-1" in card
    assert "A sparrow draft of" in card
    facts = json.loads(card.partition("```json\n")[2].partition("```")[0])
    assert facts["sees_clip"] == "middle" and facts["batch"] == 4
    (dialogue, *_) = read_dialogues(tmp_path / "data.jsonl")
    inputs = Encoder(target, processor).prompts([dialogue])
    ours = SparrowDecoder(target, draft).generate(**inputs, max_new_tokens=9, do_sample=False)
    assert ours.sequences.equal(target.generate(**inputs, max_new_tokens=9, do_sample=False))


@pytest.mark.slow
@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "eagle3"])
def test_every_system_learns_from_dialogues(tmp_path: Path, mode: str) -> None:
    """Texts and clips in one batch; weights move, and stay finite."""
    out = trained(tmp_path, tmp_path / mode, mode=mode, sees_clip=None, batch=8)
    target, _ = tiny("qwen2_5_vl")
    draft = load_draft(out, target)
    torch.manual_seed(0)
    fresh = SparrowDraft.for_target(target, **MODES[mode].settings_for(3)).half().float()
    for name, weight in draft.named_parameters():
        assert bool(weight.isfinite().all()), name
        if name != "network.adaptor.key.bias":  # no score depends on it
            assert not torch.equal(weight, fresh.get_parameter(name)), name


def losses(out: Path) -> list[float]:
    return [float(line.split(",")[1]) for line in (out / "training.csv").read_text().split()[1:]]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_target_of_half_precision(tmp_path: Path, dtype: torch.dtype) -> None:
    """The draft's weights stay in float32; the loss is that of a target in float32, to rounding."""
    asked = {"steps": 6, "held_out": 1, "measure_every": 2}
    whole = trained(tmp_path, tmp_path / "whole", **asked)
    half = trained(tmp_path, tmp_path / "half", dtype=dtype, **asked)
    assert losses(half) == pytest.approx(losses(whole), rel=0.02)
    checkpoint = torch.load(half / "training.pt", weights_only=True)
    assert {value.dtype for value in checkpoint["draft"].values()} == {torch.float32}
    assert {each.dtype for each in load_file(half / "model.safetensors").values()} == {dtype}


@pytest.mark.gpu
def test_a_gpu_takes_the_steps_of_a_cpu(tmp_path: Path) -> None:
    asked = {"steps": 6, "held_out": 1, "measure_every": 2}
    cpu = trained(tmp_path, tmp_path / "cpu", **asked)
    workers = Workers(device=torch.device("cuda", 0))
    gpu = trained(tmp_path, tmp_path / "gpu", workers=workers, **asked)
    assert losses(gpu) == pytest.approx(losses(cpu), rel=1e-3)
    half = trained(tmp_path, tmp_path / "half", workers=workers, dtype=torch.bfloat16, **asked)
    assert losses(half) == pytest.approx(losses(cpu), rel=0.02)


def test_a_vocabulary_of_its_own(tmp_path: Path) -> None:
    """The ids that answers hold most, with the target's rows to begin with."""
    target, processor = tiny("qwen2_5_vl")
    training_run.dialogues(tmp_path)
    run = training_run.training(tmp_path, tmp_path / "out", draft_vocabulary=24, **SHORT)
    network = run.draft.network
    ids = network.draft_ids.tolist()
    said = set(Encoder(target, processor).answer_ids(read_dialogues(tmp_path / "data.jsonl")[0]))
    assert len(ids) == 24 and ids == sorted(ids) and said <= set(ids)
    rows = target.get_output_embeddings().weight[ids]
    assert torch.equal(network.head.weight.detach(), rows)
    draft = load_draft(run.run(), target)
    assert draft.draft_vocabulary == tuple(ids)
    assert not torch.equal(draft.network.head.weight, rows)


@pytest.mark.parametrize("tree", ["6-5-1", "20-6-4:marginals", "3x2x1"])
def test_the_tree_asked_for_is_the_drafts_own(tmp_path: Path, tree: str) -> None:
    out = trained(tmp_path, tmp_path / "out", tree=tree, held_out=1)
    draft = load_draft(out, tiny("qwen2_5_vl").target)
    assert TreeConfig(**draft.config.tree) == TreeConfig.parse(tree)
    assert f"on held-out prompts, tree {tree}." in (out / "README.md").read_text()


def test_a_vocabulary_larger_than_what_was_said_is_filled_up(tmp_path: Path) -> None:
    training_run.dialogues(tmp_path)
    run = training_run.training(tmp_path, tmp_path / "out", draft_vocabulary=200, **SHORT)
    assert len(set(run.draft.network.draft_ids.tolist())) == 200


class Broken:
    """Six dialogues, of which the third has a clip that cannot be read."""

    def __init__(self, folder: Path) -> None:
        write_clip(folder)
        (folder / "bad.mp4").write_bytes(b"not a video")
        lines = [text_dialogue(seed) for seed in range(4)]
        lines[2:2] = [clip_dialogue(name="bad.mp4"), clip_dialogue()]
        self.path = write_lines(folder / "data.jsonl", lines)
        self.wrong: list[DataError] = []

    def training(self, out: Path, skip: bool, **settings: Any) -> DialogueTraining:
        target, processor = tiny("qwen2_5_vl")
        return DialogueTraining(
            target,
            Encoder(target, processor),
            read_dialogues(self.path),
            out,
            TrainingSettings(**{**SHORT, "steps": 6, "batch": 2, **settings}),
            on_wrong=self.wrong.append if skip else None,
        )


def test_a_clip_that_cannot_be_read_is_left_out_once(tmp_path: Path) -> None:
    broken = Broken(tmp_path)
    broken.training(tmp_path / "out", skip=True).run()
    assert len(broken.wrong) == 1 and "data.jsonl:3: " in str(broken.wrong[0])
    assert "bad.mp4" in str(broken.wrong[0])


def test_nothing_to_learn_from_is_an_error(tmp_path: Path) -> None:
    broken = Broken(tmp_path)
    write_lines(broken.path, [clip_dialogue(name="bad.mp4"), clip_dialogue("Y")])
    with pytest.raises(ValueError, match="that a draft can learn from, got none among the 2"):
        broken.training(tmp_path / "out", skip=True).run()


def test_what_is_held_out_is_measured_as_it_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the clip out of its sight, whatever it sees in training."""
    seen = []
    real = held_out.replay

    def replay(draft: Any, *arguments: Any) -> list[int]:
        seen.append((draft.config.sees_clip, arguments[2].prompt.clip))
        return real(draft, *arguments)

    monkeypatch.setattr(held_out, "replay", replay)
    training_run.dialogues(tmp_path)
    lines = (tmp_path / "data.jsonl").read_text().splitlines()
    write_lines(tmp_path / "data.jsonl", [lines[3], *lines[:3], *lines[4:]])
    trained(tmp_path, tmp_path / "out", held_out=1)
    assert seen == [("nothing", None)]


@pytest.mark.slow
def test_a_refused_clip_leaves_what_was_learnt(tmp_path: Path) -> None:
    """Whatever steps came before are in the checkpoint, and the run goes on from there."""
    broken, out = Broken(tmp_path), tmp_path / "out"
    with pytest.raises(DataError, match=r"data.jsonl:3: .*bad.mp4"):
        broken.training(out, skip=False).run()
    done = torch.load(out / "training.pt", weights_only=True)["progress"]["step"]
    assert done < 3
    whole = broken.training(tmp_path / "whole", skip=True).run()
    resumed = broken.training(out, skip=True).run()
    kept, ours = (load_file(each / "model.safetensors") for each in (whole, resumed))
    assert all(torch.equal(value, ours[name]) for name, value in kept.items())


def test_a_checkpoint_of_another_run_or_a_damaged_one_is_refused(tmp_path: Path) -> None:
    out = trained(tmp_path, tmp_path / "out")
    with pytest.raises(ValueError, match="got one with passes 2 and not 3"):
        trained(tmp_path, out, passes=3)
    with pytest.raises(ValueError, match="got one with sees clip middle and not nothing"):
        trained(tmp_path, out, sees_clip="nothing")
    with pytest.raises(ValueError, match="with learning rate .* and not 0.5"):
        trained(tmp_path, out, learning_rate=0.5)
    with pytest.raises(ValueError, match="got one of another target, or"):
        trained(tmp_path, out, dtype=torch.bfloat16)
    data = tmp_path / "data.jsonl"
    lines = data.read_text()
    data.write_text(lines.replace("green", "grey"))
    with pytest.raises(ValueError, match="got one of other dialogues, or"):
        trained(tmp_path, out)
    data.write_text(lines)
    checkpoint = out / "training.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"training.pt must be a checkpoint, got a damaged file"):
        trained(tmp_path, out)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_leaves_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "training.pt"
    write_whole({"step": 1}, path)
    (tmp_path / "training.pt.new").symlink_to("/dev/full")
    with pytest.raises(OSError, match="training.pt cannot be written.*before is kept"):
        write_whole({"step": 2, "weights": torch.zeros(100_000)}, path)
    assert torch.load(path, weights_only=True) == {"step": 1}
    assert [each.name for each in tmp_path.iterdir()] == ["training.pt"]


def test_data_that_is_too_little_is_refused(tmp_path: Path) -> None:
    training_run.dialogues(tmp_path)
    with pytest.raises(ValueError, match="must hold more than the 11 dialogues.*--held-out 0"):
        training_run.training(tmp_path, tmp_path / "out", held_out=11)
    write_lines(tmp_path / "data.jsonl", [clip_dialogue()])
    with pytest.raises(ValueError, match="must hold a dialogue without a clip"):
        training_run.training(tmp_path, tmp_path / "out", text_steps=2, held_out=0)


def test_a_draft_of_another_target_is_refused(tmp_path: Path) -> None:
    """Both names and shapes are said."""
    out = trained(tmp_path, tmp_path / "out")
    other = tiny("qwen3_vl").target
    message = "family qwen2_5_vl, target has qwen3_vl"
    with pytest.raises(ValueError, match=message):
        SparrowDecoder(other, SparrowDraft.from_pretrained(out))
    with pytest.raises(ValueError, match="qwen2_5_vl"):
        load_draft(out, other)
