"""How the page looks. Everything comes from this process: no fonts, scripts or pictures from elsewhere."""

from html import escape
from typing import Any

SANS = ("ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "Noto Sans Mono", "monospace")

CSS = """
.gradio-container { max-width: 60rem !important; margin: 0 auto !important; --vicuna-quiet: #57534e; }
.dark .gradio-container, .gradio-container.dark { --vicuna-quiet: #a8a29e; }
.dark { --vicuna-quiet: #a8a29e; }
#heading h1 { font-size: 1.7rem; font-weight: 680; margin: 0; letter-spacing: -0.015em; }
#heading p { margin: 0.1rem 0 0; color: var(--vicuna-quiet); }
#top { align-items: center; gap: 1rem; }
#picker { gap: 0.2rem; }
#model { padding: 0; border: none; background: none; box-shadow: none; overflow: visible !important; }
#model span[data-testid="block-info"] {
    position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
#model .wrap { border: 1px solid var(--border-color-primary); }
#served { color: var(--vicuna-quiet); font-size: 0.8rem; padding: 0 0.4rem; }
#served .dot { display: inline-block; width: 0.5rem; height: 0.5rem; border-radius: 50%; margin-right: 0.4rem; }
#served .on { background: #16a34a; }
#served .off { background: #dc2626; }
#chat { border: 1px solid var(--border-color-primary); }
#chat .placeholder { text-align: center; align-items: center; }
#chat .placeholder h3 { font-size: 1.25rem; margin: 0 0 0.3rem; }
#chat .placeholder p { color: var(--vicuna-quiet); margin: 0; }
#chat .placeholder-content { justify-content: center; }
#chat .examples { grid-template-columns: repeat(auto-fit, minmax(18rem, 1fr)); flex: none; margin-bottom: 2.5rem; }
#chat .example { border: 1px solid var(--border-color-primary) !important; border-radius: 12px; }
#chat .example:hover, #chat .example:focus-visible { border-color: var(--color-accent) !important; }
#question { border: 1px solid var(--border-color-primary) !important; border-radius: 14px; padding: 0.35rem 0.5rem; }
#question:focus-within { border-color: var(--color-accent) !important; }
#question textarea { background: none; box-shadow: none; border: none; }
#small-print { padding: 0 !important; }
#caption { min-height: 1.2rem; padding: 0 0.4rem; font-size: 0.75rem; color: var(--vicuna-quiet); line-height: 1.2rem; }
#caption code { font-size: 0.72rem; background: none; padding: 0; }
@media (max-width: 640px) {
    .gradio-container { padding: 0.5rem !important; }
    #top { flex-direction: column; align-items: stretch; gap: 0.4rem; }
    #picker { min-width: 0 !important; width: 100%; }
    #heading h1 { font-size: 1.35rem; }
    #heading p { font-size: 0.85rem; }
    #chat .examples { grid-template-columns: 1fr; margin-bottom: 0.5rem; }
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
        noun = "model" if len(models) == 1 else "models"
        return f'<div id="served"><span class="dot on"></span>{len(models)} {noun} available</div>'
    return f'<div id="served"><span class="dot off"></span>{escape(trouble or "no model is available now")}</div>'


def caption(parts: list[tuple[str, str]]) -> str:
    """Small print about the last answer: (name, value) pairs; values are escaped."""
    shown = " · ".join(
        f"{escape(name)} <code>{escape(value)}</code>" if name else escape(value) for name, value in parts
    )
    return f'<div id="caption">{shown}</div>'
