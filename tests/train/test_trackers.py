"""Trackers are told everything once, also when a run is killed and goes on."""

import importlib.util
from pathlib import Path

import pytest

from vicuna.config import to_dict
from vicuna.errors import ConfigError
from vicuna.train.config import TrackConfig, TrainConfig
from vicuna.train.metrics import HeldOut, Progress, Start, Step
from vicuna.train.trackers import check, open_tracker

SETTINGS = to_dict(TrainConfig(seed=7))
HAVE_WANDB = importlib.util.find_spec("wandb") is not None


def run(folder: Path, kind: str, done: int, until: int) -> None:
    tracker = open_tracker(TrackConfig(tracker=kind), folder, SETTINGS, done)
    told = Progress(folder, Start(done, 9, 1, "NVIDIA L4"), every=100, flops=lambda _: 1e12, memory=lambda: 10**9,
                    tracker=tracker)  # fmt: skip
    for number in range(done + 1, until + 1):
        told.add(Step(number, 1 / number, 0.5, 1e-3, 90, 60, 900, 100, 0.25))
        if number % 3 == 0:
            told.add_held_out(HeldOut(number, 2 / number, 50, 0.1))
    told.close()


def points(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {
        tag: [(event.step, pytest.approx(event.value)) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def test_tensorboard_has_each_step_once_after_a_run_was_killed_and_went_on(tmp_path):
    pytest.importorskip("tensorboard")
    run(tmp_path, "auto", 0, 7)
    run(tmp_path, "tensorboard", 4, 9)
    found = points(tmp_path / "tensorboard")
    assert found["train/loss"] == [(number, 1 / number) for number in range(1, 10)]
    assert found["held_out/loss"] == [(number, 2 / number) for number in (3, 6, 9)]
    assert found["train/target_tokens_per_second"][0] == (1, 240.0)
    assert found["train/mfu"][-1] == (9, 1e12 / 0.25 / 121e12)


def test_tensorboard_shows_the_settings_once(tmp_path):
    pytest.importorskip("tensorboard")
    run(tmp_path, "tensorboard", 0, 2)
    run(tmp_path, "tensorboard", 1, 3)
    (stored,) = (tmp_path / "tensorboard").rglob("hparams.yml")
    assert "seed: 7" in stored.read_text()
    assert "optim.lr: 2.0e-05" in stored.read_text()


def test_no_tracker_leaves_nothing_behind(tmp_path):
    run(tmp_path, "none", 0, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["held_out.jsonl", "metrics.jsonl", "starts.jsonl"]


@pytest.mark.skipif(HAVE_WANDB, reason="wandb is installed here")
def test_a_tracker_that_is_not_installed_is_one_line_with_the_command_that_installs_it():
    with pytest.raises(ConfigError, match=r"track\.tracker is wandb, which is not installed: pip install wandb"):
        check("wandb")


@pytest.mark.skipif(not HAVE_WANDB, reason="wandb is not installed")
def test_wandb_works_without_a_network_and_goes_on_with_the_same_run(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    run(tmp_path, "wandb", 0, 3)
    name = (tmp_path / "wandb.id").read_text()
    run(tmp_path, "wandb", 2, 4)
    assert (tmp_path / "wandb.id").read_text() == name
    assert len(list((tmp_path / "wandb").glob(f"offline-run-*-{name}*"))) == 2
