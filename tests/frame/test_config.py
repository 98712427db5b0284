"""Settings: every mistake is one line that names the setting and where it was set."""

from dataclasses import dataclass, field
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vicuna.config import HelpShown, dump, from_dict, load
from vicuna.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Optim:
    """How the weights move."""

    lr: float = 2e-5
    """Peak learning rate, reached when warm-up ends."""
    warmup: float = 0.03
    """Share of all steps spent warming up."""

    def __post_init__(self) -> None:
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup is a share of the run, so 0 to 1; got {self.warmup}")


@dataclass(frozen=True, kw_only=True)
class Worker:
    """One worker."""

    name: str
    """What it is called."""
    port: int = 0
    """Where it listens."""


@dataclass(frozen=True, kw_only=True)
class Root:
    """Do the work."""

    inputs: tuple[str, ...] = field(default=(), metadata={"positional": "IN"})
    """Files to read."""
    out: str = "runs"
    """Folder to write."""
    kind: Literal["full", "lora"] = "full"
    """Which weights move."""
    seed: int | None = None
    """Decides the order."""
    demo: bool = True
    """Show it."""
    workers: tuple[Worker, ...] = ()
    """Who does it."""
    shares: dict[str, float] = field(default_factory=dict)
    """Name to share."""
    optim: Optim = field(default_factory=Optim)


def written(tmp_path, text: str) -> str:
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    return str(path)


def test_later_files_win_over_earlier_ones_and_flags_over_files(tmp_path):
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text("out: a\noptim: {lr: 2e-4, warmup: 0.1}\n")
    second.write_text("optim:\n  lr: 3e-4\n")
    config = load(Root, ["--config", str(first), "--optim.warmup", "0.2", "--config", str(second)])
    assert config == Root(out="a", optim=Optim(lr=3e-4, warmup=0.2))


def test_bare_words_are_the_positional_setting():
    assert load(Root, ["a.json", "b.json", "--out", "x"]).inputs == ("a.json", "b.json")


@pytest.mark.parametrize(
    ("words", "demo"),
    [(["--demo"], True), (["--no-demo"], False), (["--demo=false"], False), (["--demo", "false"], False)],
)
def test_a_switch_has_every_spelling(words, demo):
    assert load(Root, words).demo is demo


def test_lists_maps_and_null_come_from_flags_too():
    config = load(Root, ["--workers", "[{name: w, port: 3}]", "--shares", "{a: 0.5}", "--seed", "null"])
    assert config == Root(workers=(Worker(name="w", port=3),), shares={"a": 0.5})


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("optim:\n  wamup: 3\n", 2, "there is no setting optim.wamup; did you mean optim.warmup?"),
        ("lr: 3\n", 1, "there is no setting lr; did you mean optim.lr?"),
        ("out: a\noptim:\n  - 3\n", 2, "optim is a group of settings (optim.lr, optim.warmup); got [3]"),
        ("out: a\nout: b\n", 2, "out was given already in line 1"),
        ("out: [a\nb: }", 2, "not YAML:"),
        ("- a\n", 1, "expected settings as NAME: VALUE, got list"),
    ],
)
def test_a_mistake_in_a_file_is_named_with_its_line(tmp_path, text, line, message):
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as error:
        load(Root, ["--config", path])
    assert str(error.value).startswith(f"{path}:{line}: {message}")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--optim.wamup", "3"], "--optim.wamup: there is no setting optim.wamup; did you mean --optim.warmup?"),
        (["--optim.lr"], "--optim.lr needs a value (float)"),
        (["--optim.lr", "--out", "x"], "--optim.lr needs a value (float)"),
        (["--optim.lr", "fast"], "optim.lr is float; got 'fast' (set by --optim.lr)"),
        (["--kind", "qlora"], "kind is full or lora; got 'qlora' (set by --kind)"),
        (["--seed", "x"], "seed is int or null; got 'x' (set by --seed)"),
        (["--config"], "--config needs a value (a file)"),
        (["--no-out"], "--no-out switches something off, but out is text"),
        (
            ["--optim.warmup", "3"],
            "optim.warmup is a share of the run, so 0 to 1; got 3.0 (set by --optim.warmup)",
        ),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(words, message):
    with pytest.raises(ConfigError) as error:
        load(Root, words)
    assert str(error.value) == message


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"--config .*nowhere.yaml: No such file"):
        load(Root, ["--config", str(tmp_path / "nowhere.yaml")])


def test_a_broken_part_of_a_list_says_which_part(tmp_path):
    path = written(tmp_path, "workers:\n  - {name: a, prot: 3}\n")
    with pytest.raises(ConfigError, match=rf"workers is list of Worker.*'prot'.*set by {path}:1"):
        load(Root, ["--config", path])


def test_a_setting_without_a_default_has_to_be_given():
    with pytest.raises(ConfigError, match=r"name is missing; give it as --name TEXT"):
        load(Worker, [])


@given(
    st.builds(
        Root,
        inputs=st.lists(st.text(max_size=5), max_size=2).map(tuple),
        out=st.text(max_size=8),
        kind=st.sampled_from(["full", "lora"]),
        seed=st.none() | st.integers(),
        demo=st.booleans(),
        workers=st.lists(st.builds(Worker, name=st.text(max_size=5), port=st.integers(0, 9)), max_size=2).map(tuple),
        shares=st.dictionaries(st.text(max_size=5), st.floats(0, 1), max_size=2),
        optim=st.builds(Optim, lr=st.floats(0, 1), warmup=st.floats(0, 0.9)),
    )
)
def test_the_dump_of_any_settings_loads_back_equal(tmp_path_factory, config):
    path = tmp_path_factory.mktemp("dump") / "settings.yaml"
    path.write_text(dump(config), encoding="utf-8", newline="")
    assert load(Root, ["--config", str(path)]) == config


def test_a_tree_makes_the_same_settings_as_a_file():
    assert from_dict(Root, {"optim": {"lr": "1e-3"}}, "a test") == Root(optim=Optim(lr=1e-3))
    with pytest.raises(ConfigError, match=r"a test: there is no setting optim.lrr; did you mean optim.lr\?"):
        from_dict(Root, {"optim": {"lrr": 1}}, "a test")


def test_help_gives_every_setting_with_its_meaning_and_default(capsys):
    with pytest.raises(HelpShown):
        load(Root, ["--help"], prog="python -m x")
    shown = capsys.readouterr().out
    assert "usage: python -m x IN ..." in shown
    assert "optim: How the weights move." in shown
    assert "--optim.lr  float  (default 2.0e-05)\n      Peak learning rate, reached when warm-up ends." in shown


def test_print_config_shows_the_resolved_tree(capsys, tmp_path):
    with pytest.raises(HelpShown):
        load(Root, ["--optim.lr", "0.5", "--print_config"])
    assert load(Root, ["--config", written(tmp_path, capsys.readouterr().out)]) == Root(optim=Optim(lr=0.5))
