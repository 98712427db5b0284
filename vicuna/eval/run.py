"""One evaluation from questions to report, and the same report again from a run folder."""

import asyncio
import contextlib
import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vicuna import config as settings
from vicuna import manifest
from vicuna.errors import ConfigError, InputError, VicunaError
from vicuna.eval.answers import Answer, Asking, answer_key, collect, path_of, read_answers
from vicuna.eval.client import Client, Unanswered
from vicuna.eval.config import EndpointConfig, EvalConfig, JudgeConfig, ReportConfig
from vicuna.eval.judge import (
    UNREADABLE,
    Comparison,
    Judge,
    LLMJudge,
    ReferenceJudge,
    comparisons,
    grade_answer,
    judge_all,
    read_scores,
    rivals_of,
)
from vicuna.eval.ledger import Call, Ledger, read_calls
from vicuna.eval.progress import Progress
from vicuna.eval.questions import Question, question_file, read_questions
from vicuna.eval.report import write_results
from vicuna.eval.results import Results
from vicuna.eval.scores import ModelSummary, Verdict, accuracy, by_scores, matches, summarise
from vicuna.files import read_json, read_text, sha256_file, write_json, write_text

KIND = "evaluation"
QUESTIONS, CONFIG, WEIGHTS = "questions.jsonl", "config.yaml", "weights.json"
OFFICIAL = JudgeConfig().base_url


@dataclass(frozen=True)
class Plan:
    """What a run asks and judges, once the endpoint has said what it serves."""

    config: EvalConfig
    """With models and baseline filled in."""
    questions: Sequence[Question]
    weights: Mapping[str, str]
    """Model → hashes of weights and template, where the endpoint lists them."""

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """(model, baseline) of every pair to judge."""
        models, baseline = self.config.models, self.config.baseline
        if self.config.pairs == "all":
            ordered = [name for name in models if name != baseline] + [baseline]
            return [(a, b) for index, a in enumerate(ordered) for b in ordered[index + 1 :]]
        return [(name, baseline) for name in models if name != baseline]


def evaluate(config: EvalConfig) -> int:
    """Ask, judge, score, report; the exit status says whether `fail_under` was met."""
    run = Path(config.out)
    results = asyncio.run(_evaluate(config, run))
    _finish(results, run)
    rate = results.pairs[0].overall.win_rate
    if config.fail_under is None:
        return 0
    if rate is None:
        raise VicunaError(
            f"--fail_under {config.fail_under}: no verdict of the run could be read, see {run}/report.html"
        )
    if rate.value < config.fail_under:
        raise VicunaError(
            f"{results.pairs[0].model} wins {rate.value:.3f} against {results.pairs[0].baseline}, "
            f"less than --fail_under {config.fail_under}"
        )
    return 0


async def _evaluate(config: EvalConfig, run: Path) -> Results:
    async with contextlib.AsyncExitStack() as stack:
        clients = {
            endpoint: await stack.enter_async_context(_client(endpoint))
            for endpoint in {config.endpoint, *(each.endpoint for each in config.overrides if each.endpoint)}
        }
        plan = await _plan(config, clients)
        _begin(plan, run)
        judge, rivals = _judge(plan), rivals_of(plan.questions)
        if isinstance(judge, LLMJudge):
            await stack.enter_async_context(judge.client)
        with Progress() as progress:
            for model in plan.config.models:
                client = clients[plan.config.endpoint_of(model)]
                await collect(run, plan.questions, _asking(plan, model, client), progress)
            answers = _answers(plan, run)
            todo = list(comparisons(plan.questions, answers, plan.pairs))
            with Ledger(run) as ledger:
                await judge_all(todo, judge, ledger, plan.config.judge.concurrency, progress)
        return _results(plan, run, judge, rivals)


