"""Every file under configs/ loads against its command, so that no recipe rots."""

from pathlib import Path

import pytest

from vicuna.config import load
from vicuna.data.config import CleanConfig
from vicuna.data.tools.persona import Persona
from vicuna.eval.config import EvalConfig
from vicuna.serve.config import StackConfig
from vicuna.train.config import TrainConfig

CONFIGS = Path(__file__).parents[2] / "configs"
ROOTS = {
    "data/identity": (Persona, []),
    "data": (CleanConfig, ["in.json", "--out", "out", "--model.path", "tokenizer"]),
    "train": (TrainConfig, []),
    "serve": (StackConfig, []),
    "eval": (EvalConfig, []),
}


def test_there_is_a_recipe_for_every_stage():
    assert {each.parent.name for each in CONFIGS.rglob("*.yaml")} == {key for key in ROOTS if "/" not in key}


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_the_recipe_loads(path):
    cls, words = ROOTS.get(f"{path.parent.name}/{path.stem}") or ROOTS[path.parent.name]
    load(cls, [*words, "--config", str(path)])
    assert path.read_text().startswith("#"), "a recipe says in its first line what it is for"
