"""The chat page in a real browser, in front of a real controller and scripted workers."""

import shutil
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from serve_stack import Command, Site, free_port, get, site, until

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine; scripts/test.sh installs one"),
]
SCRIPT = """
pace: 0.01
rules:
  - match: slow
    answer: "one two three four five six seven eight nine ten "
    repeat: 60
    pace: 0.05
  - match: break
    answer: this part is shown before it breaks
    fail: error
    after: 4
    pace: 0.05
  - match: fail
    fail: error
  - match: what was said
    answer: "{chat}"
  - match: table
    answer: "**bold** `code`\\n\\n| a | b |\\n|---|---|\\n| 1 | 2 |"
  - match: wide
    answer: "```python\n# WIDE\n```"
  - match: "\\n    kept"
    answer: the indentation is kept
  - answer: "you said: {last}"
""".replace("WIDE", "word " * 60)
playwright.expect.set_options(timeout=20_000)
BOX = "#question textarea"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, str]]:
    with site(tmp_path_factory.mktemp("site"), "--limits.gap", "0.3", "--limits.lease", "2.5") as made:
        made.worker("echo", SCRIPT)
        port = free_port()
        page = f"http://127.0.0.1:{port}"
        web: Command = made.start("web", "--api", made.api, "--port", str(port), "--title", "A <page>")
        until(lambda: get(f"{page}/config") or web.process.poll() is not None, f"the page\n{web.output()}")
        yield made, page


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        made = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield made
        made.close()


@pytest.fixture
def page(browser: Any, stack: tuple[Site, str]) -> Iterator[Any]:
    made = browser.new_page(viewport={"width": 1100, "height": 850})
    made.set_default_timeout(20_000)
    made.goto(stack[1])
    playwright.expect(made.locator("#model input")).to_have_value("echo", timeout=20_000)
    yield made
    made.close()


def ask(page: Any, text: str) -> None:
    page.fill(BOX, text)
    page.press(BOX, "Enter")


def bot(page: Any) -> Any:
    return page.locator("#chat .bot.message")


def user(page: Any) -> Any:
    return page.locator("#chat .user.message")


def idle(page: Any) -> None:
    playwright.expect(page.locator('[data-testid="submit-button"]')).to_be_visible()


def test_a_question_is_answered_and_the_small_print_says_by_whom(page: Any, stack: tuple[Site, str]) -> None:
    ask(page, "hello <b>there</b>")
    playwright.expect(bot(page).last).to_contain_text("you said: hello <b>there</b>")
    idle(page)
    playwright.expect(page.locator(BOX)).to_have_value("")
    small = page.locator("#caption")
    playwright.expect(small).to_contain_text(stack[0].fleet()["workers"][0]["id"])
    playwright.expect(small).to_contain_text("req-")
    playwright.expect(page.locator("#heading h1")).to_have_text("A <page>")


def test_the_answer_grows_and_stop_ends_it_at_the_worker(page: Any, stack: tuple[Site, str]) -> None:
    ask(page, "slow")
    playwright.expect(bot(page).last).to_contain_text("one two")
    assert stack[0].fleet()["in_flight"] == 1
    page.click('[data-testid="stop-button"]')
    idle(page)
    playwright.expect(page.locator("#caption")).to_contain_text("stopped")
    until(lambda: stack[0].fleet()["in_flight"] == 0, "the slot to be free")
    until(lambda: stack[0].fleet()["workers"][0]["load"]["running"] == 0, "the engine to stop")
    assert bot(page).last.inner_text().startswith("one two")
    ask(page, "again")
    playwright.expect(bot(page).last).to_contain_text("you said: again")


def test_a_visitor_who_leaves_stops_the_worker(page: Any, stack: tuple[Site, str]) -> None:
    ask(page, "slow")
    playwright.expect(bot(page).last).to_contain_text("one two")
    page.goto("about:blank")
    until(lambda: stack[0].fleet()["in_flight"] == 0, "the slot to be free")


def test_what_went_wrong_is_a_note_with_cause_and_request_that_the_model_never_sees(page: Any) -> None:
    ask(page, "please break")
    note = page.locator("#chat .thought-group")
    for part in ("The answer broke off", "the engine fails here", "req-"):
        playwright.expect(note).to_contain_text(part)
    playwright.expect(bot(page).first).to_contain_text("this part is shown")
    idle(page)
    ask(page, "please fail")
    playwright.expect(note).to_have_count(2)
    idle(page)
    ask(page, "what was said?")
    sent = "user: please break / assistant: this part is shown / user: what was said?"
    playwright.expect(bot(page).last).to_have_text(sent)