# ------------------------------------------------------------------------------------------------ before the first call
async def _plan(config: EvalConfig, clients: Mapping[EndpointConfig, Client]) -> Plan:
    """Check everything that can be checked before anything is asked; one line says all that is missing.

    Raises:
        ConfigError: no server, no key, a model that is not served, fewer than two models.
    """
    missing = []
    if not _judge_key(config.judge):
        missing.append(
            f"the judge's key: set {config.judge.key_env}, or give --judge.base_url URL for a judge of your own, or "
            "--judge.kind reference for questions with known answers"
        )
    served: dict[EndpointConfig, dict[str, str]] = {}
    for endpoint, client in clients.items():
        try:
            served[endpoint] = await client.models()
        except Unanswered as error:
            missing.append(f"{error}: start one with `python -m vicuna.serve up`, or give --endpoint.base_url URL")
    if missing:
        raise ConfigError("nothing was asked; missing: " + "; ".join(missing))
    questions = read_questions(config.questions)
    models = config.models or tuple(sorted(served[config.endpoint]))
    config = dataclasses.replace(config, models=models, baseline=config.baseline or (models[-1] if models else ""))
    _check(config, questions, served)
    return Plan(config, questions, {name: served[config.endpoint_of(name)][name] for name in models})


def _check(
    config: EvalConfig, questions: Sequence[Question], served: Mapping[EndpointConfig, Mapping[str, str]]
) -> None:
    if len(config.models) < 2:
        raise ConfigError(
            f"a comparison needs two models; {config.endpoint.base_url} serves {len(config.models)}"
            f" ({', '.join(config.models) or 'none'}): give --models A B"
        )
    for name in config.models:
        endpoint = config.endpoint_of(name)
        if name not in served[endpoint]:
            names = ", ".join(sorted(served[endpoint])) or "none"
            raise ConfigError(f"{endpoint.base_url} does not serve the model {name!r}; it serves: {names}")
    if config.judge.kind == "reference" and not any(question.reference for question in questions):
        raise ConfigError(
            f"{config.questions} has no reference answers, so the reference judge has nothing to grade against; "
            "give --judge.kind llm"
        )


def _judge_key(judge: JudgeConfig) -> bool:
    """Whether the judge can be called: the official endpoint wants a key, an endpoint of one's own may not."""
    return judge.kind == "reference" or judge.base_url != OFFICIAL or bool(os.environ.get(judge.key_env))


def _begin(plan: Plan, run: Path) -> None:
    """Write down what is asked. An earlier manifest goes: a half-done folder must never be taken as done."""
    (run / manifest.NAME).unlink(missing_ok=True)
    write_text(run / QUESTIONS, _jsonl(question_file(plan.config.questions)))
    write_text(run / CONFIG, settings.dump(plan.config))
    write_json(run / WEIGHTS, dict(plan.weights))


def _jsonl(path: Path) -> str:
    """The question file's text, one question a line."""
    text = read_text(path)
    return text if path.suffix != ".json" else "".join(json.dumps(row) + "\n" for row in json.loads(text))


# ------------------------------------------------------------------------------------------------ who is asked
def _client(endpoint: EndpointConfig) -> Client:
    return Client(
        endpoint.base_url, endpoint.key_env, timeout=endpoint.timeout, attempts=endpoint.attempts, flag="endpoint"
    )


def _asking(plan: Plan, model: str, client: Client) -> Asking:
    config = plan.config
    concurrency = config.endpoint_of(model).concurrency
    return Asking(model, client, config.sampling_of(model), concurrency, plan.weights[model], config.system)


def _judge(plan: Plan) -> Judge:
    config = plan.config.judge
    if config.kind == "reference":
        return ReferenceJudge(rivals_of(plan.questions))
    client = Client(config.base_url, config.key_env, timeout=config.timeout, attempts=config.attempts, flag="judge")
    return LLMJudge(client, config.model, config.temperature, config.max_tokens)


# ------------------------------------------------------------------------------------------------ after the last call
def _answers(plan: Plan, run: Path) -> dict[str, dict[str, Answer]]:
    found = {}
    config = plan.config
    for model in config.models:
        how = model, plan.weights[model], config.system, config.sampling_of(model)
        found[model] = read_answers(path_of(run, model), {each.id: answer_key(each, *how) for each in plan.questions})
        if len(found[model]) < len(plan.questions):
            raise InputError(f"{run} has {len(found[model])} of {len(plan.questions)} answers of {model}: run it again")
    return found


