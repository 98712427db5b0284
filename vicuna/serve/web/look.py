"""How the page looks. Everything comes from this process: no fonts, scripts or pictures from elsewhere."""

from html import escape
from typing import Any

SANS = ("ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "Noto Sans Mono", "monospace")

CSS = """
gradio-app, .gradio-container, .gradio-container .main, .gradio-container .wrap, .gradio-container .contain {
    min-width: 0; }
.gradio-container { max-width: 60rem !important; width: 100%; height: 100dvh; margin: 0 auto !important;
    --vicuna-quiet: #57534e; --vicuna-note: #b45309; --vicuna-line: #d6d3d1;
    --vicuna-keyword: #1d4ed8; --vicuna-name: #9f1239; }
.dark .gradio-container, .gradio-container.dark {
    --vicuna-quiet: #b5afa9; --vicuna-note: #f59e0b; --vicuna-line: #57534e;
    --vicuna-keyword: #93c5fd; --vicuna-name: #fda4af; }
.gradio-container .main { padding: 1rem 1.5rem 0.5rem !important; }
.gradio-container .contain > .column { gap: 0.7rem; flex-wrap: nowrap; }
#heading h1 { font-size: 1.7rem; font-weight: 680; margin: 0; letter-spacing: -0.015em; }
#heading p { margin: 0.1rem 0 0; color: var(--vicuna-quiet); }
#top { align-items: center; gap: 1rem; flex: none; }
#top .html-container { padding: 0 0.4rem !important; }
#picker { gap: 0.3rem; }
#model { padding: 0; border: none; background: none; box-shadow: none; overflow: visible !important; }
#model span[data-testid="block-info"] {
    position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
#model .wrap { border: 1px solid var(--vicuna-line); }
#served { color: var(--vicuna-quiet); font-size: 0.8rem;
    white-space: nowrap; overflow: hidden; text-overflow: ellipsis; }
#served .dot { display: inline-block; width: 0.5rem; height: 0.5rem; border-radius: 50%; margin-right: 0.4rem; }
#served .on { background: #16a34a; }
#served .off { background: #dc2626; }
#chat { border: 1px solid var(--vicuna-line); border-radius: 14px; flex: 1 1 0; min-height: 15rem !important;
    height: auto !important; }
#chat .placeholder { text-align: center; align-items: center; flex: none !important; height: auto; }
#chat .placeholder h3 { font-size: 1.35rem; margin: 0 0 0.3rem; }
#chat .placeholder p { color: var(--vicuna-quiet); margin: 0; }
#chat .placeholder-content { justify-content: center; gap: 1.5rem; }
#chat .examples { grid-template-columns: repeat(auto-fit, minmax(18rem, 1fr)); flex: none; margin: 0 auto; }
#chat .example { border: 1px solid var(--vicuna-line) !important; border-radius: 12px; }
#chat .example:hover, #chat .example:focus-visible { border-color: var(--color-accent) !important; }
#chat .md { opacity: 1 !important; }
#chat .message { overflow-wrap: anywhere; contain: paint; }
#chat .message-row, #chat .message-content, #chat .flex-wrap { min-width: 0; }
#chat .wrapper { flex-direction: column; }
#chat .bubble-wrap { background: none; }
#chat .top-panel { position: static; align-self: flex-end; margin: 0.3rem 0.5rem 0 0; flex: none; }
#chat .message pre { overflow-x: auto; }
#chat .message img { max-width: 100%; }
#chat .token.comment, #chat .token.punctuation { color: var(--vicuna-quiet) !important; }
#chat .token.keyword { color: var(--vicuna-keyword) !important; }
#chat .token.function, #chat .token.number { color: var(--vicuna-name) !important; }
#chat .thought-group { border-color: var(--vicuna-note); }
#chat .thought-group, #chat .thought-group p { color: var(--body-text-color); }
#question { border: 1px solid var(--vicuna-line) !important; border-radius: 14px; padding: 0.35rem 0.5rem; flex: none; }
#question:focus-within { border-color: var(--color-accent) !important; }
#question textarea { background: none; box-shadow: none; border: none; }
.gradio-container textarea::placeholder { color: var(--vicuna-quiet); opacity: 1; }
#settings { flex: none; }
#settings input[type="range"] ~ *, #settings .min_value, #settings .max_value { color: var(--vicuna-quiet); }
#small-print { flex: none; }
#small-print, #small-print .html-container { padding: 0 !important; }
#caption { min-height: 1.2rem; padding: 0 0.4rem; font-size: 0.75rem; color: var(--vicuna-quiet); line-height: 1.2rem;
    overflow-wrap: anywhere; }
#caption code { font-size: 0.72rem; background: none; padding: 0; }
@media (max-width: 640px) {
    .gradio-container .main { padding: 0.6rem 0.6rem 0.3rem !important; }
    .gradio-container .contain > .column { gap: 0.5rem; }
    #top { flex-direction: column; align-items: stretch; gap: 0.4rem; }
    #picker { min-width: 0 !important; width: 100%; }
    #heading h1 { font-size: 1.35rem; }
    #heading p { font-size: 0.85rem; }
    #chat .placeholder-content { gap: 0.9rem; }
    #chat .examples { grid-template-columns: 1fr; gap: 0.4rem; padding: 0; }
    #chat .example { padding: 0.5rem 0.8rem; }
}
"""


def theme() -> Any:
    """System fonts, soft corners, one accent colour."""
    import gradio as gr

    return gr.themes.Soft(
        primary_hue=gr.themes.colors.emerald,
        secondary_hue=gr.themes.colors.emerald,
        neutral_hue=gr.themes.colors.stone,
        font=list(SANS),
        font_mono=list(MONO),
        radius_size=gr.themes.sizes.radius_lg,
    ).set(
        block_title_background_fill="none",
        block_title_background_fill_dark="none",
        block_title_text_color="*body_text_color",
        block_title_text_color_dark="*body_text_color",
        block_title_text_weight="500",
        block_title_padding="0",
        block_label_text_color="*neutral_600",
        block_label_text_color_dark="*neutral_300",
    )


def heading(title: str, about: str) -> str:
    """The top of the page."""
    return f'<div id="heading"><h1>{escape(title)}</h1><p>{escape(about)}</p></div>'


def placeholder(title: str) -> str:
    """What an empty conversation shows."""
    return f"### Ask {escape(title)} something\nPick one of these questions, or write your own."


def served(models: list[str], trouble: str) -> str:
    """Whether the service is there."""
    if models:
        noun, names = "model" if len(models) == 1 else "models", escape(", ".join(models))
        return f'<div id="served" title="{names}"><span class="dot on"></span>{len(models)} {noun}: {names}</div>'
    return f'<div id="served"><span class="dot off"></span>{escape(trouble or "no model is available now")}</div>'


def caption(parts: list[tuple[str, str]]) -> str:
    """Small print about the last answer: (name, value) pairs; values are escaped."""
    shown = " · ".join(
        f"{escape(name)} <code>{escape(value)}</code>" if name else escape(value) for name, value in parts
    )
    return f'<div id="caption">{shown}</div>'
