"""The report in a real browser: it needs no network, hides nothing, and its filters filter."""

import shutil

import pytest
from eval_endpoint import completion, serving

from vicuna.eval.__main__ import main

playwright = pytest.importorskip("playwright.sync_api")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(shutil.which("chromium") is None, reason="Chromium is not installed"),
]


def chatbots(body):
    if body["model"] == "base":
        return completion("<script>document.title = 'taken'</script> of the of the", "length")
    return "It is cold." if "hot" in body["messages"][-1]["content"] else "It is blue."


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    (folder / "q.jsonl").write_text(
        '{"question_id": 1, "category": "opposites", "turns": ["The opposite of hot?"], "reference": ["cold"]}\n'
        '{"question_id": 2, "category": "colours", "turns": ["What colour is grass?"], "reference": ["green"]}\n'
        '{"question_id": 3, "category": "colours", "turns": ["What colour is the sky?"], "reference": ["blue"]}\n'
    )
    with serving(chatbots, {"tuned": "a", "base": "b"}) as endpoint:
        words = ["--questions", str(folder / "q.jsonl"), "--models", "tuned", "base", "--judge.kind", "reference"]
        words += ["--endpoint.base_url", endpoint.base_url, "--out", str(folder / "run"), "--resamples", "200"]
        assert main(words) == 0
    return folder / "run" / "report.html"


@pytest.fixture
def opened(report):
    with playwright.sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page()
        page.asked, page.errors = [], []
        page.on("request", lambda request: page.asked.append(request.url))
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.goto(report.as_uri())
        yield page
        browser.close()


def shown(page):
    return [each.get_attribute("data-category") for each in page.locator("details.match:visible").all()]


def test_it_loads_without_network_or_errors_and_shows_the_headline(opened, report):
    assert opened.asked == [report.as_uri()]
    assert opened.errors == []
    assert "tuned against base: win rate 83.3%" in opened.text_content("main")
    assert "reference judge" in opened.text_content("main")
    assert opened.locator("figure svg").count() == 4


def test_filters_and_search_narrow_the_questions(opened):
    assert shown(opened) == ["opposites", "colours", "colours"]
    opened.select_option("#by-category", "colours")
    assert shown(opened) == ["colours", "colours"]
    opened.select_option("#by-outcome", "tie")
    assert shown(opened) == ["colours"]
    assert opened.text_content("#shown") == "1 of 3"
    opened.select_option("#by-category", "")
    opened.select_option("#by-outcome", "")
    opened.fill("#by-text", "the sky")
    assert shown(opened) == ["colours"]


def test_a_question_opens_to_both_answers_and_the_verdicts_of_both_orders(opened):
    opened.locator("details.match").first.locator("summary").click()
    text = opened.locator("details.match").first.inner_text()
    for part in ("The opposite of hot?", "It is cold.", "it states 'cold'", "tuned first, base second → 10 : 1",
                 "base first, tuned second → 1 : 10"):  # fmt: skip
        assert part in text


def test_what_a_model_wrote_stays_text(opened):
    assert opened.title() == "tuned against base"
    assert "<script>document.title" in opened.locator("details.match").first.text_content()
