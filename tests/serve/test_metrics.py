"""What Prometheus reads: names, numbers, and a number of series that does not grow with what clients send."""

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from serve_stack import Site, site, until

from vicuna.serve.config import LimitsConfig
from vicuna.serve.engines import Step
from vicuna.serve.fleet.dispatch import Dispatcher
from vicuna.serve.fleet.table import Fleet
from vicuna.serve.protocol import Heartbeat, Registration, ServedModel
from vicuna.serve.watch.metrics import LOOK, REMEMBERED, Metrics, WorkerMetrics
from vicuna.serve.watch.series import MOST_VALUES

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples(metrics: Metrics | WorkerMetrics, accept: str = "") -> Samples:
    """(name, labels) → value."""
    body, _ = asyncio.run(metrics.exposition(accept))
    return parsed(body.decode())


def parsed(text: str) -> Samples:
    rows = [row for family in parse_text(text) for row in family.samples]
    return {(row.name, frozenset(row.labels.items())): row.value for row in rows}


def value(found: Samples, name: str, **labels: str) -> float:
    return found.get((name, frozenset(labels.items())), 0.0)


def registration(worker_id: str, port: int) -> Registration:
    models = [ServedModel(name="echo", max_length=100)]
    return Registration(worker_id=worker_id, address=f"http://127.0.0.1:{port}", models=models, capacity=4)


def answered(metrics: Metrics, model: str, worker: str, tokens: int = 3) -> None:
    watch = metrics.answer(model)
    watch.dispatched(worker)
    for _ in range(tokens):
        watch.tokens(1)
    watch.ended(5, tokens, finished=True)


def test_an_answer_is_counted_and_timed_by_model_and_worker() -> None:
    metrics = Metrics()
    answered(metrics, "echo", "w-1", tokens=3)
    found = samples(metrics)
    here = {"model": "echo", "worker": "w-1"}
    assert value(found, "vicuna_completion_tokens_total", **here) == 3
    assert value(found, "vicuna_prompt_tokens_total", **here) == 5
    assert value(found, "vicuna_time_to_first_token_seconds_count", **here) == 1
    assert value(found, "vicuna_inter_token_seconds_count", **here) == 2
    assert value(found, "vicuna_queue_seconds_count", model="echo") == 1
    assert value(found, "vicuna_answers_total", model="echo", outcome="finished") == 1
    assert metrics.totals() == {
        "requests": 0,
        "answers": 1,
        "failovers": 0,
        "prompt_tokens": 5,
        "completion_tokens": 3,
    }


def test_after_a_failover_both_workers_have_what_was_theirs() -> None:
    metrics = Metrics()
    watch = metrics.answer("echo")
    watch.dispatched("w-1")
    watch.tokens(2)
    watch.failover("w-1", "connection")
    watch.dispatched("w-2")
    watch.tokens(3)
    watch.ended(5, 5, finished=True)
    found = samples(metrics)
    assert value(found, "vicuna_failovers_total", model="echo", worker="w-1", kind="connection") == 1
    assert value(found, "vicuna_completion_tokens_total", model="echo", worker="w-1") == 2
    assert value(found, "vicuna_completion_tokens_total", model="echo", worker="w-2") == 3
    assert value(found, "vicuna_time_to_first_token_seconds_count", model="echo", worker="w-2") == 0
    assert value(found, "vicuna_inter_token_seconds_count", model="echo", worker="w-2") == 1
    assert value(found, "vicuna_queue_seconds_count", model="echo") == 2


def test_the_clock_that_comes_back_is_the_monotonic_one() -> None:
    before = time.monotonic()
    assert before <= Metrics().answer("echo").tokens(1) <= time.monotonic()


@given(st.lists(st.tuples(st.text(max_size=20), st.integers(200, 504)), max_size=30))
def test_names_that_clients_make_up_become_no_series(asked: list[tuple[str, int]]) -> None:
    metrics = Metrics()
    answered(metrics, "echo", "w-1")
    for model, status in asked:
        metrics.answer(model).ended(0, 0, finished=False)
        metrics.request("/v1/chat/completions", model, status, 0.1)
    models = {dict(labels)["model"] for _, labels in samples(metrics) if "model" in dict(labels)}
    assert models <= {"echo", "other", ""}


def test_even_names_that_workers_serve_are_bounded() -> None:
    metrics = Metrics()
    for number in range(MOST_VALUES + 50):
        answered(metrics, f"model-{number}", "w-1", tokens=1)
    found = samples(metrics)
    models = {dict(labels)["model"] for _, labels in found if "model" in dict(labels)}
    assert len(models) == MOST_VALUES + 1
    assert value(found, "vicuna_completion_tokens_total", model="other", worker="w-1") == 50