def _results(plan: Plan, run: Path, judge: Judge, rivals: Mapping[str, frozenset[str]]) -> Results:
    """Everything that the report shows, read again from the raw texts of the run folder."""
    config, answers = plan.config, _answers(plan, run)
    todo = list(comparisons(plan.questions, answers, plan.pairs))
    calls = {call.request: call for call in read_calls(run)}
    verdicts = [_verdict(each, judge, calls) for each in todo]
    lengths = {(name, each.question_id): each.length for name, known in answers.items() for each in known.values()}
    games = {pair: matches(verdicts, *pair) for pair in plan.pairs}
    return Results(
        title=f"{config.models[0]} against {config.baseline}" if len(plan.pairs) == 1 else "Chatbots compared",
        judge=judge.label,
        judge_is_reference=config.judge.kind == "reference",
        questions=plan.questions,
        answers=answers,
        grades={
            (name, question.id): grade_answer(question, answers[name][question.id], rivals)
            for name in config.models
            for question in plan.questions
            if question.reference
        },
        games=games,
        pairs=[summarise(each, judge.label, config.resamples, config.seed, lengths) for each in games.values()],
        models=[_model_summary(name, plan, answers[name], rivals) for name in config.models],
        config=settings.to_dict(config),
        parents=_parents(plan, run, answers),
        calls=list(calls.values()),
    )


def _verdict(comparison: Comparison, judge: Judge, calls: Mapping[str, Call]) -> Verdict:
    """The comparison's verdict: its first call, or the repair where that one cannot be read."""
    call = calls.get(judge.first_call(comparison).request)
    if call is None:
        raise InputError(
            f"the ledger has no verdict on question {comparison.question.id} for {comparison.first.model} and "
            f"{comparison.second.model}: run the evaluation again to finish it"
        )
    reading, path = read_scores(call.text), ""
    again = None if reading else judge.repair(call)
    if again is not None and again.request in calls:
        call, path = calls[again.request], "repaired, "
        reading = read_scores(call.text)
    scores = reading.scores if reading else None
    return Verdict(
        comparison.question.id, comparison.question.category, comparison.first.model, comparison.second.model,
        scores, by_scores(scores), path + reading.path if reading else call.refused or UNREADABLE, call.text,
    )  # fmt: skip


def _model_summary(
    name: str, plan: Plan, answers: Mapping[str, Answer], rivals: Mapping[str, frozenset[str]]
) -> ModelSummary:
    rows = [answers[question.id] for question in plan.questions]
    tokens = [row.completion_tokens for row in rows if row.completion_tokens is not None]
    asked = [question for question in plan.questions if question.reference]
    overall, parts = accuracy([(each.category, grade_answer(each, answers[each.id], rivals).right) for each in asked])
    return ModelSummary(
        model=name,
        answers=len(rows),
        refused=sum(bool(row.refused) for row in rows),
        cut=sum("length" in row.finish_reasons for row in rows),
        mean_characters=sum(row.length for row in rows) / len(rows),
        mean_tokens=sum(tokens) / len(tokens) if len(tokens) == len(rows) else None,
        mean_seconds=sum(row.seconds for row in rows) / len(rows),
        accuracy=overall,
        accuracy_by_category=parts,
        checkpoints=tuple(sorted({row.checkpoint for row in rows if row.checkpoint})),
    )


def _parents(plan: Plan, run: Path, answers: Mapping[str, Mapping[str, Answer]]) -> dict[str, str]:
    parents = {"questions": sha256_file(run / QUESTIONS)}
    for name in plan.config.models:
        hashes = sorted({each.checkpoint for each in answers[name].values() if each.checkpoint})
        if hashes:
            parents[f"model {name}"] = "+".join(hashes)
    return parents


def _finish(results: Results, run: Path) -> None:
    facts = write_results(results, run)
    manifest.write(run, KIND, parents=results.parents, config=results.config, facts=facts)


def report_again(config: ReportConfig) -> int:
    """Score a run folder again from its raw texts, offline."""
    run = Path(config.run)
    if not config.run or not (run / CONFIG).exists():
        raise ConfigError(f"run is the folder of an evaluation (with {CONFIG} in it); got {config.run!r}")
    stored = settings.load(EvalConfig, ["--config", str(run / CONFIG)])
    plan = Plan(stored, read_questions(run / QUESTIONS), read_json(run / WEIGHTS))
    results = _results(plan, run, _judge(plan), rivals_of(plan.questions))
    (run / manifest.NAME).unlink(missing_ok=True)
    _finish(results, run)
    return 0
