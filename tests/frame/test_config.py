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

    def __post_init__(self) -> None:
        if self.port < 0:
            raise ValueError(f"port is 0 or more; got {self.port}")


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
    ports: tuple[int, ...] = ()
    """Numbers."""
    limit: float | None = None
    """No more than this."""
    optim: Optim = field(default_factory=Optim)

    def __post_init__(self) -> None:
        if self.optim.lr > 1 and not self.demo:
            raise ValueError(f"optim.lr ({self.optim.lr}) has to be shown")
        if len(self.ports) > 4:
            raise ValueError("optim does not go with\nso many ports")
        if len(self.shares) > 8:
            raise ValueError("Too many of them")


def refusal(words: list[str], cls: type = Root) -> str:
    """What the loader says; always one printable line."""
    with pytest.raises(ConfigError) as error:
        load(cls, words)
    assert str(error.value).isprintable()
    return str(error.value)


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


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (
            "  - {name: a}\n  - {name: b, prot: 3}",
            "{}:3: there is no setting workers[1].prot; did you mean workers[1].port?",
        ),
        ("  - name: a\n    port: x", "workers[0].port is int; got 'x' (set by {}:3)"),
        ("  - name: a\n    port: -1", "workers[0].port is 0 or more; got -1 (set by {}:3)"),
        ("  - name: a\n  - port: 3", "{}:3: workers[1].name is missing (text)"),
        ("  - a", "{}:2: workers[0] is a group of settings (workers[0].name, workers[0].port); got 'a'"),
        ("  - {name: a,\n     name: b}", "{}:3: workers[0].name was given already in line 2"),
        ("  - {name: null}", "workers[0].name is text; got null (set by {}:2)"),
        ("  a: 1", "workers is list of Worker; got {{'a': 1}} (set by {}:1)"),
    ],
)  # fmt: skip
def test_a_broken_item_of_a_list_is_named_with_its_number_and_line(tmp_path, items, message):
    path = written(tmp_path, f"workers:\n{items}\n")
    assert refusal(["--config", path]) == message.format(path)


def test_a_broken_item_on_the_command_line_is_named_with_its_number():
    assert refusal(["--workers", "[{name: a, port: x}]"]) == "workers[0].port is int; got 'x' (set by --workers)"
    assert refusal(["--workers", "[{name: a, name: b}]"]) == "--workers: workers[0].name was given already in line 1"
    assert refusal(["--ports", "1", "x"]) == "ports[1] is int; got 'x' (set by --ports)"


def test_a_setting_without_a_default_has_to_be_given():
    with pytest.raises(ConfigError, match=r"name is missing; give it as --name TEXT"):
        load(Worker, [])


NUMBERLIKE = st.from_regex(r"[-+]?[0-9_:.]{0,3}[eE]?[-+]?[0-9]{1,3}|yes|No|~|null|0x1f|0o17", fullmatch=True)
"""Text that one version of YAML or another takes for something else."""


@given(
    st.builds(
        Root,
        inputs=st.lists(st.text(max_size=5) | NUMBERLIKE, max_size=2).map(tuple),
        out=st.text(max_size=8) | NUMBERLIKE,
        kind=st.sampled_from(["full", "lora"]),
        seed=st.none() | st.integers(),
        demo=st.booleans(),
        workers=st.lists(st.builds(Worker, name=st.text(max_size=5), port=st.integers(0, 9)), max_size=2).map(tuple),
        shares=st.dictionaries(st.text(max_size=5) | NUMBERLIKE, st.floats(0, 1), max_size=2),
        ports=st.lists(st.integers(), max_size=2).map(tuple),
        limit=st.none() | st.floats(allow_nan=False),
        optim=st.builds(Optim, lr=st.floats(0, 1), warmup=st.floats(0, 0.9)),
    )
)
def test_the_dump_of_any_settings_loads_back_equal(tmp_path_factory, config):
    path = tmp_path_factory.mktemp("dump") / "settings.yaml"
    path.write_text(dump(config), encoding="utf-8", newline="")
    assert load(Root, ["--config", str(path)]) == config


@pytest.mark.parametrize("text", ["a\x85b", "\u2028", "a\u2029", "a\n b\r\n", "\ufeff", " ", "2e5", "0o17", "=", "<<"])
def test_text_that_yaml_writers_get_wrong_loads_back_equal(tmp_path, text):
    config = Root(out=text, inputs=(text,), shares={text: 1.0})
    path = tmp_path / "settings.yaml"
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


# ---------------------------------------- nothing is nothing
@pytest.mark.parametrize("key", ["out", "demo", "optim.lr", "ports", "workers", "shares", "kind"])
def test_null_is_refused_where_it_means_nothing(tmp_path, key):
    group, dot, name = key.rpartition(".")
    path = written(tmp_path, f"{group}:\n  {name}:\n" if dot else f"{name}:\n")
    message = refusal(["--config", path])
    assert message.startswith(f"{key} is ")
    assert message.endswith(f"got null (set by {path}:{2 if dot else 1})")


