"""FastChat's own command lines, as its README, documentation and scripts give them, and what they become."""

import shlex
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vicuna.config import load
from vicuna.errors import ConfigError
from vicuna.train.config import TrainConfig
from vicuna.train.translate import translate

COMMON = "--save_strategy steps --learning_rate 2e-5 --weight_decay 0. --lr_scheduler_type cosine --logging_steps 1 "
README = (
    "torchrun --nproc_per_node=4 --master_port=20001 fastchat/train/train_mem.py "
    "--model_name_or_path meta-llama/Llama-2-7b-hf --data_path data/dummy_conversation.json --bf16 True "
    "--output_dir output_vicuna --num_train_epochs 3 --per_device_train_batch_size 2 --per_device_eval_batch_size 2 "
    "--gradient_accumulation_steps 16 --evaluation_strategy no --save_steps 1200 --save_total_limit 10 "
    f"{COMMON} --warmup_ratio 0.03 --fsdp 'full_shard auto_wrap' "
    "--fsdp_transformer_layer_cls_to_wrap LlamaDecoderLayer --tf32 True --model_max_length 2048 "
    "--gradient_checkpointing True --lazy_preprocess True"
)
VICUNA_7B = (
    "torchrun --nproc_per_node=16 --master_port=20001 fastchat/train/train.py --model_name_or_path /models/llama-7b "
    "--data_path /data/sharegpt.json --fp16 --output_dir output_7b --num_train_epochs 3 "
    "--per_device_train_batch_size 2 --per_device_eval_batch_size 16 --gradient_accumulation_steps 16 "
    "--evaluation_strategy steps --eval_steps 1500 --save_steps 1500 --save_total_limit 8 "
    f"{COMMON} --warmup_ratio 0.04 --fsdp 'full_shard auto_wrap' "
    "--fsdp_transformer_layer_cls_to_wrap 'LlamaDecoderLayer' --model_max_length 2048 --gradient_checkpointing True "
    "--lazy_preprocess True"
)
VICUNA_13B = (
    "torchrun --nproc_per_node=8 --master_port=20001 fastchat/train/train_mem.py --model_name_or_path ~/llama-13b "
    "--data_path ~/sharegpt.json --bf16 True --output_dir output13b --num_train_epochs 3 "
    "--per_device_train_batch_size 4 --per_device_eval_batch_size 4 --gradient_accumulation_steps 4 "
    "--evaluation_strategy steps --eval_steps 1200 --save_steps 1200 "
    f"{COMMON} --warmup_ratio 0.04 --fsdp 'full_shard auto_wrap offload' "
    "--fsdp_transformer_layer_cls_to_wrap LlamaDecoderLayer --tf32 True --model_max_length 2048 "
    "--gradient_checkpointing True --lazy_preprocess True"
)
QLORA = (
    "deepspeed fastchat/train/train_lora.py --model_name_or_path ~/llama-7b --lora_r 8 --lora_alpha 16 "
    "--lora_dropout 0.05 --data_path ./data/dummy_conversation.json --bf16 True --output_dir ./checkpoints "
    "--num_train_epochs 3 --per_device_train_batch_size 1 --per_device_eval_batch_size 1 "
    "--gradient_accumulation_steps 1 --evaluation_strategy no --save_steps 1200 --save_total_limit 100 "
    f"{COMMON} --warmup_ratio 0.03 --tf32 True --model_max_length 2048 --q_lora True "
    "--deepspeed playground/deepspeed_config_s2.json"
)
LORA = (
    "deepspeed --num_gpus 6 fastchat/train/train_lora.py --model_name_or_path lmsys/vicuna-7b-v1.3 --lora_r 8 "
    "--lora_alpha 16 --lora_dropout 0.05 --data_path chats.jsonl --output_dir ./checkpoints --num_train_epochs 150 "
    "--fp16 True --per_device_train_batch_size 2 --per_device_eval_batch_size 2 --gradient_accumulation_steps 1 "
    "--evaluation_strategy steps --eval_steps 100 --save_steps 200 --save_total_limit 2 "
    f"{COMMON} --warmup_ratio 0.03 --logging_strategy steps --tf32 True --model_max_length 2048 --q_lora False "
    "--deepspeed s2.json --gradient_checkpointing True --lora_weight_path ./lora_weights --flash_attn False"
)
QLORA_7B_BASE = (
    "deepspeed ../fastchat/train/train_lora.py --run_name test --model_name_or_path base --lora_r 8 --lora_alpha 16 "
    "--lora_dropout 0.05 --data_path train.json --eval_data_path test.json --output_dir out --num_train_epochs 10 "
    "--bf16 True --per_device_train_batch_size 16 --per_device_eval_batch_size 16 --gradient_accumulation_steps 2 "
    "--evaluation_strategy epoch --save_strategy epoch --save_total_limit 3 --learning_rate 3e-4 --weight_decay 0. "
    "--warmup_ratio 0.03 --lr_scheduler_type cosine --logging_strategy steps --logging_steps 1 --tf32 True "
    "--model_max_length 1024 --q_lora True --deepspeed s2.json --gradient_checkpointing True --flash_attn True"
)
NPU = (
    "torchrun --nproc_per_node=8 --master_port=20001 fastchat/train/train.py "
    "--model_name_or_path ~/vicuna-7b-v1.5-16k --data_path data/dummy_conversation.json --fp16 True "
    "--output_dir output_vicuna --num_train_epochs 3 --per_device_train_batch_size 8 --per_device_eval_batch_size 1 "
    f"--gradient_accumulation_steps 1 --evaluation_strategy no --save_steps 1200 {COMMON} --warmup_ratio 0.03 "
    "--fsdp 'full_shard auto_wrap' --fsdp_transformer_layer_cls_to_wrap LlamaDecoderLayer --model_max_length 2048 "
    "--gradient_checkpointing True --lazy_preprocess True"
)


