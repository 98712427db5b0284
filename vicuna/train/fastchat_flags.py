"""The flags of FastChat's trainers whose translation needs no thought, as tables.

FastChat 0.2.36 (`train.py`, `train_lora.py`) with the TrainingArguments of transformers 4.28 to 4.57 that it inherits.
"""

DEFAULTS = {
    "model_max_length": "512", "per_device_train_batch_size": "8", "gradient_accumulation_steps": "1",
    "learning_rate": "5e-5", "lr_scheduler_type": "linear", "warmup_ratio": "0", "bf16": "False",
    "gradient_checkpointing": "False",
}  # fmt: skip
"""Their defaults, where another one here would change what is learnt."""
LORA_DEFAULTS = {
    "lora_r": "8", "lora_alpha": "16", "lora_dropout": "0.05", "lora_target_modules": "q_proj v_proj",
    "q_lora": "False",
}  # fmt: skip
"""The same of train_lora.py."""
RENAMED = {
    "num_train_epochs": "batch.epochs", "learning_rate": "optim.lr", "weight_decay": "optim.weight_decay",
    "adam_beta1": "optim.beta1", "adam_beta2": "optim.beta2", "ddp_timeout": "launch.timeout", "seed": "seed",
    "save_total_limit": "checkpoint.keep", "logging_steps": "track.log_every", "project": "track.project",
    "lora_r": "lora.rank", "lora_alpha": "lora.alpha", "lora_dropout": "lora.dropout",
    "lora_target_modules": "lora.targets",
}  # fmt: skip
"""Flags that are settings under another name."""
SWITCHED = {
    "tf32": ("tf32", "true", "false"), "torch_compile": ("compile", "true", "false"),
    "gradient_checkpointing": ("gradient_checkpointing", "1", "0"), "use_cpu": ("device", "cpu", "auto"),
    "no_cuda": ("device", "cpu", "auto"),
}  # fmt: skip
"""Switches: the setting, and its values for on and off."""
REFUSED = {
    "lora_bias": ("biases are not learnt beside an adapter",),
    "adam_epsilon": ("it is 1e-8", "1e-8", "1e-08"),
    "adafactor": ("there are adamw (taken now) and adamw8bit",),
    "optim_args": ("the optimiser's settings are --optim.*",),
    "lr_scheduler_kwargs": ("a schedule has --optim.warmup and --optim.final", "{}"),
    "label_smoothing_factor": ("targets are the tokens themselves",),
    "neftune_noise_alpha": ("no noise is added to embeddings",),
    "trust_remote_code": ("code from a model's folder is never run; transformers' own architectures load",),
    "auto_find_batch_size": ("an out-of-memory error says what to lower",),
    "load_best_model_at_end": ("the last weights are the result",),
    "data_seed": ("--seed decides the order of the data too",),
    "use_mps_device": ("there are CUDA and the CPU",),
    "push_to_hub": ("upload the model folder with `hf upload`",),
    "full_determinism": ("runs on the CPU repeat bit for bit, on CUDA not quite",),
    "parallelism_config": ("weights are sharded over all ranks, and nothing else is",),
    "sharded_ddp": ("weights are sharded by --parallel.*",),
}
"""Flags without a counterpart: why, and values that need none."""
_REASONS = {
    "tokens are made once, by several processes, and kept": "lazy_preprocess dataloader_num_workers "
    "dataloader_prefetch_factor dataloader_persistent_workers dataloader_pin_memory remove_unused_columns label_names",
    "samples are packed, so there is no padding": "padding_side group_by_length length_column_name",
    "no sample is left over": "dataloader_drop_last",
    "the fastest kernel of packed attention that is there is taken (--attention)": "flash_attn",
    "FastChat never read it": "lora_weight_path",
    "decoder layers are found by themselves": "fsdp_transformer_layer_cls_to_wrap fsdp_min_num_params",
    "sharding is set by --parallel.*": "fsdp_config accelerator_config",
    "FSDP2 shards what ZeRO-3 shards; to offload add --parallel.cpu_offload": "deepspeed",
    "held-out data is packed like the rest": "per_device_eval_batch_size per_gpu_eval_batch_size "
    "eval_accumulation_steps eval_do_concat_batches eval_use_gather_object batch_eval_metrics bf16_full_eval "
    "fp16_full_eval prediction_loss_only include_inputs_for_metrics include_for_metrics",
    "the held-out loss has its settings in --data.* and --track.*": "eval_delay eval_on_start do_eval "
    "metric_for_best_model greater_is_better",
    "it is --per_device_train_batch_size now, see --batch.bins": "per_gpu_train_batch_size",
    "a run goes on from its newest checkpoint by itself": "resume_from_checkpoint ignore_data_skip "
    "restore_callback_states_from_checkpoint",
    "a run folder with another run's work is refused; choose another --out": "overwrite_output_dir",
    "checkpoints are whole and sharded, the result is safetensors": "save_safetensors save_only_model "
    "save_on_each_node",
    "HF_HOME in the environment names the hub's cache": "cache_dir",
    "the run folder is the run's name": "run_name",
    "logs, curves and metrics are in the run folder": "logging_dir",
    "a progress line comes every --track.log_every steps": "logging_strategy logging_first_step disable_tqdm",
    "VICUNA_LOG in the environment sets the level": "log_level log_level_replica log_on_each_node debug",
    "a loss that is not finite ends the run": "logging_nan_inf_filter",
    "they are always counted": "include_tokens_per_second include_num_input_tokens_seen skip_memory_metrics "
    "average_tokens_across_devices",
    "each rank gets its number from what starts it": "local_rank ddp_backend ddp_find_unused_parameters "
    "ddp_bucket_cap_mb ddp_broadcast_buffers mp_parameters tpu_num_cores tpu_metrics_debug",
    "the precision is --dtype": "fp16_opt_level half_precision_backend fp16_backend use_ipex jit_mode_eval",
    "recomputation is set by --gradient_checkpointing": "gradient_checkpointing_kwargs",
    "layers are compiled with --compile": "torch_compile_backend torch_compile_mode torchdynamo",
    "the loss never makes the logits of a whole batch": "use_liger_kernel liger_kernel_config",
    "the command does one thing": "do_train do_predict past_index use_legacy_prediction_loop ray_scope "
    "optim_target_modules torch_empty_cache_steps dispatch_batches split_batches xpu_backend",
    "upload the model folder with `hf upload`": "push_to_hub_model_id push_to_hub_organization push_to_hub_token "
    "hub_model_id hub_strategy hub_token hub_private_repo hub_always_push hub_revision trackio_space_id",
}
NEEDLESS = {name: why for why, names in _REASONS.items() for name in names.split()}
"""Flags of which nothing is left to say here: why."""
