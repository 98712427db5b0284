"""The chat page as Gradio blocks: its layout, and which event does what."""

from collections.abc import AsyncGenerator
from typing import Any

import gradio as gr

from vicuna.serve.config import WebConfig
from vicuna.serve.web import history, look, markup
from vicuna.serve.web.client import Service
from vicuna.serve.web.talk import Talk, View

REFRESH = 3.0
"""Seconds between two looks at which models are served."""
MOST_TOKENS = 4096
Update = tuple[Any, Any, Any]


class Page:
    """The handlers of the page's events. Gradio fills parameters of type gr.Request and gr.EventData by itself."""

    def __init__(self, service: Service) -> None:
        self._talk = Talk(service)

    async def models(self, chosen: str | None, known: list[str] | None) -> tuple[Any, Any, Any]:
        """Bring the model picker up to date; nothing is sent to the page when nothing changed."""
        models, problem = await self._talk.service.models()
        if models == known:
            return gr.skip(), gr.skip(), gr.skip()
        choices = [(name, name) for name in models]
        if chosen and chosen not in models:  # a visitor's choice stays in sight while its workers are away
            choices.append((f"{chosen} (not available)", chosen))
        value = chosen or (models[0] if models else None)
        return gr.Dropdown(choices=choices, value=value), models, look.served(models, problem.title if problem else "")

    async def ask(self, text: str, shown: Any, request: gr.Request, *settings: Any) -> AsyncGenerator[Update, None]:
        """Answer what was typed."""
        if text.strip():
            async for update in self._answer(request, [*history.from_page(shown), history.user(text)], *settings):
                yield update

    async def example(
        self, shown: Any, event: gr.SelectData, request: gr.Request, *settings: Any
    ) -> AsyncGenerator[Update, None]:
        """Ask one of the questions that the empty page offers."""
        async for update in self._answer(request, [history.user(event.value["text"])], *settings):
            yield update

    async def retry(
        self, shown: Any, event: gr.RetryData, request: gr.Request, *settings: Any
    ) -> AsyncGenerator[Update, None]:
        """Answer the last question once more."""
        question = history.up_to_question(history.from_page(shown), _index(event))
        async for update in self._answer(request, question, *settings):
            yield update

    async def edit(
        self, shown: Any, event: gr.EditData, request: gr.Request, *settings: Any
    ) -> AsyncGenerator[Update, None]:
        """Answer a question that was changed; what came after it is dropped."""
        before = history.from_page(shown)[: _index(event)]
        async for update in self._answer(request, [*before, history.user(markup.written(str(event.value)))], *settings):
            yield update

    async def undo(self, shown: Any, event: gr.UndoData, request: gr.Request) -> Update:
        """Take the last question back into the box."""
        await self.leave(request)
        question = history.up_to_question(history.from_page(shown), _index(event))
        text = history.text_of(question[-1]) if question else ""
        return history.to_page(question[:-1]), _box(running=False, value=text), look.caption([])

    async def clear(self, request: gr.Request) -> Update:
        """Begin anew, also while an answer is being written."""
        await self.leave(request)
        return [], _box(running=False), look.caption([])

    async def stop(self, request: gr.Request) -> None:
        """The visitor has read enough of the answer."""
        self._talk.stop(str(request.session_hash))

    async def leave(self, request: gr.Request) -> None:
        """The visitor closed the page, or gave the answer up."""
        await self._talk.drop(str(request.session_hash))

    async def _answer(
        self,
        request: gr.Request,
        question: history.Shown,
        model: str | None,
        system: str,
        temperature: float,
        top_p: float,
        max_tokens: float,
    ) -> AsyncGenerator[Update, None]:
        sampling = {"temperature": temperature, "top_p": top_p, "max_tokens": int(max_tokens)}
        first = running = True
        async for view in self._talk.answer(str(request.session_hash), question, model, system, sampling):
            yield _update(view, first)
            first, running = False, view.running
        if running:  # it was dropped; without this, Gradio would show the last update once more
            yield gr.skip(), gr.skip(), gr.skip()