def test_null_is_taken_where_it_has_a_meaning(tmp_path):
    assert load(Root, ["--config", written(tmp_path, "seed:\nlimit: ~\noptim:\n")]) == Root()


@pytest.mark.parametrize(
    "flag", ["--optim.lr", "--seed", "--demo", "--workers", "--ports", "--shares", "--inputs", "--config"]
)
def test_a_flag_without_its_value_needs_one(flag):
    assert refusal([f"{flag}="]).startswith(f"{flag} needs a value (")


def test_empty_text_is_text():
    assert load(Root, ["--out="]).out == load(Root, ["--out", ""]).out == ""


def test_null_on_the_command_line_is_refused_like_in_a_file():
    assert refusal(["--optim.lr", "null"]) == "optim.lr is float; got null (set by --optim.lr)"


# ---------------------------------------- files that want to hurt
BOMB = "\n".join(
    ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 8)}]" for n in range(1, 9))]
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optim: &o {lr: *o}", "1: optim.lr contains itself"),
        ("out: a\nworkers: &w\n  - *w", "2: workers[0] contains itself"),
        ("shares: " + "{a: " * 5000, "1: nested more than 40 levels deep"),
        ("shares: " + "{a: " * 50 + "1" + "}" * 50, "1: nested more than 40 levels deep"),
        (BOMB, "1: more than 100000 values"),
        ("seed: " + "9" * 5000, "1: 99999999... (5000 characters) is too large a number"),
        ("optim: {lr: 1e999}", "1: 1e999 is too large a number"),
        ("out: a\nout: \x00", "2: not YAML: character #x0000"),
        ('out: "\\UFFFFFFFF"', "1: not YAML: "),
        ("out: !!python/name:os.system", "1: out has the tag "),
        ("a: 1\n---\nb: 2", "2: not YAML: expected a single document"),
        ("? [a]\n: 1", "1: expected settings as NAME: VALUE, but the name is a list or a map"),
        ("optim.lr: 1\noptim: {lr: 2}", "2: optim.lr was given already in line 1"),
        ('"a\\nb": 1', "1: there is no setting a\\nb"),
    ],
)  # fmt: skip
def test_a_hostile_file_is_one_line(tmp_path, text, message):
    path = written(tmp_path, text)
    assert refusal(["--config", path]).startswith(f"{path}:{message}")


def test_a_number_too_large_for_its_kind_is_one_line(tmp_path):
    path = written(tmp_path, "optim: {lr: 1" + "0" * 400 + "}")
    assert refusal(["--config", path]).startswith("optim.lr is float; got 1000")


@pytest.mark.parametrize("path", ["a\0b", "", "/", "a\nb"])
def test_a_path_that_is_no_file_is_one_line(path):
    assert refusal(["--config", path]).startswith("--config")


def test_an_alias_stands_for_what_it_names(tmp_path):
    path = written(tmp_path, "workers:\n  - &w {name: a, port: 3}\n  - *w\n")
    assert load(Root, ["--config", path]).workers == (Worker(name="a", port=3),) * 2


def settings_or_one_line(words: list[str]) -> None:
    said = ""
    try:
        load(Root, words)
    except ConfigError as error:
        said = str(error)
    assert said.isprintable()


FRAGMENTS = st.sampled_from([
    *"{}[]:,-&*!|>%@`#?'\"~ \n\t\0\ud800", "optim", "lr", "workers", "name", "&a ", "*a", ": ", "\n  ", "- ", "null",
    "true", "010", "1e9", "--- ", "...", "!!int ", "!!set", "<<", "\\U", "\ufeff",
])  # fmt: skip
WORDS = st.sampled_from([
    "--", "-", "-x", "-1", "--optim.lr", "--optim", "--demo", "--no-demo", "--workers", "--ports", "--inputs", "--=",
    "--shares", "--print_config=x", "--config", "no", "[", "[1]", "{a: 1}", "null", "=", "--out=",
])  # fmt: skip