def loaded(line: str) -> tuple[TrainConfig, dict[str, str]]:
    """The settings of the new command, and what was said of each old flag."""
    command, notes = translate(shlex.split(line))
    words = shlex.split(command.replace("\\\n", ""))
    assert words[:3] == ["python", "-m", "vicuna.train"]
    return load(TrainConfig, words[3:]), {note.removeprefix("--").split()[0].rstrip(":"): note for note in notes}


@pytest.mark.parametrize("line", [README, VICUNA_7B, VICUNA_13B, QLORA, LORA, QLORA_7B_BASE, NPU])
def test_every_published_command_loads_and_every_flag_of_it_is_accounted_for(line):
    config, notes = loaded(line)
    flags = {word[2:] for word in shlex.split(line.partition(".py ")[2]) if word.startswith("--")}
    assert flags <= notes.keys()
    assert config.model.template == "vicuna_v1.1"
    assert config.data.overlong == "cut"
    assert not any("NOT SUPPORTED" in note for note in notes.values())


def test_the_readmes_command_becomes_its_recipe():
    config, notes = loaded(README)
    assert config.model.path == "meta-llama/Llama-2-7b-hf"
    assert config.data.path == "data/dummy_conversation.jsonl"
    assert "vicuna.data convert data/dummy_conversation.json --out" in notes["data_path"]
    assert (config.out, config.launch.ranks, config.batch.bins, config.batch.epochs) == ("output_vicuna", 4, 128, 3)
    assert (config.optim.lr, config.optim.weight_decay, config.optim.warmup) == (2e-5, 0, 0.03)
    assert (config.optim.schedule, config.dtype, config.tf32) == ("cosine", "bfloat16", True)
    assert (config.checkpoint.every, config.checkpoint.keep, config.track.log_every) == (1200, 10, 1)
    assert (config.model.max_length, config.gradient_checkpointing, config.lora.kind) == (2048, 1, "none")
    assert (config.parallel.shard, config.parallel.cpu_offload) == ("auto", False)


def test_offload_and_the_length_of_a_step_come_along():
    config, notes = loaded(VICUNA_13B)
    assert config.parallel.cpu_offload
    assert config.batch.bins == 128
    assert "4 rows x 4 passes x 8 processes" in notes["per_device_train_batch_size"]


def test_a_held_out_loss_without_held_out_data_is_pointed_out():
    assert "--data.held_out_share" in loaded(VICUNA_7B)[1]["evaluation_strategy"]


def test_adapters_come_along():
    config = loaded(QLORA)[0]
    assert (config.lora.kind, config.lora.rank, config.lora.alpha, config.lora.dropout) == ("qlora", 8, 16, 0.05)
    assert config.lora.targets == ("q_proj", "v_proj")
    assert loaded(LORA)[0].lora.kind == "lora"
    assert loaded(LORA)[0].batch.bins == 12
    assert loaded(QLORA_7B_BASE)[0].data.held_out == "test.jsonl"


def test_where_nothing_was_said_the_old_defaults_hold():
    config, notes = loaded("--model_name_or_path m --data_path d --output_dir o")
    assert (config.model.max_length, config.optim.lr, config.optim.schedule) == (512, 5e-5, "linear")
    assert (config.optim.warmup, config.dtype, config.gradient_checkpointing, config.batch.bins) == (0, "float32", 0, 8)
    assert "(the default then)" in notes["learning_rate"]
    assert "their number is not on the line" in notes["per_device_train_batch_size"]


def test_several_nodes_are_counted_and_left_to_their_launcher():
    several = README.replace("torchrun", "torchrun --nnodes 2 --node_rank 1 --master_addr 10.0.0.7")
    config, notes = loaded(several)
    assert (config.batch.bins, config.launch.ranks) == (256, 0)
    assert "under the same launcher" in notes["torchrun"]


def test_variables_in_front_stay_in_front():
    command, _ = translate(shlex.split("CUDA_VISIBLE_DEVICES=0,1 WANDB_PROJECT='my run' " + README))
    assert command.startswith("CUDA_VISIBLE_DEVICES=0,1 'WANDB_PROJECT=my run' python -m vicuna.train")


