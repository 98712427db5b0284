"""The page of a run: made from its files alone, finished or not, and fit to be shown."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vicuna import manifest, page
from vicuna.config import ModelConfig, dump
from vicuna.errors import InputError, VicunaError
from vicuna.files import write_text
from vicuna.train import masks, report
from vicuna.train.charts import smooth
from vicuna.train.config import OptimConfig, TrainConfig
from vicuna.train.expense import expense
from vicuna.train.masks import Learnt, Piece, Shown
from vicuna.train.metrics import HeldOut, Progress, Row, Start, Step
from vicuna.train.trackers import Tracker

CONFIG = TrainConfig(model=ModelConfig(path="bases/llama-7b"), optim=OptimConfig(lr=1e-4))
TOTAL = 40


def go(folder: Path, done: int, until: int, device: str = "NVIDIA H200", ranks: int = 8) -> None:
    """Steps of a start of a run, with the files that stay the same."""
    write_text(folder / "config.yaml", dump(CONFIG))
    start = Start(done, TOTAL, ranks, device)
    told = Progress(folder, start, every=100, flops=lambda _: 4e14, memory=lambda: 9 * 10**10, tracker=Tracker())
    for number in range(done + 1, until + 1):
        told.add(Step(number, 2 / number**0.3, 0.5 + 2 / number, 1e-4, 1990, 1400, 1990 * 300, 2000, 0.5))
        if number % 10 == 0:
            told.add_held_out(HeldOut(number, 2.1 / number**0.3, 500, 0.2))
    told.close()


def finish(folder: Path) -> None:
    with manifest.making(folder / "model", "checkpoint", parents={"base": "ba5e" * 16, "data": "da7a" * 16}) as part:
        write_text(part / "weights", "w")


def spell_out(folder: Path) -> None:
    found = [Piece("<s>", (1,), False, True), Piece("What?", (7,), False, False), Piece(" That", (8, 9), True, False)]
    samples = [
        Shown(f"chat-{n}", "drawn", 700 if n == 3 else 4, 2, found * (120 if n == 3 else 1), []) for n in range(8)
    ]
    masks.store(folder / "data.json", Learnt(120, 9000, 6000, {"longer than 2048 tokens": 3}, 0, samples))


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A run that was killed at step 25, went on from step 20 on fewer GPUs, and ended."""
    folder = tmp_path_factory.mktemp("runs") / "my <run>"
    go(folder, 0, 25)
    go(folder, 20, TOTAL, ranks=4)
    finish(folder)
    spell_out(folder)
    report.write(folder)
    return folder


def text_of(folder: Path) -> str:
    return (folder / "report.html").read_text()


def test_the_page_of_a_run_that_was_killed_tells_how_it_learnt_how_fast_and_on_what(finished):
    text = text_of(finished)
    for part in ("Training run my &lt;run&gt;", "llama-7b learnt 56,000 target tokens on 8 × NVIDIA H200, then "
                 "4 × NVIDIA H200; finished.", "held-out loss, step 40", "longer than 2048 tokens", "MFU",
                 "ba5e" * 16, "8 samples, token by token", "stopped and went on"):  # fmt: skip
        assert part in text


def test_the_page_needs_nothing_but_itself(finished):
    text = text_of(finished)
    assert not any(mark in text for mark in ("<script", "<link", "<img", "@import", "src="))


def test_only_settings_that_differ_from_the_defaults_are_listed(finished):
    table = text_of(finished).split("<h2>Settings</h2>")[1].split("<details>")[0]
    assert "optim.lr</td>" in table
    assert "<td>0.0001</td><td>2e-05</td>" in table.replace(' class="number"', "")
    assert "optim.schedule" not in table


def test_a_page_can_be_made_while_the_run_goes_on_and_where_it_broke_off(tmp_path):
    go(tmp_path, 0, 1)
    with open(tmp_path / "metrics.jsonl", "ab") as file:
        file.write(b'{"step": 2, "lo')
    text = report.write(tmp_path).read_text()
    assert "not finished: 1 of 40 steps so far" in text
    assert "The model is not written yet." in text


def test_a_run_on_cpus_has_no_gpu_hours_and_no_cost(tmp_path):
    go(tmp_path, 0, 3, device="cpu", ranks=1)
    text = report.write(tmp_path).read_text()
    assert "1 × CPU" in text
    assert not any(word in text for word in ("GPU hours", "kWh", "MFU"))


def test_a_folder_that_is_no_run_is_one_clear_line(tmp_path):
    with pytest.raises(InputError, match=r"is not the folder of a run \(starts.jsonl is missing\)"):
        report.write(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("config.yaml", "optim: [", "config.yaml:1: not YAML"),
        ("config.yaml", "optim: {wamup: 0.1}", "config.yaml:1: there is no setting optim.wamup"),
        ("data.json", '{"samples": 3}', "data.json is not what this version writes"),
    ],
)
def test_damaged_files_of_a_run_are_one_clear_line(tmp_path, name, text, says):
    go(tmp_path, 0, 1)
    write_text(tmp_path / name, text)
    with pytest.raises(VicunaError, match=says):
        report.write(tmp_path)


def test_a_base_model_that_a_run_made_is_called_by_its_run(tmp_path):
    go(tmp_path, 0, 1)
    write_text(tmp_path / "config.yaml", dump(replace(CONFIG, model=ModelConfig(path="runs/base/model"))))
    report.write(tmp_path)
    assert "<p>base/model learnt 1,400 target tokens" in text_of(tmp_path)


