"""What a run leaves of its steps: the same rows whether it was killed or not, and lines that people read."""

import dataclasses
import tempfile
import time
from pathlib import Path

import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vicuna.errors import InputError
from vicuna.train.metrics import (
    HeldOut,
    Progress,
    Start,
    Step,
    peak_memory,
    read_held_out,
    read_starts,
    read_steps,
)
from vicuna.train.trackers import Tracker

TOTAL = 12


def step(number: int) -> Step:
    return Step(number, 1 / number, 0.1 + 1 / 3 / number, 1e-3, 900, 600, 900 * 30, 1000, 0.5)


def progress(folder: Path, done: int = 0, **changes) -> Progress:
    start = Start(done, TOTAL, ranks=changes.pop("ranks", 1), device=changes.pop("device", "cpu"))
    parts = {"every": 4, "flops": lambda each: 6e9 * each.tokens, "memory": lambda: 2_500_000_000, **changes}
    return Progress(folder, start, **{"tracker": Tracker(), **parts})


def run(folder: Path, done: int, until: int) -> None:
    """The steps after `done`, with a held-out loss after every third."""
    told = progress(folder, done)
    for number in range(done + 1, until + 1):
        told.add(step(number))
        if number % 3 == 0:
            told.add_held_out(HeldOut(number, 2 / number, 50, 0.1))
    told.close()


def kept(folder: Path) -> tuple[list[tuple[int, float, float]], list[tuple[int, float]]]:
    steps = [(row.step, row.loss, row.grad_norm) for row in read_steps(folder / "metrics.jsonl")]
    return steps, [(row.step, row.loss) for row in read_held_out(folder / "held_out.jsonl")]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, TOTAL), st.integers(0, TOTAL)), max_size=4), st.booleans())
def test_a_run_that_was_killed_anywhere_leaves_the_rows_of_one_that_was_not(stops, torn):
    with tempfile.TemporaryDirectory() as name:
        whole, broken = Path(name, "whole"), Path(name, "broken")
        run(whole, 0, TOTAL)
        saved = 0
        for saves, killed in (sorted(each) for each in stops):
            killed = max(killed, saved)
            run(broken, saved, killed)
            saved = min(max(saves, saved), killed)
            if torn:
                with open(broken / "metrics.jsonl", "ab") as file:
                    file.write(b'{"step": 3, "loss": 0.')
        run(broken, saved, TOTAL)
        assert kept(broken) == kept(whole)


def test_every_start_of_a_run_says_where_it_went_on_and_what_was_lost(tmp_path):
    began = time.time()
    run(tmp_path, 0, 7)
    run(tmp_path, 5, TOTAL)
    first, second = read_starts(tmp_path / "starts.jsonl")
    assert (first.done, first.lost, first.ended) == (0, 0, 0.0)
    assert (second.done, second.lost, second.total) == (5, 2, TOTAL)
    assert first.began < began < second.ended <= second.began < time.time()


def test_a_line_says_loss_speed_fill_utilisation_memory_and_time_left(tmp_path, capsys):
    told = progress(tmp_path, device="NVIDIA H200", ranks=2)
    for number in range(1, 5):
        told.add(dataclasses.replace(step(number), loss=0.5))
    told.close()
    (line,) = capsys.readouterr().err.splitlines()
    mfu = 6e9 * 900 / 0.5 / (2 * 989e12)
    for part in ("step 4/12", "loss 0.5000", "lr 1.00e-03", "1,200 target tokens/s", "1,800 tokens/s", "fill 90.0%",
                 f"MFU {mfu:.1%}", "2.3 GiB", "left"):  # fmt: skip
        assert part in line


def test_the_loss_of_a_line_is_the_mean_over_target_tokens(tmp_path, capsys):
    told = progress(tmp_path, every=2)
    told.add(dataclasses.replace(step(1), loss=1.0, targets=100))
    told.add(dataclasses.replace(step(2), loss=2.0, targets=300))
    told.close()
    assert "loss 1.7500" in capsys.readouterr().err


def test_a_device_whose_peak_is_not_known_has_no_utilisation(tmp_path, capsys):
    run(tmp_path, 0, 4)
    assert "MFU" not in capsys.readouterr().err


def test_a_held_out_loss_is_shown_when_it_is_taken(tmp_path, capsys):
    progress(tmp_path).add_held_out(HeldOut(3, 0.75, 1234, 2.0))
    assert capsys.readouterr().err == "step 3/12  held-out loss 0.7500  1,234 target tokens in 2.0 s\n"


def test_rows_of_another_version_are_one_clear_line(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    with pytest.raises(InputError, match=r"metrics.jsonl:1: not a row that this version writes"):
        progress(tmp_path)


def test_memory_on_a_cpu_is_the_most_that_the_process_held():
    assert peak_memory(torch.device("cpu")) >= psutil.Process().memory_info().rss * 0.99


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_memory_on_a_gpu_is_counted_anew_for_each_row():
    device = torch.device("cuda")
    peak_memory(device)
    held = torch.zeros(2**26, dtype=torch.uint8, device=device)
    assert peak_memory(device) >= 2**26
    before = torch.cuda.memory_allocated(device)
    del held
    peak_memory(device)
    assert peak_memory(device) < before