def test_workers_that_left_are_forgotten_after_a_while_and_those_that_stay_are_not() -> None:
    clock = [1000.0]
    fleet = Fleet(3600, lambda: clock[0])
    metrics = Metrics(lambda: clock[0])
    metrics.follow(Dispatcher(fleet, LimitsConfig(), lambda: clock[0]))
    for number in range(30):
        fleet.join(registration(f"w-{number}", 4000 + number))
        answered(metrics, "echo", f"w-{number}")
        metrics.answer("echo").failover(f"w-{number}", "connection")
    for number in range(1, 30):
        fleet.leave(f"w-{number}")

    def workers_shown() -> set[str]:
        clock[0] += LOOK
        metrics.request("/health", "", 200, 0.001)
        return {dict(labels)["worker"] for _, labels in samples(metrics) if "worker" in dict(labels)}

    assert len(workers_shown()) == 30
    clock[0] += REMEMBERED
    assert workers_shown() == {"w-0"}


def test_the_fleet_and_its_queue_are_shown_as_they_are() -> None:
    fleet = Fleet(5.0, time.monotonic)
    metrics = Metrics()
    metrics.follow(Dispatcher(fleet, LimitsConfig(), time.monotonic))
    for number in range(3):
        fleet.join(registration(f"w-{number}", 4000 + number))
    fleet.heartbeat(Heartbeat(worker_id="w-1", draining=True))
    worker = fleet.get("w-2")
    assert worker is not None
    fleet.failed(worker, "gone")
    found = samples(metrics)
    states = {state: value(found, "vicuna_workers", state=state) for state in ("live", "draining", "suspended")}
    assert states == {"live": 1, "draining": 1, "suspended": 1}
    assert value(found, "vicuna_capacity", worker="w-0") == 4
    assert 0 < value(found, "vicuna_lease_left_seconds", worker="w-0") <= 5


def test_errors_are_counted_by_their_code() -> None:
    metrics = Metrics()
    metrics.request("/v1/chat/completions", "echo", 429, 0.1, "rate_limit_exceeded")
    metrics.request("/v1/chat/completions", "echo", 200, 0.1)
    found = samples(metrics)
    assert {dict(labels)["code"] for name, labels in found if name == "vicuna_errors_total"} == {"rate_limit_exceeded"}
    assert value(found, "vicuna_errors_total", code="rate_limit_exceeded") == 1


def test_both_of_prometheus_formats_can_be_read() -> None:
    metrics = Metrics()
    answered(metrics, "echo", "w-1")
    body, kind = asyncio.run(metrics.exposition("application/openmetrics-text; version=1.0.0"))
    assert kind.startswith("application/openmetrics-text")
    names = {family.name for family in parse_openmetrics(body.decode())}
    assert {
        "vicuna_requests",
        "vicuna_time_to_first_token_seconds",
        "process_cpu_seconds",
        "vicuna_build_info",
    } <= names
    plain, kind = asyncio.run(metrics.exposition("text/html"))
    assert kind.startswith("text/plain")
    assert b"process_open_fds" in plain


def test_two_processes_worth_of_metrics_do_not_mix() -> None:
    one, other = Metrics(), Metrics()
    answered(one, "echo", "w-1")
    assert value(samples(other), "vicuna_answers_total", model="echo", outcome="finished") == 0


def test_a_worker_shows_what_it_does() -> None:
    metrics = WorkerMetrics(running=lambda: 2, capacity=16, load=lambda: {"rows": 2.0})
    metrics.tokens(7)
    metrics.ended("moved")
    found = samples(metrics)
    assert value(found, "vicuna_worker_running") == 2
    assert value(found, "vicuna_worker_capacity") == 16
    assert value(found, "vicuna_worker_tokens_total") == 7
    assert value(found, "vicuna_worker_answers_total", outcome="moved") == 1
    assert value(found, "vicuna_worker_answers_total", outcome="finished") == 0
    assert value(found, "vicuna_engine_load", what="rows") == 2


def worker_metrics(**load: float) -> WorkerMetrics:
    return WorkerMetrics(running=lambda: 0, capacity=16, load=lambda: load)


def step(**more: Any) -> Step:
    numbers = dict.fromkeys(("prompt_tokens", "answer_tokens", "running", "waiting", "used", "kept", "room"), 0)
    return Step(**({"seconds": 0.02, "looked_up": 0, "found": 0} | numbers | more))


def test_a_step_is_counted_with_its_time_its_batch_and_what_waited() -> None:
    metrics = worker_metrics()
    metrics.step(step(seconds=0.04, prompt_tokens=100, running=3, queued=(0.2, 0.02), looked_up=160, found=60))
    metrics.step(step(seconds=0.004, running=12, put_back=1))
    found = samples(metrics)
    assert value(found, "vicuna_engine_step_seconds_sum") == pytest.approx(0.044)
    assert value(found, "vicuna_engine_step_seconds_bucket", le="0.005") == 1
    assert value(found, "vicuna_engine_step_answers_bucket", le="4.0") == 1
    assert value(found, "vicuna_engine_step_answers_bucket", le="16.0") == 2
    assert value(found, "vicuna_engine_step_prompt_tokens_bucket", le="0.0") == 1
    assert value(found, "vicuna_engine_step_prompt_tokens_sum") == 100
    assert value(found, "vicuna_engine_queue_seconds_count") == 2
    assert value(found, "vicuna_engine_queue_seconds_bucket", le="0.1") == 1
    assert value(found, "vicuna_engine_prefix_looked_up_tokens_total") == 160
    assert value(found, "vicuna_engine_prefix_found_tokens_total") == 60
    assert value(found, "vicuna_engine_put_back_total") == 1


