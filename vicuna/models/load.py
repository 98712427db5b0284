"""Read checkpoints, tokenizers and the template that belongs to them. A mismatch is an error, never a guess."""

from pathlib import Path
from typing import Any

from vicuna import manifest
from vicuna.errors import IncompleteError, InputError
from vicuna.prompt import Template, template

WEIGHTS = ("*.safetensors", "pytorch_model*.bin")


def load_tokenizer(path: str | Path) -> Any:
    """The Hugging Face tokenizer in a folder.

    Raises:
        InputError: the folder or its tokenizer files are missing or unreadable.
    """
    from transformers import AutoTokenizer

    _need_folder(path, "a tokenizer")
    try:
        return AutoTokenizer.from_pretrained(str(path), local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path} holds no tokenizer that transformers can read: {_first_line(error)}") from error


def load_model(path: str | Path, dtype: Any, device: Any) -> Any:
    """The causal language model in a folder, on `device` and in evaluation mode.

    Args:
        path: folder with config.json and weights; one with a manifest must match it in its file list.
        dtype: torch dtype of the parameters.
        device: torch device.

    Raises:
        InputError: no such folder, no weights, or not a causal language model.
        IncompleteError: the manifest names weight files that are not there.
    """
    from transformers import AutoModelForCausalLM

    _need_folder(path, "a model")
    _need_weights(Path(path))
    quiet_transformers()
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            str(path), dtype=dtype, local_files_only=True, output_loading_info=True
        )
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path} holds no causal language model: {_first_line(error)}") from error
    if lost := sorted(set(info["missing_keys"]) | {str(each[0]) for each in info["mismatched_keys"]}):
        raise IncompleteError(f"{path}: {len(lost)} tensors are missing or of another shape, e.g. {lost[0]}")
    return model.to(device).eval()


def load_template(path: str | Path, override: str = "", tokenizer: Any = None) -> Template:
    """The prompt template that the weights in a folder were trained with.

    Args:
        path: checkpoint folder.
        override: name of a template to use; it must be the stored one where the manifest stores one.
        tokenizer: the folder's tokenizer, if it is loaded already.

    Raises:
        InputError: `override` is not the template the weights were trained with; or nothing says which template is
            right; or the stored one has changed since.
    """
    stored = manifest.read(path).facts if manifest.is_complete(path) else {}
    name, digest = stored.get("template", ""), stored.get("template_hash", "")
    if override and name and override != name:
        raise InputError(f"{path} was trained with template {name}, not {override}; leave the template unset")
    if override or (name and not name.startswith("chat-")):
        found = template(override or name)
    else:
        tokenizer = tokenizer or load_tokenizer(path)
        if not tokenizer.chat_template:
            raise InputError(f"nothing in {path} says which prompt template it was trained with; name one")
        found = template(tokenizer)
    if digest and found.hash != digest:
        raise InputError(f"{path} was trained with template {name} of hash {digest[:12]}; it is {found.hash[:12]} now")
    return found


def quiet_transformers() -> None:
    """No progress bars from transformers for what takes less than a second; our own commands say what they do."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def checkpoint_hash(path: str | Path) -> str:
    """The content hash that the folder's manifest states; for a folder from elsewhere, a hash of its files."""
    if manifest.is_complete(path):
        return manifest.read(path).hash
    return manifest.content_hash(path)


def _need_folder(path: str | Path, what: str) -> None:
    if not str(path):
        raise InputError(f"no folder is given for {what}; set the model's path")
    if not Path(path).is_dir():
        raise InputError(f"{path} is not a folder, so there is no {what.split()[-1]} to load")


def _need_weights(path: Path) -> None:
    found = {each.name for pattern in WEIGHTS for each in path.glob(pattern)}
    if not found:
        raise InputError(f"{path} holds no weights (*.safetensors)")
    if manifest.is_complete(path):
        named = manifest.read(path).files
        if lost := sorted(name for name in named if not (path / name).exists()):
            raise IncompleteError(f"{path}/{lost[0]} is missing since the manifest was written")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
