"""Read checkpoints, tokenizers and the template that belongs to them. A mismatch is an error, never a guess."""

import contextlib
import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vicuna import manifest
from vicuna.errors import IncompleteError, InputError
from vicuna.files import read_json
from vicuna.models import quantized
from vicuna.prompt import Template, template

logger = logging.getLogger(__name__)
_GENERAL = ("PreTrainedTokenizerFast", "TokenizersBackend")
"""The same class, by its names before and since transformers 5."""
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "vocab.txt")
"""What transformers makes tokenizers of."""
WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
"""What transformers takes weights from; the second form is that of many checkpoints from before 2024."""
_HUB_NAME = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")
_HUB_FILES = ("*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken")
"""Settings and tokenizers; nobody needs a repository's pictures or its weights in other formats."""
_HUB_SKIPS = ("*/*", "consolidated*")
"""The same weights again, as some makers add them."""


def fetch(path: str, *, weights: bool = True) -> Path:
    """The folder of a model that is named by its folder, or as `org/name[@revision]` on the Hugging Face hub.

    Args:
        path: folder or hub name.
        weights: whether they are needed too; without them only settings and tokenizer are fetched.

    A hub model is taken from the local cache where it is whole there and is downloaded where not. HF_TOKEN, HF_HOME,
    HF_ENDPOINT and HF_HUB_OFFLINE in the environment mean what they mean everywhere.

    Raises:
        InputError: no folder and no hub model has this name, it may not be had, or the hub cannot be reached.
    """
    if Path(path).is_dir() or not path:
        return Path(path)
    found = _HUB_NAME.fullmatch(path)
    if found is None or Path(Path(path).parts[0]).exists():
        raise InputError(f"{path} is not a folder, so there is no model to load")
    from huggingface_hub import constants, errors

    name, revision = found["name"], found["revision"]
    try:
        return _download(name, revision, WEIGHTS if weights else ("",))
    except errors.GatedRepoError as error:
        raise InputError(
            f"the hub lets nobody have {name} without consent: accept its licence at https://huggingface.co/{name}, "
            "then set HF_TOKEN or run `hf auth login`"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise InputError(f"the hub has {name}, but no revision {revision} of it") from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise InputError(
            f"{path} is neither a folder here nor a public model on the hub; for a private one set HF_TOKEN"
        ) from error
    except OSError as error:  # no network, HF_HUB_OFFLINE, full disk, ...
        reason = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else _one_line(error.__cause__ or error)
        raise InputError(
            f"{path} is neither a folder here nor in the hub's cache, and it could not be fetched ({reason}); where "
            f"there is a network, `hf download {name}{f' --revision {revision}' if revision else ''}` brings it there"
        ) from error


def _download(name: str, revision: str | None, forms: Sequence[str]) -> Path:
    """A hub model's folder in the local cache, with weights in the first of the forms that it has."""
    from huggingface_hub import snapshot_download

    folder = Path()
    for weights in forms:
        wanted = [*_HUB_FILES, *filter(None, [weights])]
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=wanted, ignore_patterns=[*_HUB_SKIPS]))
        if weights and any(folder.glob(weights)):
            break
    return folder


def load_settings(path: str | Path) -> Any:
    """transformers' configuration of the model in a folder.

    Raises:
        InputError: no such folder, or no configuration of a causal language model that can be read.
    """
    from transformers import AutoConfig

    need_folder(path, "a model")
    with readable(f"{path} holds no configuration of a model that can be read"):
        return AutoConfig.from_pretrained(str(path), local_files_only=True)


def load_tokenizer(path: str | Path) -> Any:
    """The Hugging Face tokenizer in a folder.

    Raises:
        InputError: the folder or its tokenizer files are missing or unreadable.
    """
    need_folder(path, "a tokenizer")
    if not any((Path(path) / name).is_file() for name in TOKENIZERS):
        raise InputError(f"{path} holds no tokenizer ({', '.join(TOKENIZERS)})")
    with readable(f"{path} holds no tokenizer that transformers can read"):
        return _tokenizer_class(Path(path)).from_pretrained(str(path), local_files_only=True)


