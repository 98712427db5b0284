"""Toxic rounds go, whoever scores them: words, a moderation endpoint, a classifier."""

import http.server
import json
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vicuna.conversation import Conversation, Message
from vicuna.data.chat import from_conversation
from vicuna.data.config import ToxicityConfig
from vicuna.data.filters.phrases import Phrases
from vicuna.data.filters.toxicity import BUILT_IN, WordScorer, judged, scorer, weights
from vicuna.data.filters.windows import windows
from vicuna.errors import ConfigError, InputError, VicunaError


def chat(*texts):
    roles = ("user", "assistant")
    messages = tuple(Message(roles[at % 2], text) for at, text in enumerate(texts))
    return from_conversation(Conversation("id", messages), "file", "[0]")


def outcome(result):
    kept, drops = result
    return [each.index for each in kept.rounds], [(drop.round.index, drop.reason, drop.detail) for drop in drops]


# ------------------------------------------------------------------------------------------------ phrases
@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ("ass", "You ASS!"), ("bad word", "a bad\nword here"), ("c++", "I like C++."), (".net", "use .NET now"),
        ("straße", "In der STRASSE"), ("坏话", "这是坏话吗"), ("python", "用Python编程"),
        ("python", "파이썬과 Python은"),
        ("욕설", "욕설을 하지 마"), ("плохо", "Очень плохо."), ("बुरा", "यह बुरा है"), ("คำหยาบ", "มีคำหยาบอยู่"),
    ],
)  # fmt: skip
def test_a_word_is_found_as_a_whole_in_any_script(entry, text):
    assert Phrases([entry]).find(text) == entry.casefold()


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ("ass", "class, grasses, passing and ass_1"), ("bad word", "bad. word"), ("욕설", "무욕설"),
        ("плохо", "неплохо"), ("बुर", "यह बुरा है"), ("net", "network"),
    ],
)  # fmt: skip
def test_a_part_of_a_word_is_not_found(entry, text):
    assert Phrases([entry]).find(text) == ""


def test_the_longest_entry_is_named_and_every_place_counts():
    assert list(Phrases(["bad", "bad word", "worse"]).each("Bad word, worse, bad.")) == ["bad word", "worse", "bad"]


# ------------------------------------------------------------------------------------------------ words
def test_rounds_at_or_above_the_threshold_go_and_the_others_stay():
    scores = WordScorer({"vile": 0.5, "rude": 0.2})
    three = chat("hello", "good day", "vile", "yes", "one", "rude rude rude rude")
    result = judged(three, scores, ToxicityConfig())
    assert outcome(result) == ([0], [(1, "toxic question", "0.50"), (2, "toxic answer", "0.59")])
    assert outcome(judged(three, scores, ToxicityConfig(threshold=0.55)))[0] == [0, 1]


def test_the_built_in_list_finds_abuse_and_leaves_sound_talk_alone():
    built_in = scorer(ToxicityConfig())
    abuse = [
        "You are a worthless faggot",
        "Kill yourself, nobody would care",
        "Shut up you motherfucker",
        "You stupid fucking bitch",
        "suck my dick",
    ]
    sound = [
        "Damn, this code is shit. What the fuck is a monad?", "The class passes the assessment in Scunthorpe.",
        "Anal fissures are treated with fibre.", "How do I kill a process in Linux?", "A chink in the armour",
        "Sex education in schools", "She bred cocker spaniels and a blue tit.", "The cock crowed at dawn.",
    ]  # fmt: skip
    assert min(built_in(abuse)) >= 0.5
    assert max(built_in(sound)) < 0.5


