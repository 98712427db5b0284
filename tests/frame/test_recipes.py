"""Every file under configs/ loads against its command, so that no recipe rots."""

from dataclasses import replace
from pathlib import Path

import pytest

from vicuna.config import load
from vicuna.data.config import CleanConfig
from vicuna.data.tools.persona import Persona
from vicuna.eval.config import EvalConfig
from vicuna.prompt import template
from vicuna.serve.config import StackConfig
from vicuna.train.config import TrainConfig

CONFIGS = Path(__file__).parents[2] / "configs"
ROOTS = {
    "data/identity": (Persona, []),
    "data": (CleanConfig, ["in.json", "--out", "out", "--model.path", "tokenizer"]),
    "models": (TrainConfig, []),
    "train": (TrainConfig, []),
    "serve": (StackConfig, []),
    "eval": (EvalConfig, []),
}
MODELS, WAYS = (sorted((CONFIGS / kind).glob("*.yaml")) for kind in ("models", "train"))


def train(*paths: Path) -> TrainConfig:
    return load(TrainConfig, [word for path in paths for word in ("--config", str(path))])


def test_there_is_a_recipe_for_every_stage():
    assert {each.parent.name for each in CONFIGS.rglob("*.yaml")} == {key for key in ROOTS if "/" not in key}


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_the_recipe_loads(path):
    cls, words = ROOTS.get(f"{path.parent.name}/{path.stem}") or ROOTS[path.parent.name]
    load(cls, [*words, "--config", str(path)])
    assert path.read_text().startswith("#"), "a recipe says in its first line what it is for"


@pytest.mark.parametrize("model", MODELS, ids=lambda path: path.stem)
def test_a_model_is_a_whole_experiment_but_for_the_data(model):
    found = train(model)
    assert found.model.path
    assert template(found.model.template).name == found.model.template


@pytest.mark.parametrize("way", WAYS, ids=lambda path: path.stem)
@pytest.mark.parametrize("model", MODELS, ids=lambda path: path.stem)
def test_every_model_goes_with_every_way_of_training(model, way):
    alone, found = train(model), train(model, way)
    if way.stem != "tiny":
        assert (found.model, found.data, found.batch.epochs) == (alone.model, alone.data, alone.batch.epochs)


def test_the_defaults_are_vicuna_7b_fully_fine_tuned():
    found = train(CONFIGS / "models" / "vicuna-7b.yaml", CONFIGS / "train" / "full.yaml")
    settings = TrainConfig()
    # Which base model, and so which template, cannot be guessed: the same settings belong to the servers.
    assert replace(found, model=replace(found.model, path="", template="")) == settings