def _tokenizer_class(folder: Path) -> Any:
    """What reads the tokenizer in a folder: AutoTokenizer, or at once the general class where it would choose that.

    It does for a folder without a model that names the general class, and would import torch on the way: a second and
    200 MB that the data stage does without.
    """
    try:
        named = read_json(folder / "tokenizer_config.json")
    except InputError:  # AutoTokenizer knows other ways, or says what is wrong
        named = {}
    general = isinstance(named, dict) and named.get("tokenizer_class") in _GENERAL and "auto_map" not in named
    if general and (folder / "tokenizer.json").is_file() and not (folder / "config.json").exists():
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast
    from transformers import AutoTokenizer

    return AutoTokenizer


def load_model(path: str | Path, dtype: Any, device: Any, *, quantize: str = "", **options: Any) -> Any:
    """The causal language model in a folder, on `device` and in evaluation mode.

    Args:
        path: folder with config.json and weights; one with a manifest must match it in its file list.
        dtype: torch dtype of the parameters; of quantised weights, of what is computed with them.
        device: torch device.
        quantize: "int8" or "nf4" stores linear layers in 8 or 4 bits; a folder whose weights are quantised already is
            loaded as it is.
        options: more for transformers' `from_pretrained`.

    Raises:
        ConfigError: the library for `quantize` is not installed.
        InputError: no such folder, no weights, or not a causal language model that can be read here.
        IncompleteError: the folder's files are not those that its manifest names, or tensors are missing or of
            another shape than config.json says.
    """
    from transformers import AutoModelForCausalLM

    need_folder(path, "a model")
    need_weights(Path(path))
    quiet_transformers()
    stored = quantized.method(path)
    how = quantized.options(path, stored, quantize, dtype, device)
    what = f"weights quantised with {stored}" if stored else "causal language model"
    with readable(f"{path} holds no {what} that can be read"), _silent_transformers():
        model, info = AutoModelForCausalLM.from_pretrained(
            str(path), dtype=dtype, local_files_only=True, output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are named below
            **how, **options,
        )  # fmt: skip
    _need_all_tensors(path, info)
    if stored and getattr(model, "quantization_method", None) is None:
        logger.warning("%s: this machine cannot compute with weights in %s, so they take %s", path, stored, model.dtype)
    if not how:
        return model.to(device).eval()
    quantized.keep_dtype(model)
    return model.eval()


def empty_model(settings: Any, dtype: Any, *, buffers: bool = False) -> Any:
    """A causal language model on the meta device, where tensors have shapes and no memory.

    Args:
        settings: transformers' configuration of it.
        dtype: torch dtype of its parameters.
        buffers: compute what is not learnt, such as the frequencies of rotary positions, in main memory.
    """
    import torch
    from transformers import AutoModelForCausalLM

    if not buffers:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(settings, dtype=dtype)
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(settings, dtype=dtype)
    model.tie_weights()  # which accelerate's parameters undo
    return model


def load_template(path: str | Path, override: str = "", tokenizer: Any = None) -> Template:
    """The prompt template that the weights in a folder were trained with.

    Args:
        path: checkpoint folder.
        override: name of a template to use; it must be the stored one where the manifest stores one. A name that
            starts with "chat-" means the tokenizer's own chat template.
        tokenizer: the folder's tokenizer, if it is loaded already.

    Raises:
        InputError: `override` is not the template the weights were trained with; or nothing says which template is
            right; or the stored one has changed since.
        IncompleteError: the folder's manifest is damaged.
    """
    found_manifest = manifest.find(path)
    stored = found_manifest.facts if found_manifest else {}
    name, digest = stored.get("template", ""), stored.get("template_hash", "")
    if override and name and override != name:
        raise InputError(f"{path} was trained with template {name}, not {override}; leave the template unset")
    wanted = override or name
    if wanted and not wanted.startswith("chat-"):
        found = template(wanted)
    else:
        tokenizer = tokenizer or load_tokenizer(path)
        if not tokenizer.chat_template:
            raise InputError(
                f"nothing in {path} says which prompt template it was trained with; name one, such as "
                "--model.template vicuna_v1.1"
            )
        found = template(tokenizer)
    if digest and found.hash != digest:
        raise InputError(f"{path} was trained with template {name} of hash {digest[:12]}; it is {found.hash[:12]} now")
    if wanted and found.name != wanted:
        raise InputError(f"{path} has the chat template {found.name}, not {wanted}; leave the template unset")
    return found