def test_a_list_of_ones_own_is_read_with_its_weights(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("# mine\nBad  Word\nrude\t0.2\n\n", encoding="utf-8")
    assert weights(path) == {"bad word": 1.0, "rude": 0.2}
    assert scorer(ToxicityConfig(words=str(path)))(["a bad word", "rude", "kind"]) == [1.0, pytest.approx(0.2), 0.0]


def test_every_weight_of_the_built_in_list_is_sound():
    assert len(weights(BUILT_IN)) > 80


@pytest.mark.parametrize(
    ("line", "said"), [("word\ttwo", "words.txt:1"), ("word\t0", "above 0"), ("# none", "no words")]
)
def test_a_wrong_list_is_named_with_its_line(tmp_path, line, said):
    path = tmp_path / "words.txt"
    path.write_text(line + "\n", encoding="utf-8")
    with pytest.raises(InputError, match=said):
        weights(path)


def test_a_missing_list_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.txt"):
        scorer(ToxicityConfig(words=str(tmp_path / "none.txt")))


@given(st.text(alphabet="ab \n漢", max_size=80), st.integers(1, 20))
def test_windows_are_the_text_and_none_is_too_long(text, size):
    cut = windows(text, size)
    assert "".join(cut) == text
    assert max(map(len, cut)) <= size


# ------------------------------------------------------------------------------------------------ moderation endpoint
class Endpoint(http.server.BaseHTTPRequestHandler):
    """Scores a text by how often it says "bad"; fails as often as the server's `failures` says."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.asked.append((self.path, self.headers["authorization"], body))
        if self.server.failures:
            status = self.server.failures.pop(0)
            return self._reply(status, {"error": {"message": "no such model"}})
        results = [
            {"flagged": False, "categories": {}, "category_applied_input_types": {},
             "category_scores": {"hate": min(1.0, text.count("bad") / 4), "self-harm": 0.1, "violence": 0.0}}
            for text in body["input"]
        ]  # fmt: skip
        return self._reply(200, {"id": "1", "model": body["model"], "results": results[: self.server.most]})

    def _reply(self, status, value):
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.send_header("retry-after-ms", "1")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


@pytest.fixture
def endpoint():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Endpoint) as server:
        server.asked, server.failures, server.most = [], [], None
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()


def moderation(server, **more):
    return ToxicityConfig(scorer="openai", base_url=f"http://127.0.0.1:{server.server_port}/v1", **more)


def test_the_endpoint_scores_in_batches_and_the_highest_category_counts(endpoint, monkeypatch):
    monkeypatch.setenv("MY_KEY", "abc")
    scores = scorer(moderation(endpoint, key_env="MY_KEY", batch=2))(["good", "bad bad", "bad bad bad", ""])
    assert scores == [0.1, 0.5, 0.75, 0.0]
    assert [(path, key, body["model"]) for path, key, body in endpoint.asked] == [
        ("/v1/moderations", "Bearer abc", "omni-moderation-latest")
    ] * 2
    assert [body["input"] for _, _, body in endpoint.asked] == [["good", "bad bad"], ["bad bad bad"]]


def test_only_the_categories_that_are_named_count(endpoint):
    assert scorer(moderation(endpoint, labels=("self-harm",)))(["bad bad"]) == [0.1]
    with pytest.raises(InputError, match=r"no category 'rudeness'; it has .*hate"):
        scorer(moderation(endpoint, labels=("rudeness",)))(["bad"])


def test_every_part_of_a_long_text_is_scored(endpoint):
    assert scorer(moderation(endpoint))(["word " * 3000 + "bad bad bad bad"]) == [1.0]


def test_a_passing_failure_is_tried_again_and_a_lasting_one_is_named(endpoint):
    endpoint.failures = [500, 429]
    assert scorer(moderation(endpoint, model="m1"))(["bad bad"]) == [0.5]
    endpoint.failures = [500] * 9
    with pytest.raises(VicunaError, match="fails after 3 tries"):
        scorer(moderation(endpoint, attempts=3))(["bad"])


@pytest.mark.parametrize(
    ("status", "kind", "said"),
    [(401, ConfigError, "OPENAI_API_KEY"), (404, InputError, "no such model"), (400, InputError, "refuses")],
)
def test_what_cannot_be_put_right_by_trying_is_said_at_once(endpoint, status, kind, said):
    endpoint.failures = [status]
    with pytest.raises(kind, match=said):
        scorer(moderation(endpoint))(["bad"])
    assert len(endpoint.asked) == 1


def test_a_reply_that_leaves_texts_out_is_an_error(endpoint):
    endpoint.most = 1
    with pytest.raises(VicunaError, match="scored 1 of 2"):
        scorer(moderation(endpoint))(["good", "bad"])


def test_no_server_is_named(endpoint):
    endpoint.server_close()
    with pytest.raises(VicunaError, match="no moderation server answers at http://127"):
        scorer(moderation(endpoint, attempts=1, timeout=2.0))(["bad"])


def test_openai_itself_needs_a_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ConfigError, match="OPENAI_API_KEY"):
        scorer(ToxicityConfig(scorer="openai"))


# ------------------------------------------------------------------------------------------------ classifier
@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """A BERT of one layer, trained here for a moment to know "bad" from "good"."""
    import torch
    import transformers

    folder = tmp_path_factory.mktemp("classifier")
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "day"]))
    tokenizer = transformers.BertTokenizerFast(vocab=str(folder / "vocab.txt"))
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=32, id2label={0: "neutral", 1: "toxic"}, label2id={"neutral": 0, "toxic": 1},
    )  # fmt: skip
    model = transformers.BertForSequenceClassification(config)
    batch = tokenizer(["good day", "bad day", "good good", "bad", "good", "bad bad"], return_tensors="pt", padding=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(80):
        optimizer.zero_grad()
        model(**batch, labels=torch.tensor([0, 1, 0, 1, 0, 1])).loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_a_classifiers_label_is_the_score_and_long_texts_are_read_to_the_end(classifier):
    config = ToxicityConfig(scorer="huggingface", model=classifier, labels=("toxic",))
    scores = scorer(config)(["good day", "bad day", "", "good " * 2000 + "bad"])
    assert scores[0] < 0.2
    assert scores[1] > 0.8
    assert scores[2] == 0.0
    result = judged(chat("good", "good day", "bad", "good"), scorer(config), config)
    assert outcome(result)[0] == [0]


def test_a_label_that_a_classifier_lacks_is_named_with_those_it_has(classifier):
    with pytest.raises(ConfigError, match="no label 'rude'; it has neutral, toxic"):
        scorer(ToxicityConfig(scorer="huggingface", model=classifier, labels=("rude",)))


def test_a_classifier_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match=r"cannot load the classifier .*nothing"):
        scorer(ToxicityConfig(scorer="huggingface", model=str(tmp_path / "nothing"), labels=("toxic",)))


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"scorer": "huggingface"}, "needs model"), ({"scorer": "openai", "words": "x"}, "words is a list"),
     ({"threshold": 0.0}, "threshold"), ({"attempts": 0}, "attempts")],
)  # fmt: skip
def test_settings_that_contradict_each_other_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        ToxicityConfig(**settings)
