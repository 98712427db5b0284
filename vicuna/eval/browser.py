"""The part of the report where every question, answer and verdict can be read and filtered."""

import html
from collections.abc import Sequence

from vicuna.eval.results import Results
from vicuna.eval.scores import Match, Verdict

HEAD = """<style>
.filters{display:flex;flex-wrap:wrap;gap:10px;align-items:center;position:sticky;top:0;padding:10px 0;
 background:var(--back);z-index:1}
.filters select,.filters input{font:inherit;padding:5px 9px;border:1px solid var(--line);border-radius:8px;
 background:var(--card);color:var(--ink)}
details.match{border:1px solid var(--line);border-radius:10px;margin:8px 0;padding:0 14px}
details.match>summary{cursor:pointer;padding:9px 0;display:flex;gap:10px;align-items:baseline}
details.match>summary .text{overflow:hidden;text-overflow:ellipsis;white-space:nowrap;flex:1;min-width:0}
.badge{border-radius:6px;padding:1px 8px;font-size:12.5px;color:#111;white-space:nowrap}
.badge.win{background:#8fd99b}.badge.tie{background:#c9ced8}.badge.loss{background:#ffab9d}
.badge.unscored{background:#e6c860}.badge.flip{background:#b9a4f0}
h4{margin:14px 0 2px;font-size:14px}h3{font-size:16px;margin:18px 0 4px}
</style>"""

_SCRIPT = """<script>
(() => {
  const pick = id => document.getElementById(id), all = [...document.querySelectorAll('details.match')];
  const filters = ['by-pair', 'by-category', 'by-outcome'].map(pick), search = pick('by-text');
  const text = new Map(all.map(each => [each, each.textContent.toLowerCase()]));
  function apply() {
    const [pair, category, outcome] = filters.map(each => each.value), words = search.value.toLowerCase().trim();
    let shown = 0;
    for (const each of all) {
      const d = each.dataset;
      const fits = (!pair || d.pair === pair) && (!category || d.category === category)
        && (!outcome || d.outcome === outcome || (outcome === 'flip' && d.flip === '1'))
        && (!words || text.get(each).includes(words));
      each.hidden = !fits;
      shown += fits;
    }
    pick('shown').textContent = shown + ' of ' + all.length;
  }
  filters.forEach(each => each.addEventListener('change', apply));
  search.addEventListener('input', apply);
  apply();
})();
</script>"""


def questions(results: Results) -> str:
    """Filters and one folded entry for each question of each pair."""
    games = [game for each in results.games.values() for game in each]
    entries = "".join(_entry(game, results) for game in games)
    return _filters(games) + entries + _SCRIPT


def _filters(games: Sequence[Match]) -> str:
    pairs = dict.fromkeys(_pair(game) for game in games)
    categories = dict.fromkeys(game.category for game in games)
    outcomes = {"win": "won", "tie": "tied", "loss": "lost", "unscored": "unscored", "flip": "flipped with the order"}
    return (
        '<div class="filters">'
        + _select("by-pair", "all pairs", {name: name for name in pairs})
        + _select("by-category", "all categories", {name: name for name in categories})
        + _select("by-outcome", "all outcomes", outcomes)
        + '<input id="by-text" type="search" placeholder="search" aria-label="search">'
        + '<span class="soft" id="shown"></span></div>'
    )


def _select(name: str, everything: str, options: dict[str, str]) -> str:
    inner = "".join(
        f'<option value="{_attribute(value)}">{html.escape(text)}</option>' for value, text in options.items()
    )
    return f'<select id="{name}" aria-label="{everything}"><option value="">{everything}</option>{inner}</select>'


def _attribute(text: str) -> str:
    return html.escape(text, quote=True)


def _pair(game: Match) -> str:
    return f"{game.model} : {game.baseline}"


def _entry(game: Match, results: Results) -> str:
    question = results.question(game.question)
    turns = question.turns if question else ()
    flip = '<span class="badge flip">flip</span>' if game.flipped else ""
    summary = (
        f'<summary><span class="badge {game.outcome}">{game.outcome}</span>{flip}<span class="soft">'
        f'{html.escape(f"{game.category} · {game.question}")}</span><span class="text">'
        f"{html.escape(' / '.join(turns))}</span></summary>"
    )
    body = "".join(
        f"<h4>User, turn {number}</h4><pre>{html.escape(turn)}</pre>" for number, turn in enumerate(turns, 1)
    )
    if question and question.reference:
        body += f'<p class="soft">Known answer: {html.escape(" / ".join(question.reference))}</p>'
    sides = "".join(_answer(name, game.question, results) for name in (game.model, game.baseline))
    body += f'<div class="pair">{sides}</div>' if sides else ""
    body += '<div class="pair">' + "".join(_verdict(each, results) for each in game.verdicts) + "</div>"
    marks = f'data-pair="{_attribute(_pair(game))}" data-category="{_attribute(game.category)}"'
    marks += f' data-outcome="{game.outcome}" data-flip="{int(game.flipped)}"'
    return f'<details class="match" {marks}>{summary}{body}</details>\n'


def _answer(model: str, question: str, results: Results) -> str:
    answer = results.answers.get(model, {}).get(question)
    if answer is None:
        return ""
    grade = results.grades.get((model, question))
    graded = f" · {'right' if grade.right else 'wrong'}: {grade.reason}" if grade else ""
    finish = f" · {', '.join(dict.fromkeys(answer.finish_reasons))}" if any(answer.finish_reasons) else ""
    texts = "".join(f"<pre>{html.escape(turn)}</pre>" for turn in answer.turns)
    refused = f"<p>{html.escape(answer.refused)}</p>" if answer.refused else ""
    about = html.escape(f"{answer.seconds:.2f} s{finish}{graded}")
    return f'<div><h4>{html.escape(model)}</h4>{texts}{refused}<p class="soft">{about}</p></div>'


def _verdict(verdict: Verdict, results: Results) -> str:
    scores = "unscored" if verdict.scores is None else "{:g} : {:g}".format(*verdict.scores)
    if verdict.scores is None and verdict.winner:
        scores = {"first": verdict.first, "second": verdict.second, "tie": "tie"}[verdict.winner]
    title = html.escape(f"{results.judge}: {verdict.first} first, {verdict.second} second → {scores}")
    how = html.escape(f"read from: {verdict.path}")
    return f'<div><h4>{title}</h4><pre>{html.escape(verdict.text)}</pre><p class="soft">{how}</p></div>'
