"""Personal data becomes typed placeholders, what belongs to nobody stays, and doing it again changes nothing."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vicuna.conversation import Conversation, Message
from vicuna.data.chat import from_conversation
from vicuna.data.config import PersonalConfig
from vicuna.data.filters.personal import scrubbed, scrubbed_text

CONFIG = PersonalConfig()

PERSONAL = [
    ("Write to maria.lopez@gmail.com today.", "Write to [EMAIL] today."),
    ("(anna+news@mail.uni-bonn.de)", "([EMAIL])"),
    ("mailto:bob_smith99@outlook.co.uk", "mailto:[EMAIL]"),
    ("a.b@c.io, c.d@e-f.org;", "[EMAIL], [EMAIL];"),
    ("Mail:maria@lopez.es.", "Mail:[EMAIL]."),
    ("发邮件到maria@lopez.es吧", "发邮件到[EMAIL]吧"),
    ("Call +44 20 7946 0958 or +1 (212) 867-5309.", "Call [PHONE] or [PHONE]."),
    ("Tel: (212) 867-5309", "Tel: [PHONE]"),
    ("It is 415-867-5309, or 415.867.5309.", "It is [PHONE], or [PHONE]."),
    ("+49 30 901820 and +33 1 42 68 53 00 and +12128675309", "[PHONE] and [PHONE] and [PHONE]"),
    ("my phone 2128675309 now", "my phone [PHONE] now"),
    ("Card 4539 1488 0343 6467 exp 12/27", "Card [CARD] exp 12/27"),
    ("4539148803436467, 4539-1488-0343-6467", "[CARD], [CARD]"),
    ("from 93.184.216.34 port 22", "from [IP] port 22"),
    ("http://93.184.216.34:8080/ and ip=93.184.216.34", "http://[IP]:8080/ and ip=[IP]"),
    ("2a00:1450:4001:82a::200e", "[IP]"),
    ("key AKIAQ7ZK3MN5PX2WR6TL", "key [KEY]"),
    ("ghp_a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8", "[KEY]"),
    ('api_key = "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"', 'api_key = "[KEY]"'),
    ('password = "gR7!kq2ZpWx9"', 'password = "[KEY]"'),
    ("postgres://bob:Xk29fLq8Zt@db.corp.net/x", "postgres://bob:[KEY]@db.corp.net/x"),
    ("redis://:p8Kd03jfLq2@cache.corp.net", "redis://:[KEY]@cache.corp.net"),
    ("export DB_PASSWORD=k3Lm9Qr2Tz7V", "export DB_PASSWORD=[KEY]"),
    ("aws_secret_access_key = wJa2rXU4nFE/K7MDE9G/bPx3fiC5q81kdL02ZmQ8", "aws_secret_access_key = [KEY]"),
    ("x-api-key: 8f14e45fceea167a5a36dedd4bea2543", "x-api-key: [KEY]"),
    ("my password is Hx7!kL92qPz.", "my password is [KEY]."),
    ("My contact is AKIAQWNIALQTURJVFEMX, in case", "My contact is [KEY], in case"),
    ("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", "[KEY]"),
    ("j.müller@bäckerei.de", "[EMAIL]"),
    ("https://site.io/?email=mary@school.edu&x=1", "https://site.io/?email=[EMAIL]&x=1"),
    ("call 0049 89 63648018 or 00 33 6 12 34 56 78", "call [PHONE] or [PHONE]"),
    ("my cell is 212 867 5309, fax 212 867 5310", "my cell is [PHONE], fax [PHONE]"),
    ("You can text me at 4158675309", "You can text me at [PHONE]"),
    ("My contact is 81.120.6.206", "My contact is [IP]"),
    ("ssh root@84.23.110.7", "ssh root@[IP]"),
    ("Server IP: 52.1.2.3", "Server IP: [IP]"),
    ("Authorization: Bearer Zk3mQ9fT7bXw2LpV8cRjh5N1yUe6DsAa", "Authorization: Bearer [KEY]"),
]
NOBODYS = [
    "me@example.com and you@mail.example.org", "noreply@github.com", "your.name@company.com", "root@localhost",
    "git@github.com:anna/tool.git", "logo@2x.png", "user@host:~$ ls", "@decorator\ndef f(): pass", "foo@bar", "@anna",
    "npm i lodash@4.17.21 @angular/core@12.0.0", "actions/checkout@v3.1.0",
    "version 1.2.3.4", "torch==12.13.10.11", "v10.15.17.1 of", "Chrome/91.0.4472.124", "section 12.10.11.12", "1.2.3.4",
    "127.0.0.1:8000, 10.0.0.1, 192.168.1.1, 172.16.5.4", "203.0.113.7 and 2001:db8::1", "255.255.255.0", "dns 8.8.8.8",
    "555-0123", "(555) 123-4567", "123-456-7890", "+1 212 555 0147", "x+1234567", "1 + 2128675309 = ?", "$555-1234",
    "call f(1234567)", "10 000 000", "100 200 3000", "12 34 56 78 90", "2021-2022 and 1999-2000", "3.14159265358979",
    "pages = {1234-5678901}", "1,000,000,000", "1612345678901", "ISBN 978-3-16-148410-0", "2023-11-05 12:30:45",
    "4242 4242 4242 4242", "1234 5678 9012 3456", "x = 1234567890123456", "4539 1488 0343 6468",
    "commit 8784ee3f2a1b4c5d6e7f8091a2b3c4d5e6f70819", "550e8400-e29b-41d4-a716-446655440000",
    "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08", "0x1F4A9B2C3D4E5F60718293A4B5C6D7E8",
    "AKIAIOSFODNN7EXAMPLE", "sk-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", 'token = "abcdefghijklmnop"',
    'secret: "your-secret-key-here-123"', 'api_key="YOUR_API_KEY_1234567"', 'password = "password123"',
    "postgres://user:password@localhost/db", "std::vector<int>::iterator", "a[1::2]", "getElementById2",
    "admin@localhost.localdomain", "IMEI 490154203237518", "hash 5749986484189612790", "IP address 1.2.3.4",
    "password = get_password(user_id2)", "token = tokenizerOutputV2", "secret: my-k8s-secret-2023-01",
    "Token: 0xdAC17F958D2ee523a2206206994597C13D831ec7", "id=0012345678901", "password: minLength8Characters2",
]  # fmt: skip


@pytest.mark.parametrize(("text", "wanted"), PERSONAL)
def test_personal_data_becomes_placeholders(text, wanted):
    assert scrubbed_text(text, CONFIG)[0] == wanted


@pytest.mark.parametrize("text", NOBODYS)
def test_what_belongs_to_nobody_stays(text):
    assert scrubbed_text(text, CONFIG) == (text, {})


def test_all_messages_of_a_chat_are_scrubbed_and_the_finds_counted():
    messages = (
        Message("system", "Owner: anna@lopez.es"), Message("user", "I am bob@lopez.es, +44 20 7946 0958"),
        Message("assistant", "Hello bob@lopez.es at 93.184.216.34"),
    )  # fmt: skip
    chat = from_conversation(Conversation("id", messages), "file", "[0]")
    clean, found = scrubbed(chat, CONFIG)
    assert clean.system == "Owner: [EMAIL]"
    assert (clean.rounds[0].user, clean.rounds[0].answer) == ("I am [EMAIL], [PHONE]", "Hello [EMAIL] at [IP]")
    assert clean.rounds[0].text_hash == chat.rounds[0].text_hash
    assert found == {"email": 3, "phone": 1, "ip": 1}


def test_only_the_kinds_that_are_asked_for_are_replaced():
    text = "bob@lopez.es, +44 20 7946 0958"
    assert scrubbed_text(text, PersonalConfig(kinds=("phone",))) == ("bob@lopez.es, [PHONE]", {"phone": 1})
    assert scrubbed_text(text, PersonalConfig(kinds=())) == (text, {})


def test_national_numbers_are_known_for_the_regions_that_are_named():
    text = "Telefon: 030 901820"
    assert scrubbed_text(text, CONFIG)[0] == text
    assert scrubbed_text(text, PersonalConfig(regions=("DE",)))[0] == "Telefon: [PHONE]"
    with pytest.raises(ValueError, match="ISO 3166"):
        PersonalConfig(regions=("Germany",))


def test_a_private_key_goes_whole():
    body = "\n".join("MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7" for _ in range(4))
    text = f"My key:\n-----BEGIN RSA PRIVATE KEY-----\n{body}\n-----END RSA PRIVATE KEY-----\nIs it fine?"
    assert scrubbed_text(text, CONFIG)[0] == "My key:\n[KEY]\nIs it fine?"
    stub = "-----BEGIN PRIVATE KEY-----\n...\n-----END PRIVATE KEY-----"
    assert scrubbed_text(stub, CONFIG)[0] == stub


def test_planted_data_is_found_in_prose_and_nothing_else_is():
    rng = random.Random(5)
    made = {"email": _email, "phone": _phone, "card": _card, "ip": _ip, "key": _key}
    hits = dict.fromkeys(made, 0)
    for number in range(200):
        for kind, make in made.items():
            filler = rng.choice(NOBODYS)
            text, found = scrubbed_text(
                f"Round {number}: {filler}\n\nHere it is: {make(rng)}\nand that was all.", CONFIG
            )
            assert set(found) <= {kind}, text
            hits[kind] += found[kind] == 1
    assert min(hits.values()) >= 0.98 * 200, hits


def _word(rng, letters, low, high):
    return "".join(rng.choice(letters) for _ in range(rng.randint(low, high)))


def _email(rng):
    letters = "abcdefghijklmnoprstuvwz"
    first, last, house = (_word(rng, letters, 3, 8) for _ in range(3))
    return (
        f"{first}{rng.choice('._-+')}{last}{rng.choice(['', '7', '1984'])}@{house}.{rng.choice(['com', 'de', 'co.uk'])}"
    )


def _phone(rng):
    area, middle, last = rng.choice((212, 415, 312, 617, 503)), rng.randint(222, 499), rng.randint(1000, 9999)
    return rng.choice((f"({area}) {middle}-{last}", f"+1 {area} {middle} {last}", f"{area}-{middle}-{last}"))


def _card(rng):
    digits = [rng.choice((4, 5)), rng.randint(1, 5), *(rng.randint(0, 9) for _ in range(13))]
    doubled = sum(sum(divmod(2 * digit, 10)) for digit in digits[::2]) + sum(digits[1::2])
    text = "".join(map(str, [*digits, -doubled % 10]))
    return rng.choice((text, " ".join(text[at : at + 4] for at in range(0, 16, 4))))


def _ip(rng):
    return f"{rng.choice((23, 52, 93, 104, 185))}.{rng.randint(10, 250)}.{rng.randint(0, 255)}.{rng.randint(1, 254)}"


def _key(rng):
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
    secret = _word(rng, letters, 40, 40)
    kinds = (f"ghp_{secret[:36]}", f"sk-proj-{secret}", f"hf_{secret[:34]}", f"AIza{secret[:35]}", f"xoxb-{secret}")
    return rng.choice(kinds)


PIECES = (
    [text for text, _ in PERSONAL] + NOBODYS + ["-", ".", "@", " ", "+", "/", ":", "1", "12", "a", "x9", "\n", "[", "]"]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=8), st.sampled_from(["", " "]))
def test_scrubbing_scrubbed_text_changes_nothing(pieces, between):
    once, _ = scrubbed_text(between.join(pieces), CONFIG)
    assert scrubbed_text(once, CONFIG) == (once, {})


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.sampled_from("0123456789abfz@.:/-+()[] \n\"'=é漢\ud800"), max_size=60))
def test_any_text_is_scrubbed_without_an_error_and_only_once(text):
    once, _ = scrubbed_text(text, CONFIG)
    assert scrubbed_text(once, CONFIG)[0] == once