def test_a_run_without_a_step_is_one_clear_line(tmp_path):
    go(tmp_path, 0, 0)
    with pytest.raises(InputError, match="has no step to report yet"):
        report.write(tmp_path)


# ---------------------------------------- what it took
ROW = Row(1, 1.0, 1.0, 1e-4, 1000, 700, 1, 1000, 10.0, 989e12 * 2, 1, 0.0)


def test_lost_steps_and_loading_are_paid_for_and_waiting_for_a_machine_is_not():
    starts = [
        Start(0, 9, 2, "NVIDIA H200", began=0.0),
        Start(1, 9, 4, "NVIDIA H200", began=9000.0, lost=3, ended=3600.0),
    ]
    rows = [replace(ROW, time=1800.0), replace(ROW, step=2, time=9000.0 + 1800.0)]
    spent = expense(rows, starts, price=2.0)
    assert spent.by_start == [3600.0, 1800.0]
    assert spent.gpu_hours == 2 * 1.0 + 4 * 0.5
    assert spent.dollars == 8.0
    assert spent.kwh == pytest.approx(4 * 0.7)
    assert spent.mfu == pytest.approx(2 * 2 / (10 * 2 + 10 * 4))
    assert spent.in_steps == pytest.approx(20 / 5400)


def test_an_unknown_gpu_has_hours_but_neither_price_nor_energy_nor_utilisation():
    spent = expense([replace(ROW, time=3600.0)], [Start(0, 1, 1, "Some Card")], price=0.0)
    assert (spent.gpu_hours, spent.dollars, spent.kwh, spent.mfu) == (1.0, None, None, None)


# ---------------------------------------- drawings
@given(st.lists(st.tuples(st.floats(-50, 50), st.integers(1, 9)), min_size=1, max_size=40), st.integers(1, 15))
def test_a_smoothed_value_is_the_weighted_mean_of_its_neighbours(points, width):
    values, weights = (np.array(each, float) for each in zip(*points))
    found = smooth(values, weights, width)
    before = width // 2
    for at in range(len(values)):
        near = slice(max(0, at - before), at - before + width)
        assert found[at] == pytest.approx(np.average(values[near], weights=weights[near]), abs=1e-9)


def test_a_drawing_takes_its_ink_from_the_page():
    def draw(width: float) -> Any:
        drawing, axes = page.new_figure(width, 2)
        axes.plot([1, 2], [3, 4], color="#4269d0")
        return drawing

    drawn = page.themed(draw, (8, 4), "a <caption>")
    assert drawn.count("<svg") == 2
    assert "var(--ink)" in drawn
    assert "#000000" not in drawn
    assert "#ffffff" not in drawn
    assert "a &lt;caption&gt;" in drawn


def test_many_steps_make_a_page_that_is_not_larger(tmp_path):
    rows = [replace(ROW, step=n, loss=2 + n % 7 / 9, time=float(n)) for n in range(1, 20_001)]
    settings = {"track": {"price": 0}, "model": {"path": "m"}, "batch": {"max_steps": 0, "epochs": 3.0},
                "optim": {"max_norm": 1.0}}  # fmt: skip
    run = report.Run(rows, [], [Start(0, 20_000, 8, "NVIDIA H200")], settings, None, None)
    assert len(report.render(run, "long")) < 1_500_000


# ---------------------------------------- in a browser
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NO_CHROMIUM = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine; scripts/test.sh installs one")


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        made = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield made
        made.close()


def opened(browser: Any, folder: Path, width: int, scheme: str) -> Any:
    made = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    made.goto((folder / "report.html").as_uri())
    return made


@pytest.mark.browser
@NO_CHROMIUM
@pytest.mark.parametrize(("width", "form"), [(1280, "wide"), (390, "narrow")])
def test_the_page_fits_its_window_and_draws_for_it(browser, finished, width, form):
    tab = opened(browser, finished, width, "light")
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    for name in ("wide", "narrow"):
        assert tab.locator(f".{name}").first.is_visible() == (name == form)


@pytest.mark.browser
@NO_CHROMIUM
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_learnt_tokens_stand_out_and_drawings_follow_the_theme(browser, finished, scheme):
    tab = opened(browser, finished, 1280, scheme)

    def style(what: str, name: str) -> str:
        return tab.locator(what).first.evaluate(f"each => getComputedStyle(each).{name}")

    assert style(".tokens b i", "backgroundColor") != style(".tokens > i", "backgroundColor")
    assert style("figure.plain svg", "fill") == style("body", "color")


@pytest.mark.browser
@NO_CHROMIUM
def test_long_samples_are_folded_and_borders_can_be_taken_away(browser, finished):
    tab = opened(browser, finished, 1280, "light")
    assert [each.is_visible() for each in tab.locator(".tokens").all()] == [True, True, True, False, True, True, False,
                                                                            False]  # fmt: skip
    tab.locator("summary", has_text="chat-3").click()
    assert tab.locator(".tokens").nth(3).is_visible()
    shadow = "each => getComputedStyle(each).boxShadow"
    assert tab.locator(".tokens i").first.evaluate(shadow) != "none"
    tab.get_by_label("borders between tokens").uncheck()
    assert tab.locator(".tokens i").first.evaluate(shadow) == "none"
