"""Which processes train, and that the ranks of a node live and end together. The ranks here are small scripts."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from vicuna.config import from_dict
from vicuna.errors import ConfigError
from vicuna.train.config import TrainConfig
from vicuna.train.launch import environments
from vicuna.train.node import Node, find_node, need_inputs, world_size
from vicuna.train.supervise import RankFailed, supervise

BIN = Path(sys.executable).parent


def config(**tree) -> TrainConfig:
    return from_dict(TrainConfig, tree, "a test")


def script(body: str) -> list[str]:
    """A rank that runs `body`, in which `rank` is its number."""
    return [
        sys.executable,
        "-c",
        "import os, signal, sys, time\nrank = int(os.environ['RANK'])\n" + textwrap.dedent(body),
    ]


def ranks(count: int) -> list[dict[str, str]]:
    return environments(Node(count), config(), cpus=2)


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


# ---------------------------------------- which processes
def test_a_process_alone_starts_as_many_ranks_as_it_was_told():
    assert find_node(config(launch={"ranks": 3}), {}) == Node(3)
    assert find_node(config(device="cpu"), {}) == Node(1)


def test_without_a_number_there_is_a_rank_for_each_gpu_or_one_on_a_cpu():
    import torch

    assert find_node(config(), {}) == Node(max(1, torch.cuda.device_count()))


def test_the_size_of_a_run_is_known_before_any_rank_starts():
    assert world_size(config(launch={"ranks": 3}), {}) == 3
    assert world_size(config(launch={"ranks": 3}), SKYPILOT) == 6
    assert world_size(config(launch={"ranks": 3}), {"RANK": "1", "WORLD_SIZE": "4"}) == 4


SKYPILOT = {
    "SKYPILOT_NUM_NODES": "2",
    "SKYPILOT_NODE_RANK": "1",
    "SKYPILOT_NODE_IPS": "10.0.0.7\n10.0.0.9",
    "SKYPILOT_NUM_GPUS_PER_NODE": "8",
}


def test_skypilots_variables_make_it_one_node_of_several():
    node = find_node(config(), SKYPILOT)
    assert node == Node(8, number=1, nodes=2, address="10.0.0.7")
    made = environments(node, config(launch={"port": 1234}), cpus=64)
    assert [each["RANK"] for each in made] == [str(rank) for rank in range(8, 16)]
    assert [each["LOCAL_RANK"] for each in made] == [str(rank) for rank in range(8)]
    assert {each["MASTER_ADDR"] + ":" + each["MASTER_PORT"] for each in made} == {"10.0.0.7:1234"}
    assert {(each["WORLD_SIZE"], each["LOCAL_WORLD_SIZE"]) for each in made} == {("16", "8")}


def test_a_single_skypilot_node_is_like_any_other():
    assert find_node(config(launch={"ranks": 2}), SKYPILOT | {"SKYPILOT_NUM_NODES": "1"}) == Node(2)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"SKYPILOT_NODE_RANK": ""}, "SKYPILOT_NODE_RANK is a whole number"),
        ({"SKYPILOT_NODE_RANK": "2"}, "do not fit together: node 2"),
        ({"SKYPILOT_NODE_IPS": "10.0.0.7"}, "1 addresses"),
    ],
)
def test_skypilots_variables_that_do_not_fit_are_named(change, says):
    with pytest.raises(ConfigError, match=says):
        find_node(config(), SKYPILOT | change)


def test_the_cpus_are_shared_among_the_ranks_unless_somebody_decided(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert environments(Node(3), config(), cpus=8)[0]["OMP_NUM_THREADS"] == "2"
    assert environments(Node(3), config(), cpus=2)[0]["OMP_NUM_THREADS"] == "1"
    assert environments(Node(3), config(threads=5), cpus=8)[0]["OMP_NUM_THREADS"] == "5"
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert environments(Node(3), config(), cpus=8)[0]["OMP_NUM_THREADS"] == "7"


@pytest.mark.parametrize(
    ("launcher", "expected"),
    [
        (["torchrun", "--standalone", "--nproc_per_node=2"], [[True, "0"], [True, "1"]]),
        (["accelerate", "launch", "--multi_gpu", "--num_processes=2"], [[True, "0"], [True, "1"]]),
        (["accelerate", "launch", "--num_processes=1"], [[False, 1]]),
    ],
)
def test_under_torchrun_and_accelerate_a_process_is_a_rank_of_theirs(launcher, expected, tmp_path):
    (tmp_path / "who.py").write_text(
        "import json, os, sys\n"
        "from vicuna.train.config import TrainConfig\n"
        "from vicuna.train.node import find_node, is_rank\n"
        "mine = is_rank(os.environ)\n"
        "who = os.environ['RANK'] if mine else find_node(TrainConfig(), os.environ).world_size\n"
        f"open(f'{tmp_path}/{{os.getpid()}}.json', 'w').write(json.dumps([mine, who]))\n"
    )
    quiet = ["--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no"] if launcher[0] == "accelerate" else []
    root = Path(__file__).parents[2]
    subprocess.run(
        [sys.executable, BIN / launcher[0], *launcher[1:], *quiet, tmp_path / "who.py"],
        check=True, capture_output=True, env={**os.environ, "PYTHONPATH": str(root)},
    )  # fmt: skip
    assert sorted(json.loads(each.read_text()) for each in tmp_path.glob("*.json")) == expected


def test_what_is_missing_is_said_in_one_line_with_its_flags():
    with pytest.raises(ConfigError, match=r"^data.path is missing; name cleaned conversations with --data.path$"):
        need_inputs(config(model={"path": "m"}))
    need_inputs(config(model={"path": "m"}, data={"path": "d"}))


def test_without_any_flag_the_command_says_what_it_needs_and_starts_nothing():
    done = subprocess.run([sys.executable, "-m", "vicuna.train"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == (
        "error: model.path and data.path are missing; "
        "name a base model (its folder, or its name on the hub, such as huggyllama/llama-7b) with --model.path "
        "and cleaned conversations with --data.path\n"
    )


# ---------------------------------------- ranks that live and end together
def test_every_rank_runs_with_its_own_number_and_the_first_one_is_heard(tmp_path, capfd):
    body = f"open(f'{tmp_path}/{{rank}}', 'w').write(os.environ['WORLD_SIZE']); print('rank', rank)"
    assert supervise(script(body), ranks(3)) == 0
    assert {each.name: each.read_text() for each in tmp_path.iterdir()} == {"0": "3", "1": "3", "2": "3"}
    assert capfd.readouterr().out == "rank 0\n"


def test_an_error_that_all_ranks_meet_is_said_once(capfd):
    body = "sys.stderr.write('error: there is no folder 7\\n'); sys.exit(1)"
    assert supervise(script(body), ranks(3)) == 1
    assert capfd.readouterr().err == "error: there is no folder 7\n"


def test_an_error_of_another_rank_is_shown_with_its_number_and_the_waiting_are_ended(capfd):
    body = """
        if rank == 1:
            sys.stderr.write('error: the disk of this node is full\\n'); sys.exit(1)
        time.sleep(600)
    """
    assert supervise(script(body), ranks(3), patience=0.2) == 1
    assert capfd.readouterr().err == "[rank 1] error: the disk of this node is full\n"


def test_a_bug_in_another_rank_shows_its_traceback_and_not_what_followed_from_it_twice(capfd):
    body = """
        if rank == 2:
            raise KeyError('lost')
        time.sleep(0.5)
        raise OSError(f'connection closed by peer, port {rank}')
    """
    with pytest.raises(RankFailed, match="rank 2 ended with status 1, and the others") as failed:
        supervise(script(body), ranks(3))
    assert failed.value.exit_status == 1
    said = capfd.readouterr().err
    assert "[rank 2] KeyError: 'lost'" in said
    assert said.count("connection closed by peer") == 1


def test_ranks_that_only_lost_another_are_neither_blamed_nor_heard_however_early_they_end(capfd):
    body = """
        if rank == 1:
            time.sleep(0.4)  # the first to fail, and the last to end
            sys.stderr.write('error: the disk of this node is full\\n'); sys.exit(1)
        sys.stderr.write(f'error: rank {rank} lost the others\\n' if rank else ''); sys.exit(75)
    """
    assert supervise(script(body), ranks(3)) == 1
    assert capfd.readouterr().err == "[rank 1] error: the disk of this node is full\n"


def test_a_rank_that_hangs_is_not_blamed_for_being_killed_after_the_others_gave_up(capfd):
    body = """
        if rank == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(600)
        sys.stderr.write('error: rank 1 lost the others\\n'); sys.exit(75)
    """
    assert supervise(script(body), ranks(2), patience=0.2) == 75
    assert capfd.readouterr().err == "[rank 1] error: rank 1 lost the others\n"


def test_a_rank_that_is_killed_is_named_with_its_signal_and_takes_the_others_along():
    body = """
        if rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(600)
    """
    with pytest.raises(RankFailed, match="rank 1 was killed by SIGKILL") as failed:
        supervise(script(body), ranks(2), patience=0.2)
    assert failed.value.exit_status == 137


def test_what_a_failed_rank_had_started_is_ended_too(tmp_path):
    body = f"""
        import subprocess
        if rank == 1:
            child = subprocess.Popen(['sleep', '600'], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            open('{tmp_path}/pid', 'w').write(str(child.pid))
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(600)
    """
    with pytest.raises(RankFailed):
        supervise(script(body), ranks(2), patience=0.1)
    until(lambda: ended(int((tmp_path / "pid").read_text())))


# ---------------------------------------- signals to the one that watches
class Watched:
    """A process that supervises two ranks; each has written a file with its process id when it is ready."""

    def __init__(self, folder: Path, body: str) -> None:
        self.folder = folder
        ready = f"open('{folder}/part' + str(rank), 'w').write(str(os.getpid()))"
        ready += f"; os.rename('{folder}/part' + str(rank), f'{folder}/{{rank}}.pid')\n"
        rank = script("from vicuna import lifeline; lifeline.watch()\n" + textwrap.dedent(body))
        rank[2] = rank[2].replace("READY", ready)
        code = (
            "import sys\nfrom vicuna.command import guarded\nfrom vicuna.train.supervise import supervise\n"
            f"sys.exit(guarded(lambda: supervise({rank!r}, {ranks(2)!r}, patience=0.3)))"
        )
        self.process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
        until(lambda: len(list(folder.glob("*.pid"))) == 2)
        self.ranks = [int((folder / f"{rank}.pid").read_text()) for rank in range(2)]

    def ended(self) -> tuple[int, str]:
        """Exit status and what was said, once all of them are gone."""
        said = self.process.communicate(timeout=60)[1]
        until(lambda: all(ended(pid) for pid in self.ranks))
        return self.process.returncode, said


def ended(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


SAVES = """
    def stop(number, frame):
        open('{folder}/saved' + str(rank), 'a').write(signal.Signals(number).name)
        sys.exit(128 + number)
    signal.signal(signal.SIGTERM, stop); signal.signal(signal.SIGINT, stop)
    READY
    while True:
        time.sleep(0.05)
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stop_signal_reaches_every_rank_once_and_they_save(tmp_path, number, status):
    watched = Watched(tmp_path, SAVES.format(folder=tmp_path))
    watched.process.send_signal(number)
    watched.process.send_signal(number)  # as `timeout` does: still one wish
    assert watched.ended() == (status, "")
    assert [(tmp_path / f"saved{rank}").read_text() for rank in range(2)] == [number.name] * 2


def test_a_stop_signal_to_one_rank_alone_ends_like_one_to_all(tmp_path):
    body = SAVES.format(folder=tmp_path).replace(
        "time.sleep(0.05)", f"time.sleep(0.05)\n        if rank == 0 and os.path.exists('{tmp_path}/saved1'):\n"
        "            time.sleep(1); sys.exit(143)  # longer than the patience with a rank that fails"
    )  # fmt: skip
    watched = Watched(tmp_path, body)
    os.kill(watched.ranks[1], signal.SIGTERM)
    assert watched.ended() == (143, "")


def test_a_second_signal_ends_ranks_that_do_not_listen(tmp_path):
    watched = Watched(
        tmp_path, "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nREADY\nwhile True:\n    time.sleep(0.05)\n"
    )
    watched.process.send_signal(signal.SIGTERM)
    time.sleep(1.2)  # sooner it would be the same wish
    watched.process.send_signal(signal.SIGTERM)
    assert watched.ended() == (143, "")


def test_a_failure_while_saving_is_not_taken_for_a_stop(tmp_path):
    body = SAVES.format(folder=tmp_path).replace(
        "sys.exit(128 + number)", "sys.stderr.write('error: the disk is full\\n'); sys.exit(1)"
    )
    watched = Watched(tmp_path, body)
    watched.process.terminate()
    assert watched.ended() == (1, "error: the disk is full\n")


def test_when_the_watching_process_is_killed_no_rank_stays_behind(tmp_path):
    watched = Watched(tmp_path, "READY\ntime.sleep(600)")
    watched.process.kill()
    assert watched.ended()[0] == -signal.SIGKILL