@pytest.mark.parametrize(
    ("flags", "key", "says"),
    [
        ("--label_smoothing_factor 0.1", "label_smoothing_factor", "NOT SUPPORTED"),
        ("--label_smoothing_factor 0.0", "label_smoothing_factor", "not needed"),
        ("--lr_scheduler_type polynomial", "lr_scheduler_type", "NOT SUPPORTED"),
        ("--warmup_steps 100", "warmup_steps", "NOT SUPPORTED as a count"),
        ("--optim adafactor", "optim", "NOT SUPPORTED"),
        ("--report_to mlflow", "report_to", "NOT SUPPORTED"),
        ("--trust_remote_code True", "trust_remote_code", "NOT SUPPORTED"),
        ("--fsdp 'hybrid_shard auto_wrap'", "fsdp", "NOT SUPPORTED: hybrid"),
        ("--eval_data_path e.jsonl", "eval_data_path", "not taken over"),
        ("--deepspeed zero3.json", "deepspeed", "ZeRO-3"),
        ("--model_max_length 16384", "model_max_length", "--rope.kind linear"),
    ],
)
def test_what_cannot_be_had_is_said(flags, key, says):
    assert says in loaded(f"--model_name_or_path m --data_path d {flags}")[1][key]


@pytest.mark.parametrize(
    ("flags", "setting"),
    [
        ("--max_grad_norm 0", {"optim.max_norm": float("inf")}),
        ("--lr_scheduler_type constant --warmup_ratio 0.1", {"optim.schedule": "constant", "optim.warmup": 0}),
        ("--lr_scheduler_type constant_with_warmup --warmup_ratio 0.1", {"optim.warmup": 0.1}),
        ("--warmup_steps 0.1 --warmup_ratio 0.3", {"optim.warmup": 0.1}),
        ("--fsdp 'shard_grad_op auto_wrap'", {"parallel.reshard": False}),
        ("--fsdp no_shard", {"parallel.shard": "off"}),
        ("--save_strategy no --save_steps 10", {"checkpoint.every": 0}),
        ("--optim adamw_bnb_8bit", {"optim.name": "adamw8bit"}),
        ("--max_steps -1", {"batch.max_steps": 0}),
        ("--max_steps 20 --report_to wandb", {"batch.max_steps": 20, "track.tracker": "wandb"}),
        (
            "--eval_data_path e.jsonl --eval_strategy steps --eval_steps 50",
            {"track.held_out_every": 50, "data.held_out": "e.jsonl"},
        ),
        ("--lora_target_modules q_proj k_proj", {"lora.kind": "lora", "lora.targets": ("q_proj", "k_proj")}),
    ],
)
def test_flags_that_change_their_meaning_keep_their_effect(flags, setting):
    config, _ = loaded(f"--model_name_or_path m --data_path d {flags}")
    for key, value in setting.items():
        group, _, name = key.rpartition(".")
        assert getattr(getattr(config, group), name) == value


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("--model_name m", r"--model_name is unknown .*did you mean --model_name_or_path"),
        ("--wibble 3", "--wibble is unknown to FastChat's trainers"),
        ("--learning_rate", "--learning_rate needs a value"),
        ("--gradient_accumulation_steps four", "--gradient_accumulation_steps is a number; got 'four'"),
        ("--bf16 maybe", "--bf16 is True or False; got 'maybe'"),
        ("--eval_strategy steps --eval_steps 0.1", "track.held_out_every"),
        ("torchrun fastchat/train/train_flant5.py --bf16 True", "train_flant5 cannot be translated"),
        ("train.py data", "unexpected 'data'"),
    ],
)
def test_a_line_that_cannot_be_translated_says_why(line, says):
    with pytest.raises(ConfigError, match=says):
        translate(shlex.split(line))


FLAGS = README.partition(".py ")[2]


@settings(deadline=None, max_examples=30)
@given(st.permutations(FLAGS.split(" --")), st.booleans(), st.booleans())
def test_order_dashes_and_equals_signs_make_no_difference(parts, dashes, equals):
    words = []
    for part in parts:
        name, value = shlex.split("--" + part.removeprefix("--"))
        name = "--" + name[2:].replace("_", "-") if dashes else name
        words += [f"{name}={value}"] if equals else [name, value]
    config, _ = loaded(shlex.join(words))
    assert config == loaded(FLAGS)[0]


def test_the_command_prints_the_new_line_alone_on_standard_output():
    words = [sys.executable, "-m", "vicuna.train", "translate", "--", *shlex.split(README)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == (
        translate(shlex.split(README))[0] + "\n",
        "\n".join(translate(shlex.split(README))[1]) + "\n",
    )
    wrong = subprocess.run([*words, "--wibble", "3"], capture_output=True, text=True)
    assert (wrong.returncode, wrong.stdout) == (2, "")