@given(st.lists(FRAGMENTS | st.text(max_size=4), max_size=20).map("".join))
def test_any_text_is_settings_or_one_line(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    settings_or_one_line(["--config", str(path)])


@given(st.lists(WORDS | st.text(max_size=5), max_size=6).filter(lambda words: "-h" not in words))
def test_any_command_line_is_settings_or_one_line(words):
    settings_or_one_line(words)


# ---------------------------------------- whose fault
def test_an_invariant_of_a_group_names_who_set_it(tmp_path):
    path = written(tmp_path, "demo: false\noptim:\n  lr: 3\n")
    said = "optim.lr (3.0) has to be shown"
    assert refusal(["--config", path]) == f"{said} (set by {path}:3)"
    assert refusal(["--optim.lr", "3", "--no-demo"]) == f"{said} (set by --optim.lr)"


def test_an_invariant_about_a_whole_group_names_all_who_set_it(tmp_path):
    path = written(tmp_path, "optim:\n  lr: 1\n")
    many = ["--ports", "1", "2", "3", "4", "5"]
    said = r"optim does not go with\nso many ports"
    assert refusal(many) == f"{said} (the default)"
    assert refusal([*many, "--config", path, "--optim.warmup", "0.5"]) == f"{said} (set by {path}:2, --optim.warmup)"


def test_an_invariant_that_names_no_setting_is_said_as_it_is():
    shares = ", ".join(f"{name}: 1" for name in "abcdefghi")
    assert refusal(["--shares", f"{{{shares}}}"]) == "Too many of them"


# ---------------------------------------- words
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-x"], "unexpected '-x': settings begin with two dashes, and words that are no flags stand after a lone --"),
        (["-seed", "3"], "unexpected '-seed': settings begin with two dashes; did you mean --seed?; words that"),
        (["--out", "-x"], "--out needs a value (text); '-x' as a value is written --out=-x"),
        (["--print_config=x"], "--print_config takes no value; got 'x'"),
        (["--no-demo=x"], "--no-demo takes no value; to set it either way write --demo=false or --demo=true"),
        (["--no-demo", "false"], "--no-demo takes no value"),
        (["--demo=maybe"], "demo is bool; got 'maybe' (set by --demo)"),
        (["--optim", "3"], "--optim is a group of settings: --optim.lr, --optim.warmup"),
        (["--="], "--: there is no setting ''"),
        (["--inputs", "b", "--", "a"], "inputs is given twice: as --inputs and as IN"),
        (["--seed", "1:30"], "seed is int or null; got '1:30' (set by --seed)"),
        (["--seed", "0x1f"], "seed is int or null; got '0x1f' (set by --seed)"),
        (["--seed", "1_000"], "seed is int or null; got '1_000' (set by --seed)"),
        (["--seed", "9" * 5000], "--seed: 99999999... (5000 characters) is too large a number"),
    ],
)  # fmt: skip
def test_a_word_that_means_nothing_is_refused(words, message):
    assert refusal(words).startswith(message)


def test_a_command_without_bare_words_does_not_propose_them():
    assert refusal(["-port", "3"], Worker) == "unexpected '-port': settings begin with two dashes; did you mean --port?"
    assert refusal(["--name", "a", "b"], Worker).startswith("unexpected 'b'; settings are given as --NAME VALUE")


def test_negative_numbers_are_values():
    assert load(Root, ["--seed", "-1", "--limit", "-.5", "--ports", "-1", "-2"]) == Root(
        seed=-1, limit=-0.5, ports=(-1, -2)
    )


def test_words_after_a_lone_dash_dash_are_bare():
    assert load(Root, ["--ports", "1", "2", "--", "-x", "--help", "--"]) == Root(
        ports=(1, 2), inputs=("-x", "--help", "--")
    )


@pytest.mark.parametrize(("word", "demo"), [("yes", True), ("ON", True), ("True", True), ("no", False), ("off", False)])
def test_a_switch_is_set_by_every_usual_word(word, demo):
    assert load(Root, ["--demo", word]).demo is demo
    assert load(Root, [f"--demo={word}"]).demo is demo


@pytest.mark.parametrize(
    ("words", "inputs"),
    [
        (["--inputs", "[x].html"], ("[x].html",)),
        (["--inputs", "[a, b]"], ("a", "b")),
        (["--inputs", "[1, 2]"], ("[1, 2]",)),
        (["--inputs", "[]"], ()),
        (["--inputs", "[a", "b]"], ("[a", "b]")),
        (["[a, b]"], ("[a, b]",)),
    ],
)
def test_a_word_in_brackets_is_a_list_only_if_it_is_one(words, inputs):
    assert load(Root, words).inputs == inputs


def test_help_says_where_bare_words_stand(capsys):
    with pytest.raises(HelpShown):
        load(Root, ["--help"])
    shown = capsys.readouterr().out
    assert "  --  the words after it are IN, whatever they begin with\n" in shown
    assert "A list takes every word up to the next flag; IN stands before it or after --." in shown


# ---------------------------------------- YAML without its surprises
def test_plain_words_mean_what_they_look_like(tmp_path):
    words = ("no", "on", "2024-01-01", "1:30", "0x1f", "1_000")
    text = f"inputs: [{', '.join(words)}]\nseed: 010\noptim: {{lr: 2e-5}}\nports: ['3', +4]\nlimit: -.inf\n"
    found = load(Root, ["--config", written(tmp_path, text)])
    assert found == Root(inputs=words, seed=10, ports=(3, 4), limit=float("-inf"))
    assert load(Root, ["--seed", "010"]).seed == 10


@pytest.mark.parametrize("value", ["yes", "no", "on", "'yes'", "1"])
def test_only_true_and_false_are_switch_values_in_a_file(tmp_path, value):
    path = written(tmp_path, f"demo: {value}\n")
    assert refusal(["--config", path]).startswith("demo is bool; got ")
    assert load(Root, ["--config", written(tmp_path, "demo: False")]).demo is False


def test_text_is_never_taken_for_a_number_or_a_number_for_text(tmp_path):
    path = written(tmp_path, "out: 3\n")
    assert refusal(["--config", path]) == f"out is text; got 3 (set by {path}:1)"
    assert load(Root, ["--out", "010"]).out == "010"