def test_retry_edit_undo_and_clear(page: Any) -> None:
    ask(page, "first")
    playwright.expect(bot(page).last).to_contain_text("you said: first")
    idle(page)
    page.get_by_label("Retry").last.click()
    playwright.expect(bot(page)).to_have_count(1)
    playwright.expect(bot(page).last).to_contain_text("you said: first")
    idle(page)
    page.get_by_label("Edit").last.click()
    page.locator("#chat textarea").fill("a second <i>")
    page.get_by_label("Submit").last.click()
    playwright.expect(bot(page).last).to_contain_text("you said: a second <i>")
    playwright.expect(user(page)).to_have_count(1)
    idle(page)
    page.get_by_label("Undo").last.click()
    playwright.expect(page.locator(BOX)).to_have_value("a second <i>")
    playwright.expect(bot(page)).to_have_count(0)
    ask(page, "third")
    playwright.expect(bot(page).last).to_contain_text("you said: third")
    idle(page)
    page.get_by_label("Clear").last.click()
    playwright.expect(bot(page)).to_have_count(0)


def test_a_page_that_is_cleared_while_it_is_answered_stays_clear(page: Any, stack: tuple[Site, str]) -> None:
    ask(page, "slow")
    playwright.expect(bot(page).last).to_contain_text("one two")
    page.get_by_label("Clear").last.click()
    until(lambda: stack[0].fleet()["in_flight"] == 0, "the slot to be free")
    idle(page)
    playwright.expect(page.locator("#chat .example").first).to_be_visible()
    ask(page, "anew")
    playwright.expect(bot(page).last).to_contain_text("you said: anew")
    playwright.expect(user(page)).to_have_count(1)


def test_indentation_survives_the_way_to_the_page_and_back(page: Any) -> None:
    ask(page, "one\n    kept")
    playwright.expect(bot(page).last).to_contain_text("the indentation is kept")
    idle(page)
    first = page.locator("#caption").inner_text()
    page.get_by_label("Retry").last.click()
    playwright.expect(page.locator("#caption")).to_contain_text("req-")
    playwright.expect(page.locator("#caption")).not_to_have_text(first)
    playwright.expect(bot(page).last).to_contain_text("the indentation is kept")


def test_an_example_is_asked_with_a_click(page: Any) -> None:
    page.locator("#chat .example").first.click()
    playwright.expect(bot(page).last).to_contain_text("you said: What is your name?")


def test_markdown_is_shown_as_such_and_nothing_comes_from_elsewhere(browser: Any, stack: tuple[Site, str]) -> None:
    page = browser.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(stack[1])
    playwright.expect(page.locator("#model input")).to_have_value("echo", timeout=20_000)
    ask(page, "table")
    playwright.expect(bot(page).last.locator("table td").first).to_have_text("1")
    playwright.expect(bot(page).last.locator("strong")).to_have_text("bold")
    page.close()
    assert [url for url in asked if not url.startswith((stack[1], "data:", "blob:"))] == []


def test_answers_cannot_load_anything_from_elsewhere_nor_leave_their_place(page: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        place = f"http://127.0.0.1:{elsewhere.getsockname()[1]}"
        cover = f'<div style="position:fixed;inset:0;background:url({place}/c)">x</div><script>window.ran=1</script>'
        ask(page, f"![p]({place}/a.png) <img src={place}/b.png> {cover} [go](javascript:window.ran=2) end")
        playwright.expect(bot(page).last).to_contain_text("window.ran=1")
        idle(page)
        playwright.expect(bot(page).last.locator("img")).to_have_count(1)  # Markdown's own; it stays empty
        assert page.locator("#chat .message [style*=fixed]").count() == 0
        for link in page.locator("#chat .message a").all():
            assert "javascript:" not in (link.get_attribute("href") or "")
        assert page.evaluate("window.ran") is None
        ask(page, "still here")
        playwright.expect(bot(page).last).to_contain_text("you said: still here")
        elsewhere.settimeout(0)
        with pytest.raises(BlockingIOError):
            elsewhere.accept()


@pytest.mark.parametrize(("width", "height"), [(390, 844), (360, 640), (1280, 720)])
def test_everything_fits_the_screen(browser: Any, stack: tuple[Site, str], width: int, height: int) -> None:
    page = browser.new_page(viewport={"width": width, "height": height})
    page.goto(stack[1])
    playwright.expect(page.locator("#served")).to_contain_text("echo", timeout=20_000)
    for part in ("#heading h1", "#model input", "#chat .example >> nth=0", BOX):
        playwright.expect(page.locator(part)).to_be_in_viewport()
    ask(page, "wide")
    playwright.expect(bot(page).last).to_contain_text("word word")
    idle(page)
    playwright.expect(page.locator(BOX)).to_be_in_viewport()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert bot(page).last.bounding_box()["width"] < width
    page.close()


def test_models_that_come_and_go_are_seen_without_a_reload(page: Any, stack: tuple[Site, str]) -> None:
    made, _ = stack
    worker = made.worker("second", "rules: [{answer: I am second}]")
    playwright.expect(page.locator("#served")).to_contain_text("2 models: echo, second")
    page.locator("#model input").click()
    page.get_by_role("option", name="second").click()
    ask(page, "who are you?")
    playwright.expect(bot(page).last).to_contain_text("I am second")
    idle(page)
    worker.end()
    playwright.expect(page.locator("#served")).to_contain_text("1 model: echo")
    playwright.expect(page.locator("#model input")).to_have_value("second (not available)")
    ask(page, "are you there?")
    playwright.expect(page.locator("#chat .thought-group")).to_contain_text("not available")
