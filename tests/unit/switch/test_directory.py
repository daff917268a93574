"""What an extension's number, password and name may be."""

import pytest

from warden.core.errors import WardenError
from warden.switch.directory import check_token_name, new_extension
from warden.switch.routing import ECHO_TEST, SPEAKING_CLOCK


def refused(number: str = "1001", password: str = "opens-sesame", name: str = "") -> str:
    with pytest.raises(WardenError) as caught:
        new_extension(number, password, realm="warden", now=0.0, name=name)
    text = str(caught.value)
    text.encode()  # What is said can be printed and sent, whatever was given.
    return text


def test_names_and_passwords_of_every_language_are_taken() -> None:
    for text in ("Jörg Müller", "Ада Лавлейс", "क्\u200dष क्\u200dष", "太郎太郎太郎太郎", "🙂" * 8):
        made = new_extension("1001", text, realm="warden", now=1.0, name=text)
        assert made.name == text
        assert sorted(made.ha1) == ["MD5", "SHA-256", "SHA-512-256"]
        check_token_name(text)


@pytest.mark.parametrize("bad", ["\ud800", "\0", "\x07", "\t", "\r", "\n", "\x7f", "\x85", "\u2028"])
def test_half_characters_and_control_characters_are_refused_wherever_they_stand(bad: str) -> None:
    assert "number is 1 to 64 letters" in refused(number=f"10{bad}")
    assert refused(password=f"opens-{bad}sesame").startswith("extension 1001: its password: must be text")
    assert refused(name=f"A{bad}da").startswith("extension 1001: its name: must be text")
    with pytest.raises(WardenError, match=r"^token: its name: must be text"):
        check_token_name(f"a{bad}b")


def test_lengths_are_told_with_their_bounds() -> None:
    assert refused(password="short") == "extension 1001: its password: must be 8 to 128 characters long"
    assert refused(name="x" * 129) == "extension 1001: its name: must be at most 128 characters long"
    assert "1 to 64" in refused(number="1" * 65)


def test_a_number_that_the_switch_answers_by_itself_is_refused_with_the_reason() -> None:
    assert refused(number=ECHO_TEST) == "extension *43: this number is the echo test"
    assert refused(number=SPEAKING_CLOCK) == "extension *60: this number is the speaking clock"
