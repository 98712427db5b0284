"""What is said of a run before it begins, and what an out-of-memory error becomes."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen3MoeConfig

from vicuna.config import load
from vicuna.errors import ConfigError, InputError
from vicuna.hardware import GIB, GPUS, Device
from vicuna.train.config import TrainConfig
from vicuna.train.forecast import MFU, Forecast, Load, forecast, out_of_memory, planned_on, show
from vicuna.train.optim import make_optimizer
from vicuna.train.parallel import World

# 370 million tokens, three times: FastChat's docs/vicuna_weights_version.md for Vicuna 1.5.
VICUNA = Load(375_000, 1_110_000_000, 800_000_000, squares=1_110_000_000 * 1200, steps=4235, bins=542_000)
A100, H100 = GPUS["A100 80GB"], GPUS["H100"]
CPU, SMALL = Device("cpu", 64 * GIB), Device("NVIDIA X1", 6 * GIB)


def llama(folder: Path, layers: int) -> Path:
    LlamaConfig(
        architectures=["LlamaForCausalLM"], vocab_size=32_000, hidden_size=4096, num_hidden_layers=layers,
        num_attention_heads=32, intermediate_size=11_008, tie_word_embeddings=False,
    ).save_pretrained(folder)  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def llama_7b(tmp_path_factory) -> Path:
    return llama(tmp_path_factory.mktemp("llama"), 32)


@pytest.fixture(scope="module")
def short(tmp_path_factory) -> Path:
    """As wide as LLaMA 7B, of two layers: 667 million parameters."""
    return llama(tmp_path_factory.mktemp("short"), 2)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    Qwen2Config(
        architectures=["Qwen2ForCausalLM"], vocab_size=512, hidden_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, intermediate_size=128,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def expect(folder: Path, *words: str, ranks: int = 8, device: Device = A100) -> Forecast:
    return forecast(load(TrainConfig, list(words)), folder, VICUNA, ranks, device)


def test_seven_billion_on_eight_a100s_take_the_hours_that_arithmetic_says(llama_7b):
    found = expect(llama_7b)
    by_hand = 6 * found.parameters.total * VICUNA.tokens / (312e12 * MFU["none"]) / 3600
    assert found.parameters.total == 6_738_415_616
    assert 8 * found.hours == pytest.approx(by_hand, rel=0.02)
    assert found.fits


def test_the_forecast_says_all_that_people_ask_before_a_run(llama_7b):
    said = show(expect(llama_7b))
    for part in (
        "6.74 billion parameters, on 8 x A100 80GB",
        "4,235 steps, 542,000 bins of 2,048 tokens: 375,000 samples, 1,110,000,000 tokens, 800,000,000 targets",
        "weights", "gradients", "optimiser", "gathered", "activations", "it fits: 18.8 GiB of the 79.0 GiB there are",
        "88.6 GPU-hours, at an assumed 45% of the peak rate (MFU)",
        "$158.68 on demand ($1.79 for a GPU-hour: RunPod, 2026-11-09) or $95.74 spot",
        "kWh",
    ):  # fmt: skip
        assert part in said
    assert "WARNING" not in said


def test_a_price_of_ones_own_goes_before_the_table(llama_7b):
    said = show(expect(llama_7b, "--track.price", "1.56"))
    assert "$138.29, at $1.56 for a GPU-hour" in said
    assert "RunPod" not in said


def test_what_does_not_fit_is_warned_of_with_flags_that_help(short):
    words = ["--gradient_checkpointing", "0", "--batch.tokens", "16384"]
    found = expect(short, *words, ranks=2, device=SMALL)
    warning = show(found).splitlines()[-1]
    assert not found.fits
    assert warning.startswith(
        f"WARNING: the run needs about {found.memory.needed / GIB:.1f} GiB on each GPU, and there "
    )
    flags = [
        "--gradient_checkpointing 1 (", "--batch.tokens 2048 (", "4 GPUs (", "--parallel.cpu_offload true (",
        "--optim.name adamw8bit (", "--lora.kind lora (", "--lora.kind qlora (",
    ]  # fmt: skip
    places = [warning.index(flag) for flag in flags]
    assert places == sorted(places)


def test_the_flags_of_a_warning_do_what_it_says(short):
    warning = show(expect(short, ranks=1, device=SMALL)).splitlines()[-1]
    for words in (
        ["--parallel.cpu_offload", "true"], ["--optim.name", "adamw8bit"], ["--lora.kind", "lora"],
        ["--lora.kind", "qlora"],
    ):  # fmt: skip
        needed = expect(short, *words, ranks=1, device=SMALL).memory.needed
        assert f"{' '.join(words)} ({needed / GIB:.1f} GiB)" in warning


def test_nothing_is_advised_that_the_run_does_already(tiny):
    found = expect(tiny, "--lora.kind", "qlora", "--optim.name", "adamw8bit", ranks=1, device=Device("cpu", GIB))
    assert not found.fits
    assert "what needs less: a smaller model" in show(found)


def test_an_adapter_needs_less_memory_and_less_work(short):
    full, lora, qlora = (expect(short, "--lora.kind", kind, ranks=1) for kind in MFU)
    assert full.memory.total > 3 * lora.memory.total > 3 * qlora.memory.total
    assert lora.parameters.trainable < 0.01 * lora.parameters.total
    assert "2.5 million of them learning" in show(lora)
    work = [each.flops.model(1000, 0, 1000) for each in (full, lora)]
    assert work[1] == pytest.approx(2 / 3 * work[0], rel=0.02)


def test_adamw_in_8_bits_takes_what_was_said(tmp_path):
    pytest.importorskip("bitsandbytes")
    settings = LlamaConfig(
        vocab_size=512, hidden_size=256, num_hidden_layers=1, num_attention_heads=4, intermediate_size=300,
        tie_word_embeddings=False, architectures=["LlamaForCausalLM"],
    )  # fmt: skip
    settings.save_pretrained(tmp_path)
    model = LlamaForCausalLM(settings)
    config = load(TrainConfig, ["--optim.name", "adamw8bit"])
    optimizer = make_optimizer(model, config.optim)
    for each in model.parameters():
        each.grad = torch.ones_like(each)
    optimizer.step()
    states = [tensor for state in optimizer.state.values() for name, tensor in state.items() if name != "step"]
    assert forecast(config, tmp_path, VICUNA, 1, CPU).memory.optimizer == sum(each.nbytes for each in states)


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("device", [CPU, A100], ids=["cpu", "gpu"])
@pytest.mark.parametrize("kind", sorted(MFU))
@pytest.mark.parametrize("dtype", ["auto", "float32", "bfloat16"])
def test_every_way_to_train_has_an_estimate(tiny, kind, device, ranks, dtype):
    found = expect(tiny, "--lora.kind", kind, "--dtype", dtype, ranks=ranks, device=device)
    assert found.fits
    assert (found.hours is None) == (device is CPU)
    assert 0 < found.memory.total < GIB
    assert found.memory.activations > 0


def test_on_the_cpu_no_hours_and_no_dollars_are_made_up(tiny):
    said = show(expect(tiny, ranks=1, device=CPU))
    assert "on the CPU" in said
    assert not any(word in said for word in ("hours", "minutes", "$", "kWh"))


def test_a_gpu_without_a_known_rate_says_so(tiny):
    said = show(expect(tiny, device=Device("NVIDIA X1", 48 * GIB)))
    assert "the peak rate of NVIDIA X1 is not known" in said
    assert "48.0 GiB" in said


def test_a_laptop_can_plan_for_gpus(tiny):
    config = load(TrainConfig, ["--dry_run", "true", "--launch.gpu", "H100", "--launch.ranks", "8"])
    assert planned_on(config, World()) == (8, H100)
    here = planned_on(TrainConfig(), World(local_size=2))
    assert here[0] == 1
    assert here[1].name == "cpu"
    with pytest.raises(ConfigError, match=r"launch.gpu: nothing is known of 'H1000', but of A100, A100 80GB, .*V100"):
        planned_on(replace(config, launch=replace(config.launch, gpu="H1000")), World())


def test_an_out_of_memory_error_becomes_advice(short, tiny):
    too_much, enough = expect(short, ranks=1, device=SMALL), expect(tiny)
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    said = str(out_of_memory(caught.value, too_much))
    assert said.startswith("out of memory: the run needs about ")
    assert "--parallel.cpu_offload true (" in said
    assert "\n" not in said
    for error in (MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")):
        said = str(out_of_memory(error, enough))
        assert "though the run was estimated to need 1.5 GiB of 79.0 GiB; see what else is on the device" in said


@pytest.mark.parametrize("error", [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("memory")])
def test_other_errors_stay_what_they_are(tiny, error):
    assert out_of_memory(error, expect(tiny)) is None


def test_a_folder_without_a_model_is_one_line(tmp_path):
    with pytest.raises(InputError, match="holds no configuration of a model that can be read"):
        expect(tmp_path)


def test_a_model_of_experts_has_a_forecast_in_either_precision(tmp_path):
    """torch's meta device multiplies by groups in bfloat16 only."""
    Qwen3MoeConfig(
        architectures=["Qwen3MoeForCausalLM"], vocab_size=512, hidden_size=64, num_hidden_layers=2, num_experts=4,
        num_attention_heads=4, num_key_value_heads=2, num_experts_per_tok=2, moe_intermediate_size=64,
    ).save_pretrained(tmp_path)  # fmt: skip
    narrow, wide = (
        expect(tmp_path, "--dtype", dtype, "--parallel.shard", "on", ranks=1, device=Device("cpu", 2**34))
        for dtype in ("bfloat16", "float32")
    )
    assert wide.memory.activations == pytest.approx(2 * narrow.memory.activations, rel=0.01)
    assert wide.flops == narrow.flops
