"""The whole command: questions in, scores, report and manifest out; and every way in which something can be missing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from eval_endpoint import completion, serving

from vicuna import manifest
from vicuna.config import load
from vicuna.eval.__main__ import main
from vicuna.eval.config import EvalConfig

SETTINGS = Path(__file__).parents[2] / "configs" / "eval"
CAPITALS = {"France": "Paris", "Spain": "Madrid", "Italy": "Rome", "Poland": "Warsaw"}


@pytest.fixture
def questions(tmp_path):
    def row(name, category, turn, reference):
        return {"question_id": name, "category": category, "turns": [turn], "reference": [reference]}

    rows = [row(land, "geography", f"What is the capital of {land}?", city) for land, city in CAPITALS.items()]
    rows += [row(f"sum {n}", "arithmetic", f"What is {n} plus 7?", str(n + 7)) for n in range(8)]
    path = tmp_path / "q.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def chatbots(body):
    """The tuned model knows everything but Poland; the base model babbles."""
    words = body["messages"][-1]["content"].rstrip("?").split()
    if body["model"] == "base":
        return completion("of the and of the and", "length")
    if "capital" in words:
        return f"The capital of {words[-1]} is {CAPITALS[words[-1]] if words[-1] != 'Poland' else 'Oslo'}."
    return f"The answer is {int(words[2]) + 7}."


SERVED = {"tuned": "a" * 64, "base": "b" * 64}


def arguments(questions, endpoint, run, *more):
    return ["--questions", str(questions), "--endpoint.base_url", endpoint.base_url, "--out", str(run),
            "--models", "tuned", "base", "--resamples", "500", *more]  # fmt: skip


def test_with_known_answers_a_run_needs_no_key_and_leaves_a_finished_folder(tmp_path, questions, capsys):
    run = tmp_path / "run"
    with serving(chatbots, SERVED) as endpoint:
        assert main(arguments(questions, endpoint, run, "--judge.kind", "reference")) == 0
    scores = json.loads((run / "scores.json").read_text())
    (pair,) = scores["pairs"]
    assert scores["judge"] == {"label": "reference judge", "kind": "reference"}
    assert (pair["model"], pair["baseline"]) == ("tuned", "base")
    assert (pair["win"], pair["tie"], pair["loss"], pair["unscored"]) == (11, 1, 0, 0)
    assert pair["win_rate"]["value"] == pytest.approx(11.5 / 12)
    assert pair["totals"] == {"tuned": 111.0, "base": 12.0}
    assert scores["models"]["tuned"]["accuracy"]["value"] == pytest.approx(11 / 12)
    assert scores["models"]["base"]["accuracy"]["value"] == 0
    assert scores["models"]["base"]["cut"] == 12
    made = manifest.verify(run)
    assert made.kind == "evaluation"
    assert made.parents["model tuned"] == "a" * 64
    assert made.facts["pairs"][0]["win_rate"]["value"] == pair["win_rate"]["value"]
    out = capsys.readouterr().out
    assert "win rate 95.8%" in out
    assert "0 unscored" in out
    assert "reference judge" in out
    assert "reference judge" in (run / "report.html").read_text()


def test_a_second_run_asks_nothing_and_the_report_is_made_again_offline(tmp_path, questions):
    run = tmp_path / "run"
    with serving(chatbots, SERVED) as endpoint:
        main(arguments(questions, endpoint, run, "--judge.kind", "reference"))
        first, asked = json.loads((run / "scores.json").read_text()), len(endpoint.requests)
        main(arguments(questions, endpoint, run, "--judge.kind", "reference"))
        assert len(endpoint.requests) == asked
    (run / "scores.json").unlink()
    assert main(["report", str(run)]) == 0
    assert json.loads((run / "scores.json").read_text()) == first
    assert manifest.verify(run).facts["accuracy"]["base"]["value"] == 0


def test_new_weights_under_an_old_name_are_asked_again(tmp_path, questions):
    run = tmp_path / "run"
    for checkpoint in ("a" * 64, "d" * 64):
        with serving(chatbots, SERVED | {"tuned": checkpoint}) as endpoint:
            main(arguments(questions, endpoint, run, "--judge.kind", "reference"))
            assert len(endpoint.asked("tuned")) == 12
    assert len(endpoint.asked("base")) == 0
    assert manifest.read(run).parents["model tuned"] == "d" * 64


def biased(body):
    """A judge that always prefers what it is shown first, and has nothing readable to say about sums."""
    text = body["messages"][1]["content"]
    return "Who knows." if "plus" in text else "9 4\nThe first is better."


def test_a_biased_and_mumbling_language_model_judge_is_exposed(tmp_path, questions, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    run = tmp_path / "run"
    with serving(chatbots, SERVED) as endpoint, serving(biased) as judge:
        more = ["--judge.base_url", judge.base_url, "--judge.model", "j", "--judge.attempts", "2"]
        assert main(arguments(questions, endpoint, run, *more)) == 0
        assert len(judge.requests) == 2 * 12 + 2 * 8  # both orders, and one repair for each mumbled verdict
        main(arguments(questions, endpoint, run, *more))
        assert len(judge.requests) == 2 * 12 + 2 * 8
    (pair,) = json.loads((run / "scores.json").read_text())["pairs"]
    assert (pair["win"], pair["tie"], pair["loss"], pair["unscored"]) == (0, 4, 0, 8)
    assert (pair["flips"], pair["flip_rate"]) == (4, 1.0)
    assert pair["unscored_share"] == pytest.approx(8 / 12)
    assert (pair["first_wins"], pair["second_wins"]) == (8, 0)
    assert pair["worst_case"] == pytest.approx([2 / 12, 10 / 12])


def test_a_repaired_verdict_counts_like_any_other(tmp_path, questions):
    def judge_script(body):
        tuned_first = body["messages"][1]["content"].index("The ") < body["messages"][1]["content"].index("of the and")
        return ("9 2" if tuned_first else "2 9") if len(body["messages"]) > 2 else "The tuned one, I would say."

    with serving(chatbots, SERVED) as endpoint, serving(judge_script) as judge:
        more = ["--judge.base_url", judge.base_url, "--judge.model", "j"]
        assert main(arguments(questions, endpoint, tmp_path / "run", *more)) == 0
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    assert (scores["pairs"][0]["win"], scores["pairs"][0]["unscored"]) == (12, 0)
    assert (scores["calls"]["calls"], scores["calls"]["repairs"]) == (48, 24)


def test_all_pairs_of_three_models_are_judged(tmp_path, questions):
    run = tmp_path / "run"
    with serving(chatbots, {"tuned": "a", "base": "b", "other": "c"}) as endpoint:
        more = ["--models", "tuned", "other", "base", "--pairs", "all", "--judge.kind", "reference"]
        assert main(arguments(questions, endpoint, run, *more)) == 0
    pairs = json.loads((run / "scores.json").read_text())["pairs"]
    assert [(each["model"], each["baseline"]) for each in pairs] == [
        ("tuned", "other"), ("tuned", "base"), ("other", "base"),
    ]  # fmt: skip


def test_a_win_rate_below_the_asked_one_is_exit_status_1(tmp_path, questions, capsys):
    with serving(chatbots, SERVED) as endpoint:
        words = arguments(questions, endpoint, tmp_path / "run", "--judge.kind", "reference", "--fail_under")
        assert main([*words, "0.9"]) == 0
        assert main([*words, "0.99"]) == 1
    assert "less than --fail_under 0.99" in capsys.readouterr().err


def test_with_neither_server_nor_key_one_line_says_all_that_is_missing(monkeypatch, capsys, free_address):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert main(["--endpoint.base_url", free_address]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    for part in ("OPENAI_API_KEY", "--judge.base_url", f"no server answers at {free_address}",
                 "python -m vicuna.serve up"):  # fmt: skip
        assert part in line


@pytest.fixture
def free_address():
    with serving(lambda _: "", {}) as endpoint:
        pass  # closed again: nobody listens there any more
    return endpoint.base_url


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--models", "tuned", "gpt-9"], "does not serve the model 'gpt-9'; it serves: base, tuned"),
        (["--models", "tuned"], "a comparison needs two models"),
        (["--models", "tuned", "tuned"], "models are named once each; tuned is there twice"),
        (["--baseline", "gpt-9"], "baseline is one of the models (tuned, base); got gpt-9"),
        (["--fail_under", "1.5"], "fail_under is a share from 0 to 1; got 1.5"),
        (["--endpoint.base_url", "localhost:8000"], "endpoint.base_url is an address like"),
        (["--judge.kind", "oracle"], "judge.kind is llm or reference; got 'oracle'"),
        (["--questions", "nowhere.jsonl"], "cannot read nowhere.jsonl"),
        (["--questions", ""], "questions is vicuna-80 or a file; it cannot be empty"),
    ],
)
def test_a_wrong_setting_is_one_line_and_nothing_is_asked(tmp_path, questions, capsys, more, message):
    with serving(chatbots, SERVED) as endpoint:
        words = arguments(questions, endpoint, tmp_path / "run", "--judge.kind", "reference", *more)
        assert main(words) in (1, 2)
        assert endpoint.requests == []
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err


@pytest.mark.parametrize("command", [[], ["rescore"], ["report"]])
def test_help_is_shown_without_loading_anything_heavy(command):
    code = (
        "import sys; from vicuna.eval.__main__ import main\n"
        f"assert main({[*command, '--help']}) == 0\n"
        "heavy = {'torch', 'numpy', 'scipy', 'openai', 'matplotlib'} & set(sys.modules); assert not heavy, heavy"
    )
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "--config" in shown.stdout


@pytest.mark.parametrize("path", sorted(SETTINGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_settings_file_loads(path):
    assert load(EvalConfig, ["--config", str(path)])


def test_questions_without_known_answers_need_another_judge(tmp_path, capsys):
    path = tmp_path / "q.jsonl"
    path.write_text('{"question_id": 1, "turns": ["Write a poem."]}\n')
    with serving(chatbots, SERVED) as endpoint:
        assert main(arguments(path, endpoint, tmp_path / "run", "--judge.kind", "reference")) == 2
    assert "give --judge.kind llm" in capsys.readouterr().err
