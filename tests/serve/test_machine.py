"""What the engine takes of a machine: never more than there is, always enough for one answer, and said in words."""

from pathlib import Path

import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vicuna.errors import ConfigError
from vicuna.hardware import GIB
from vicuna.serve.config import EngineConfig
from vicuna.serve.engines.continuous import machine
from vicuna.serve.engines.continuous.machine import BLOCK, SMALLEST, Chosen, choose, device_and_dtype, free_memory

CPU = torch.device("cpu")


def chosen(
    free: float, *, token: int = 2**13, context: int = 2048, device: str = "cpu", share: float = 1, **settings: float
) -> Chosen:
    """What is chosen with so many GiB free, and keys and values of 8 KiB for each token."""
    return choose(EngineConfig(**settings), token, context, int(free * GIB), device, share=share)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------- device and dtype
def test_without_a_gpu_the_cpu_computes_in_float32() -> None:
    device, dtype = device_and_dtype(EngineConfig(device="cpu"))
    assert (device, dtype) == (CPU, torch.float32)
    if not torch.cuda.is_available():
        assert device_and_dtype(EngineConfig())[0] == CPU


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_dtype_that_is_named_is_taken(dtype: str) -> None:
    assert device_and_dtype(EngineConfig(device="cpu", dtype=dtype))[1] == getattr(torch, dtype)


@pytest.mark.parametrize("device", ["warp", "meta", "cuda:99", "cuda:x"])
def test_a_device_that_is_not_there_is_a_wrong_setting_in_one_line(device: str) -> None:
    with pytest.raises(ConfigError, match=r"engine\.device '.*' cannot be used on this machine") as caught:
        device_and_dtype(EngineConfig(device=device))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", ["float3", "int8", "Tensor", ""])
def test_a_dtype_that_no_model_runs_in_is_a_wrong_setting(dtype: str) -> None:
    with pytest.raises(ConfigError, match=r"engine\.dtype is auto, float32, bfloat16, float16; got"):
        device_and_dtype(EngineConfig(device="cpu", dtype=dtype))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_is_taken_where_there_is_one() -> None:
    device, dtype = device_and_dtype(EngineConfig())
    assert device.type == "cuda"
    assert dtype == (torch.bfloat16 if torch.cuda.get_device_capability(device)[0] >= 8 else torch.float16)
    before = free_memory(device)
    held = torch.zeros(2**28, dtype=torch.uint8, device=device)
    assert before - free_memory(device) >= held.numel() // 2
    del held
    assert free_memory(device) >= before - 2**26  # what torch keeps for later counts as free


# ------------------------------------------------------------------------------------- memory
def test_free_memory_is_at_most_what_the_machine_has() -> None:
    assert 0 < free_memory(CPU) <= psutil.virtual_memory().total


def write(folder: Path, **files: int | str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / name.replace("__", ".")).write_text(f"{value}\n")


def left(tmp_path: Path, line: str) -> list[int]:
    (tmp_path / "membership").write_text(f"5:devices:/\n{line}\n")
    return list(machine._left_in_groups(tmp_path / "membership", tmp_path / "groups"))


def test_a_container_of_version_2_bounds_the_memory_and_copies_of_files_count_as_free(tmp_path: Path) -> None:
    files = {"memory__max": 1000, "memory__current": 700, "memory__stat": "anon 500\ninactive_file 150"}
    write(tmp_path / "groups" / "outer" / "own", **files)
    write(tmp_path / "groups" / "outer", memory__max="max", memory__high=600, memory__current=500)
    write(tmp_path / "groups")
    assert left(tmp_path, "0::/outer/own") == [450, 100]


def test_a_container_of_version_1_bounds_the_memory(tmp_path: Path) -> None:
    files = {"memory__limit_in_bytes": 1000, "memory__usage_in_bytes": 900, "memory__stat": "total_inactive_file 50"}
    write(tmp_path / "groups" / "memory", **files)
    assert left(tmp_path, "4:cpu,memory:/docker/0123") == [150]


def test_a_group_that_is_over_its_limit_has_nothing_left(tmp_path: Path) -> None:
    write(tmp_path / "groups", memory__max=100, memory__current=300)
    assert left(tmp_path, "0::/") == [0]


def test_without_control_groups_only_the_machine_bounds_the_memory(tmp_path: Path) -> None:
    assert list(machine._left_in_groups(tmp_path / "missing", tmp_path)) == []
    assert left(tmp_path, "0::/not/mounted/here") == []


