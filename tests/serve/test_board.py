"""The page about the fleet in a real browser, in front of a real controller."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from serve_stack import Site, site, until
from serve_tiny import checkpoint

from vicuna.serve.watch import board

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
HOSTILE = "<img src=x onerror=document.title='taken'>"
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine; scripts/test.sh installs one"),
]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with site(tmp_path_factory.mktemp("site"), "--limits.lease", "2.5") as made:
        made.worker("echo")
        yield made


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        made = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield made
        made.close()


@pytest.fixture
def page(browser: Any, stack: Site) -> Iterator[Any]:
    made = browser.new_page(viewport={"width": 390, "height": 844})
    made.set_default_timeout(20_000)
    errors: list[str] = []
    made.on("pageerror", lambda error: errors.append(str(error)))
    made.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    made.goto(f"{stack.api}/fleet")
    yield made
    made.close()
    assert [each for each in errors if "ERR_" not in each and "status of 401" not in each] == []


def rows(page: Any, table: str) -> Any:
    return page.locator(f"#{table} tbody tr")


def expect(thing: Any) -> Any:
    return playwright.expect(thing)


def test_the_page_shows_who_serves_what(page: Any, stack: Site) -> None:
    worker = stack.fleet()["workers"][0]
    row = rows(page, "workers").filter(has_text=worker["id"])
    expect(row).to_contain_text("live")
    expect(row).to_contain_text(worker["address"])
    expect(row).to_contain_text("scripted")
    expect(row).to_contain_text(worker["models"][0]["checkpoint_hash"][:8])
    expect(row).to_contain_text(f"0 / {worker['capacity']}")
    expect(rows(page, "models").filter(has_text="echo")).to_contain_text("1 live of 1")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_the_page_and_the_metrics_show_how_full_the_engine_and_its_cache_are(browser: Any, tmp_path: Any) -> None:
    model = ("--model.path", str(checkpoint(tmp_path / "tiny")), "--model.template", "vicuna_v1.1")
    with site(tmp_path / "site") as made:
        worker = made.join(*model, "--engine.slots", "3", "--names", "tiny")
        question = {"model": "tiny", "max_tokens": 8, "messages": [{"role": "user", "content": "Hello!"}]}
        for _ in range(2):
            request = urllib.request.Request(
                f"{made.api}/v1/chat/completions", json.dumps(question).encode(), {"content-type": "application/json"}
            )
            urllib.request.urlopen(request, timeout=60).close()

        def at_rest() -> Any:
            load = made.row(worker)["load"]
            return load if load.get("prefix_found") and not load["batch"] else None

        load = until(at_rest, "a heartbeat after the second answer")
        assert 0 < load["prefix_found"] < load["prefix_looked_up"]
        assert 0 < load["cache_kept"] < load["cache_room"]
        page = browser.new_page(viewport={"width": 390, "height": 844})
        page.set_default_timeout(20_000)
        page.goto(f"{made.api}/fleet")
        engine = rows(page, "workers").first.locator("td").nth(3)
        expect(engine).to_contain_text("batch 0, waiting 0")
        share = round(100 * load["cache_kept"] / load["cache_room"])
        expect(engine).to_contain_text(f"cache 0% in use, {share}% kept")
        found = round(100 * load["prefix_found"] / load["prefix_looked_up"])
        expect(engine).to_contain_text(f"prompts {found}% from the cache")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        page.close()
        with urllib.request.urlopen(f"{made.row(worker)['address']}/metrics", timeout=20) as reply:
            metrics = reply.read().decode()
        counted = dict(line.rsplit(" ", 1) for line in metrics.splitlines() if not line.startswith("#"))
        assert float(counted["vicuna_engine_prefix_found_tokens_total"]) == load["prefix_found"]
        assert float(counted['vicuna_engine_cache_tokens{state="kept"}']) == load["cache_kept"]
        assert float(counted["vicuna_engine_step_seconds_count"]) >= 16


def test_a_hostile_name_stays_text(page: Any, stack: Site) -> None:
    stack.worker(HOSTILE)
    expect(rows(page, "models").filter(has_text="onerror")).to_contain_text(HOSTILE)
    expect(rows(page, "workers").filter(has_text="onerror")).to_contain_text(HOSTILE)
    assert page.locator("#board img").count() == 0
    assert page.title() == "Fleet"


def test_a_worker_that_dies_is_shown_as_gone(page: Any, stack: Site) -> None:
    doomed = stack.worker("doomed")
    row = rows(page, "workers").filter(has_text="doomed")
    expect(row).to_contain_text("live")
    doomed.signal(9)
    expect(row).to_contain_text("gone")
    expect(rows(page, "models").filter(has_text="doomed")).to_have_count(0)


def test_an_empty_fleet_says_how_a_worker_joins(browser: Any, tmp_path: Any) -> None:
    with site(tmp_path) as made:
        page = browser.new_page()
        page.set_default_timeout(20_000)
        page.goto(f"{made.api}/fleet")
        expect(page.locator("#none")).to_contain_text(f"--controllers {made.api}")
        expect(page.locator("#workers")).to_be_hidden()
        made.worker("first")
        made.worker("second")
        expect(rows(page, "workers").nth(1)).to_be_visible()
        expect(page.locator("#none")).to_be_hidden()
        page.close()


def test_workers_in_trouble_stand_first(page: Any, stack: Site) -> None:
    stack.worker("well")
    doomed = stack.worker("stopped")
    expect(rows(page, "workers").first).not_to_contain_text("stopped")
    doomed.signal(9)
    expect(rows(page, "workers").filter(has_text="stopped")).to_contain_text("gone")
    place = "[...document.querySelectorAll('#workers tbody tr .state')].map((each) => each.textContent)"
    states = page.evaluate(place)
    assert states == sorted(states, key=lambda state: state == "live")


def test_a_controller_that_stops_is_said_and_the_page_finds_it_again(browser: Any, tmp_path: Any) -> None:
    with site(tmp_path) as made:
        made.worker("echo")
        page = browser.new_page()
        page.set_default_timeout(20_000)
        page.goto(f"{made.api}/fleet")
        expect(page.locator("#said")).to_contain_text("As this controller sees it")
        made.commands[0].signal(9)
        expect(page.locator("#said")).to_contain_text("does not answer")
        expect(rows(page, "workers").first).to_be_visible()
        made.controller()
        expect(page.locator("#said")).to_contain_text("As this controller sees it")
        page.close()


def test_with_api_keys_the_page_asks_for_one(browser: Any, tmp_path: Any) -> None:
    keys = tmp_path / "keys.jsonl"
    words = [sys.executable, "-m", "vicuna.serve", "key", "add", "operator", "--file", str(keys), "--scopes", "fleet"]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    key = next(word for word in said.split() if word.startswith("vk-"))
    made = Site(tmp_path / "site")
    try:
        controller = made.start("controller", "--port", str(made.port), "--access.keys", str(keys))
        until(lambda: "controller: http" in controller.output(), "the controller")
        page = browser.new_page()
        page.set_default_timeout(20_000)
        page.goto(f"{made.api}/fleet")
        expect(page.locator("#ask")).to_be_visible()
        expect(page.locator("#board")).to_be_hidden()
        page.fill("#key", key)
        page.press("#key", "Enter")
        expect(page.locator("#board")).to_be_visible()
        expect(page.locator("#ask")).to_be_hidden()
        page.close()
    finally:
        made.end()


def test_the_page_may_run_its_own_script_and_no_other() -> None:
    text = board.page().decode()
    assert not re.search(r"""(src|href)=["']?https?:""", text)
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert len(scripts) == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in board.policy()
    assert "unsafe" not in board.policy()