STEPS = st.lists(
    st.builds(
        step,
        seconds=st.floats(0, 100),
        prompt_tokens=st.integers(0, 10**6),
        running=st.integers(0, 1000),
        queued=st.lists(st.floats(0, 1000), max_size=3).map(tuple),
        looked_up=st.integers(0, 200),
        found=st.integers(0, 100),
        put_back=st.integers(0, 5),
    ),
    max_size=8,
)


@given(STEPS)
def test_the_series_of_the_steps_are_the_sums_over_them(steps: list[Step]) -> None:
    metrics = worker_metrics()
    for each in steps:
        metrics.step(each)
    found = samples(metrics)
    for series, mine in {"seconds": "seconds", "answers": "running", "prompt_tokens": "prompt_tokens"}.items():
        name, total = f"vicuna_engine_step_{series}", sum(getattr(each, mine) for each in steps)
        assert value(found, f"{name}_sum") == pytest.approx(total)
        assert value(found, f"{name}_count") == len(steps)
    waits = [seconds for each in steps for seconds in each.queued]
    assert value(found, "vicuna_engine_queue_seconds_count") == len(waits)
    assert value(found, "vicuna_engine_prefix_found_tokens_total") == sum(each.found for each in steps)
    assert value(found, "vicuna_engine_prefix_looked_up_tokens_total") == sum(each.looked_up for each in steps)
    assert value(found, "vicuna_engine_put_back_total") == sum(each.put_back for each in steps)


def test_the_cache_is_shown_as_parts_that_make_the_whole() -> None:
    found = samples(worker_metrics(batch=3, cache_used=320, cache_kept=64, cache_room=1024))
    parts = {state: value(found, "vicuna_engine_cache_tokens", state=state) for state in ("used", "kept", "free")}
    assert parts == {"used": 320, "kept": 64, "free": 640}
    assert not any(name == "vicuna_engine_cache_tokens" for name, _ in samples(worker_metrics(running=2)))


def test_the_scrape_of_a_large_fleet_leaves_the_event_loop_free() -> None:
    metrics = Metrics()
    for number in range(300):
        answered(metrics, "echo", f"w-{number}")

    async def longest_pause() -> tuple[float, float]:
        scrape = asyncio.create_task(metrics.exposition())
        began, last, longest = time.perf_counter(), time.perf_counter(), 0.0
        while not scrape.done():
            await asyncio.sleep(0)
            now = time.perf_counter()
            longest, last = max(longest, now - last), now
        return longest, time.perf_counter() - began

    longest, whole = min(asyncio.run(longest_pause()) for _ in range(3))
    assert longest < max(0.05, whole / 2)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with site(tmp_path_factory.mktemp("site")) as made:
        made.worker("echo")
        yield made


def scraped(address: str) -> Samples:
    return parsed(httpx.get(f"{address}/metrics", timeout=20).text)


def test_a_real_request_is_found_in_the_metrics_of_controller_and_worker(stack: Site) -> None:
    worker = stack.fleet()["workers"][0]
    for model in ("echo", "made-up-by-the-client"):
        body = {"model": model, "messages": [{"role": "user", "content": "one two three"}]}
        httpx.post(f"{stack.api}/v1/chat/completions", json=body, timeout=20)
    httpx.get(f"{stack.api}/no/such/route")
    chat, other = "/v1/chat/completions", {"route": "other", "model": "", "status": "404"}
    until(lambda: value(scraped(stack.api), "vicuna_requests_total", **other), "the last request to be counted")
    found = scraped(stack.api)
    assert value(found, "vicuna_requests_total", route=chat, model="echo", status="200") == 1
    assert value(found, "vicuna_requests_total", route=chat, model="other", status="404") == 1
    assert value(found, "vicuna_requests_total", **other) == 1
    tokens = value(found, "vicuna_completion_tokens_total", model="echo", worker=worker["id"])
    assert tokens == 3
    assert value(found, "vicuna_workers", state="live") == 1
    assert value(found, "vicuna_in_flight", worker=worker["id"]) == 0
    there = worker["address"]
    until(lambda: value(scraped(there), "vicuna_worker_answers_total", outcome="finished") == 1, "the worker's count")
    assert value(scraped(there), "vicuna_worker_tokens_total") == tokens