# ------------------------------------------------------------------------------------- choices
@pytest.mark.parametrize(
    ("given", "slots", "room", "context"),
    [
        # On a CPU 32 answers, twice their full contexts while that is at most a quarter of the memory.
        (chosen(64), 32, 2 * 32 * 2048, 2048),
        (chosen(64, prefix_cache=False), 32, 32 * 2048, 2048),
        (chosen(64, slots=4), 4, 2 * 4 * 2048, 2048),
        (chosen(1), 32, GIB // 4 // 2**13, 2048),
        (chosen(0.125), 8, 4096, 2048),
        (chosen(0.03125), 4, 1024, 1024),
        # On a GPU four fifths, and many answers of which few are long.
        (chosen(64, device="cuda", token=2**17, context=131072), 204, 419424, 131072),
        (chosen(64, device="cuda"), 256, 2 * 256 * 2048, 2048),
        # What is set is taken, even where not every slot finds memory.
        (chosen(64, memory=1), 32, GIB // 2**13, 2048),
        (chosen(64, memory=0.03125, slots=50), 50, 4096, 2048),
        (chosen(64, context=8, slots=1), 1, 32, 8),
    ],
)
def test_memory_context_and_slots_are_chosen_from_the_machine(
    given: Chosen, slots: int, room: int, context: int
) -> None:
    assert (given.slots, given.room, given.max_length) == (slots, room, context)


@pytest.mark.parametrize(
    ("free", "settings", "complaint"),
    [
        (8, {"memory": 9}, r"engine\.memory asks for 9 GiB, but only 8\.0 GiB are free"),
        (8, {"memory": 1e-12}, r"engine\.memory is 0\.0 KiB and holds 0 tokens"),
        (8, {"memory": float("inf")}, r"engine\.memory asks for inf GiB"),
        (8, {"memory": float("nan")}, r"engine\.memory asks for nan GiB"),
        (
            8,
            {"memory": 0.001},
            r"engine\.memory is 1\.0 MiB and holds 128 tokens .* 256 tokens, takes 2\.0 MiB\. Set more",
        ),
        (
            0.001,
            {},
            r"1/4 of the free memory is 0\.3 MiB and holds 32 tokens .*, set engine\.memory, or",
        ),
        (0.001, {"share": 0.5}, r"1/8 of the free memory is 0\.1 MiB and holds 16 tokens"),
        (0, {}, r"is 0\.0 KiB and holds 0 tokens"),
    ],
)
def test_where_no_answer_would_fit_the_worker_says_so(free: float, settings: dict[str, float], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        chosen(free, **settings)


SETTINGS = st.builds(
    EngineConfig,
    slots=st.integers(0, 600),
    memory=st.just(0.0) | st.floats(0.001, 8),
    prefix_cache=st.booleans(),
    prefill=st.integers(0, 4096),
)
TOKEN = st.integers(1, 2**21)
CONTEXT = st.integers(8, 200_000)
FREE = st.integers(0, 2**38)
DEVICE = st.sampled_from(["cpu", "cuda", "mps"])
BLOCKS = st.sampled_from([BLOCK, 256])


def attempt(config: EngineConfig, token: int, context: int, free: int, device: str, block: int) -> Chosen | None:
    try:
        return choose(config, token, context, free, device, block)
    except ConfigError:
        return None


@given(SETTINGS, TOKEN, CONTEXT, FREE, DEVICE, BLOCKS)
def test_whatever_the_machine_the_cache_fits_and_holds_an_answer_that_fills_the_context(
    config: EngineConfig, token: int, context: int, free: int, device: str, block: int
) -> None:
    found = attempt(config, token, context, free, device, block)
    if found is None:
        budget = config.memory * GIB or free / 4
        assert budget > free or budget < (min(context, SMALLEST) + block) * token
        return
    assert found.room * token <= (config.memory * GIB or free)
    assert found.room % block == 0
    assert min(context, SMALLEST) <= found.max_length <= min(context, found.room)
    assert found.slots == config.slots or (not config.slots and 1 <= found.slots <= 256)
    assert found.prefill == config.prefill


@given(SETTINGS, TOKEN, CONTEXT, FREE, FREE, DEVICE, BLOCKS)
def test_more_memory_never_makes_anything_smaller(
    config: EngineConfig, token: int, context: int, free: int, more: int, device: str, block: int
) -> None:
    less = attempt(config, token, context, free, device, block)
    if less is not None:
        found = choose(config, token, context, free + more, device, block)
        assert (found.slots, found.room, found.max_length) >= (less.slots, less.room, less.max_length)
        assert found.slots >= less.slots
        assert found.room >= less.room
        assert found.max_length >= less.max_length


def test_models_that_divide_the_memory_say_how_much_is_free_and_may_be_given_more_than_their_share() -> None:
    third = chosen(0.375, share=1 / 3)
    assert third.room * 12 == chosen(0.375).room * 4 == 0.375 * GIB // 2**13
    assert third.why["room"] == "1/12 of the 0.4 GiB that were free"
    assert chosen(8, share=1 / 3, memory=4).room == 4 * GIB // 2**13


def test_the_choices_are_told_in_one_line_with_what_they_follow_from() -> None:
    line = chosen(8).describe(CPU, torch.float32)
    assert line.startswith("cpu (")
    assert "float32; context 2048 (all that the model and the settings allow); 32 answers at once" in line
    assert "cache 1.0 GiB, 131072 tokens (64 full contexts; 8.0 GiB were free)" in line
    assert "; 1 answer at once (as set); " in chosen(8, slots=1).describe(CPU, torch.float32)
    tight = chosen(0.03125, prefill=512).describe(CPU, torch.bfloat16)
    assert "bfloat16; context 1024 (all that the cache holds, not 2048); 4 answers at once" in tight
    assert "cache 8.0 MiB, 1024 tokens (1/4 of the 32.0 MiB that were free); prompts 512 tokens a step" in tight