def quiet_transformers() -> None:
    """No progress bars from transformers for what takes less than a second; our own commands say what they do."""
    from transformers.utils import logging

    logging.disable_progress_bar()


@contextlib.contextmanager
def _silent_transformers() -> Iterator[None]:
    """No warnings from transformers about what we check and say ourselves."""
    from transformers.utils import logging as theirs

    before = theirs.get_verbosity()
    theirs.set_verbosity_error()
    try:
        yield
    finally:
        theirs.set_verbosity(before)


def checkpoint_hash(path: str | Path) -> str:
    """The content hash of a checkpoint or tokenizer folder.

    With a manifest it is the one stated there, and every file is compared with it; for a folder from elsewhere it is
    computed from its files.

    Raises:
        InputError: there is no such folder.
        IncompleteError: the files are not as the manifest says, or the manifest is damaged.
    """
    need_folder(path, "a model")
    return manifest.verify(path).hash if manifest.find(path) else manifest.content_hash(path)


def need_folder(path: str | Path, what: str) -> None:
    """Raise unless there is such a folder.

    Args:
        path: the folder.
        what: should be there, such as "a model".

    Raises:
        InputError: it is not there, or none is named.
    """
    if not str(path):
        raise InputError(f"no folder is given for {what}; set the model's path")
    if not Path(path).is_dir():
        raise InputError(f"{path} is not a folder, so there is no {what.split()[-1]} to load")


def need_weights(path: Path) -> None:
    """Raise unless the folder has weights, and all files that its manifest names.

    Raises:
        InputError, IncompleteError: it has not.
    """
    if not any(each for pattern in WEIGHTS for each in path.glob(pattern)):
        raise InputError(f"{path} holds no weights ({' or '.join(WEIGHTS)})")
    if manifest.find(path):
        manifest.verify(path, contents=False)
    stops = path / "generation_config.json"
    if stops.exists():
        read_json(stops)  # transformers passes over a broken one, and answers would not end


def _need_all_tensors(path: str | Path, info: dict[str, Any]) -> None:
    """Compare what transformers says of the tensors that it found with what the model needs."""
    if lost := sorted(info["missing_keys"]):
        raise IncompleteError(f"{path}: {len(lost)} tensors are missing, e.g. {lost[0]}; fetch or make it again")
    if wrong := sorted((name, list(stored), list(needed)) for name, stored, needed in info["mismatched_keys"]):
        name, stored, needed = wrong[0]
        raise IncompleteError(
            f"{path}: {len(wrong)} tensors are of another shape than config.json says, "
            f"e.g. {name} is {stored}, not {needed}; fetch or make it again"
        )
    if unknown := sorted(info["unexpected_keys"]):
        logger.warning("%s: %d tensors are not part of the model and not used, e.g. %s", path, len(unknown), unknown[0])


@contextlib.contextmanager
def readable(complaint: str) -> Iterator[None]:
    """Whatever a reader of other people's files raises is an InputError that starts with `complaint`.

    The readers' errors have no type in common: damaged folders were seen to end in SafetensorError, UnpicklingError,
    StrictDataclassError, AttributeError, ZeroDivisionError and, from the Rust tokenizers, in a bare Exception.
    """
    try:
        yield
    except Exception as error:
        raise InputError(f"{complaint}: {_one_line(error)}") from error


def _one_line(error: BaseException) -> str:
    """An error of another library as one line that is not too long."""
    text = " ".join(re.sub(r"\x1b\[\d*m", "", str(error)).split())
    if not isinstance(error, OSError) and type(error) is not ValueError:
        text = f"{type(error).__name__}: {text}".removesuffix(": ")
    return text if len(text) <= 300 else f"{text[:300]}…"