def _update(view: View, first: bool) -> Update:
    shown = history.to_page(view.shown)
    if first:
        return shown, _box(running=True, value=""), look.caption([])
    if view.running:
        return shown, gr.skip(), gr.skip()
    return shown, _box(running=False), look.caption(view.small_print)


def _box(running: bool, **more: Any) -> Any:
    """The question's box, with the button that fits."""
    return gr.Textbox(submit_btn=not running, stop_btn=running, **more)


def _index(event: Any) -> int:
    index = event.index
    return int(index[0] if isinstance(index, list | tuple) else index)


def build(config: WebConfig, key: str) -> Any:
    """The page.

    Args:
        config: its settings.
        key: API key for the service; may be empty.
    """
    page = Page(Service(config.api, key))
    with gr.Blocks(title=config.title, analytics_enabled=False, fill_height=True) as blocks:
        model, served = _top(config)
        chat = _chat(config)
        caption = gr.HTML(look.caption([]), elem_id="small-print", padding=False)
        box = _question()
        settings = _settings(config)
        known = gr.State(None)
        inputs, outputs = [model, *settings], [chat, box, caption]
        quiet = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": config.sessions}
        box.submit(page.ask, [box, chat, *inputs], outputs, **quiet)
        chat.example_select(page.example, [chat, *inputs], outputs, **quiet)
        chat.retry(page.retry, [chat, *inputs], outputs, **quiet)
        chat.edit(page.edit, [chat, *inputs], outputs, **quiet)
        chat.undo(page.undo, [chat], outputs, **quiet)
        chat.clear(page.clear, None, outputs, **quiet)
        box.stop(page.stop, queue=False, api_visibility="private", show_progress="hidden")
        blocks.unload(page.leave)
        for event in (blocks.load, gr.Timer(REFRESH).tick):
            event(page.models, [model, known], [model, known, served], **(quiet | {"concurrency_limit": None}))
    return blocks.queue(default_concurrency_limit=config.sessions, api_open=False)


def _top(config: WebConfig) -> tuple[Any, Any]:
    """Heading and model picker; returns the picker and the line under it."""
    with gr.Row(elem_id="top", equal_height=False):
        gr.HTML(look.heading(config.title, config.about), padding=False)
        with gr.Column(scale=0, min_width=250, elem_id="picker"):
            model = gr.Dropdown([], label="Model", elem_id="model", interactive=True)
            return model, gr.HTML(look.served([], "looking for models"), padding=False)


def _question() -> Any:
    return gr.Textbox(
        elem_id="question",
        placeholder="Ask a question",
        show_label=False,
        label="Question",
        autofocus=True,
        container=False,
        max_lines=8,
        submit_btn=True,
    )


def _chat(config: WebConfig) -> Any:
    return gr.Chatbot(
        elem_id="chat",
        show_label=False,
        scale=1,
        height="60vh",
        min_height=260,
        buttons=["copy", "copy_all"],
        feedback_options=None,
        placeholder=look.placeholder(config.title),
        examples=[{"text": text} for text in config.examples],
        editable="user",
        group_consecutive_messages=False,
        latex_delimiters=[
            {"left": "$$", "right": "$$", "display": True},
            {"left": "\\(", "right": "\\)", "display": False},
            {"left": "\\[", "right": "\\]", "display": True},
        ],
    )


def _settings(config: WebConfig) -> list[Any]:
    sampling = config.sampling
    with gr.Accordion("Settings", open=False, elem_id="settings"):
        system = gr.Textbox(config.system, label="System prompt", lines=2, placeholder="Empty: the model's own")
        with gr.Row():
            temperature = gr.Slider(0, 2, sampling.temperature, step=0.05, label="Temperature")
            top_p = gr.Slider(0.05, 1, sampling.top_p, step=0.05, label="Top p")
            max_tokens = gr.Slider(1, MOST_TOKENS, sampling.max_tokens, step=1, label="Most tokens")
    return [system, temperature, top_p, max_tokens]
