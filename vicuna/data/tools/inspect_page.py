"""`inspect` as a page."""

import html
from collections.abc import Sequence

from vicuna.conversation import Message
from vicuna.data.tools.tokens import Run, Token, View, visible
from vicuna.page import Section, cards, page, table
from vicuna.template import Piece

_STYLE = """<style>
:root{--learn:#d8f3dc;--learn-ink:#14532d;--control:#e0d4fd;--control-ink:#4c1d95;--mark-ink:#9aa3b2}
@media (prefers-color-scheme:dark){:root{--learn:#143d26;--learn-ink:#a7f3c0;--control:#3b2a6b;--control-ink:#ddd0ff;
 --mark-ink:#66718a}}
.said{border-left:4px solid var(--line);padding-left:14px;margin:16px 0}.said.assistant{border-color:#3ca951}
.said.user{border-color:#4269d0}.said.system{border-color:#a463f2}
.said h3{font-size:14px;margin:0 0 4px;font-weight:600}
.said pre,pre.prompt,.tokens{max-height:520px;overflow:auto}
.learn{background:var(--learn);color:var(--learn-ink)}.control{background:var(--control);color:var(--control-ink)}
.ws{color:var(--mark-ink)}.legend span{padding:1px 7px;border-radius:5px;margin-right:10px}
.legend .other{border:1px solid var(--line)}
details{margin:10px 0}summary{cursor:pointer;font-size:14px;font-weight:600;padding:3px 0}
.tokens{display:flex;flex-wrap:wrap;gap:4px 3px;padding:8px;border:1px solid var(--line);border-radius:8px}
.token{display:inline-flex;flex-direction:column;border:1px solid var(--line);border-radius:5px;padding:1px 4px;
 font:13px/1.35 ui-monospace,Menlo,Consolas,monospace;white-space:pre;min-width:1.6em;text-align:center}
.token small{font-size:10px;opacity:.72}.token.learn,.token.control{border-color:transparent}
.break{flex-basis:100%;height:0}
</style>"""
_LEGEND = """<p class="legend soft"><span class="learn">trained on</span><span class="control">special token</span>
<span class="other">read, not trained on</span> · is a space, ⏎ a line end, → a tab, ⟨E4⟩ a byte of a longer character
</p>"""


def inspect_page(seen: View) -> str:
    """One page that needs no network: the messages, the prompt exactly as it is, and every token with its id."""
    conversation = seen.conversation
    values = [(f"{len(conversation.turns):,}", "turns")]
    values.append((f"{sum(len(message.content) for message in conversation.messages):,}", "characters"))
    if seen.tokens:
        values.append((f"{len(seen.tokens):,}", f"tokens of {seen.limit:,}"))
        values.append((f"{seen.targets:,}", "tokens trained on"))
        values.append((f"{seen.targets / len(seen.tokens):.0%}", "of all tokens"))
    sections = [Section("Conversation", "".join(map(_message, conversation.messages)))]
    if facts := [("source", conversation.source), *conversation.metadata.items()]:
        sections.append(Section("Record", table(("key", "value"), [(key, str(value)) for key, value in facts])))
    if seen.tokens:
        sections.insert(1, Section(f"Prompt of {seen.template}", _LEGEND + _prompt(seen.pieces)))
        sections.insert(2, Section("Tokens and mask", "".join(map(_run, seen.runs()))))
    return page(f"Conversation {conversation.id}", sections, lead=cards(values), head=_STYLE)


def _message(message: Message) -> str:
    note = "" if message.train else ", not trained on"
    head = f"<h3>{message.role}{note} <span class=soft>{len(message.content):,} characters</span></h3>"
    return f'<div class="said {message.role}">{head}<pre>{html.escape(message.content)}</pre></div>'


def _prompt(pieces: Sequence[Piece]) -> str:
    parts = []
    for piece in pieces:
        kind = "control" if piece.control else "learn" if piece.target else ""
        text = _marked(piece.text).replace("·</span>", "·</span><wbr>")  # so that lines still break between words
        parts.append(f'<span class="{kind}">{text}</span>' if kind else text)
    return f'<pre class="prompt">{"".join(parts)}</pre>'


def _run(run: Run) -> str:
    chips = "".join(map(_token, run.tokens))
    return f'<details open><summary>{run.title}</summary><div class="tokens">{chips}</div></details>'


def _token(token: Token) -> str:
    kind = " control" if token.control else " learn" if token.target else ""
    shown = _marked(token.text).replace("\n", "")
    chip = f'<span class="token{kind}"><span>{shown or "&nbsp;"}</span><small>{token.id}</small></span>'
    return chip + ('<span class="break"></span>' if "\n" in token.text else "")


def _marked(text: str) -> str:
    """Escaped text in which white space is marked; the marks are fainter than the text."""
    return visible(html.escape(text), '<span class="ws">{}</span>')
