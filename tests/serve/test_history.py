"""What the page sends to the model of what it shows."""

from vicuna.serve.web import history
from vicuna.serve.web.client import Problem

NOTE = history.note(Problem("It failed", "because", "req-1"))


def blocks(text: str) -> list[dict[str, str]]:
    """Content as Gradio hands it back."""
    return [{"type": "text", "text": text}]


def test_gradio_blocks_become_plain_text() -> None:
    shown = [{"role": "user", "content": blocks("hi"), "metadata": None, "options": None}]
    assert history.for_model(shown, "") == [{"role": "user", "content": "hi"}]
    assert history.from_page(shown) == [{"role": "user", "content": "hi"}]


def test_what_the_page_shows_comes_back_as_it_was_indentation_tags_and_notes() -> None:
    shown = [history.user("what is <b>?"), history.assistant("  x:\n    y\n```\n<b>\n```"), NOTE]
    assert history.from_page(history.to_page(shown)) == shown
    assert history.text_of(history.to_page(shown)[0]) == "what is &lt;b>?"


def test_notes_and_the_questions_they_answer_are_not_sent() -> None:
    shown = [history.user("a"), NOTE, history.user("b"), history.assistant("B"), history.user("c")]
    assert [message["content"] for message in history.for_model(shown, "be kind")] == ["be kind", "b", "B", "c"]


def test_the_part_of_an_answer_that_was_shown_before_a_note_is_sent() -> None:
    shown = [history.user("a"), history.assistant("A part"), NOTE, history.user("b")]
    assert [message["content"] for message in history.for_model(shown, " ")] == ["a", "A part", "b"]


def test_the_question_behind_a_note_is_found_again() -> None:
    shown = [history.user("a"), history.assistant("A"), history.user("b"), history.assistant("B part"), NOTE]
    assert history.up_to_question(shown, 4) == shown[:3]
    assert history.up_to_question(shown, 0) == shown[:1]
    assert history.up_to_question([], -1) == []
    assert "req-1" in NOTE["content"]
