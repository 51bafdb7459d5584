"""Passwords and tokens in the configuration: never changed, never printed, whatever characters they are made of."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from consumers.config import Settings, exposed_secrets, load_settings, masked_values
from pipeline.errors import UsageError

PASSWORDS = [
    "hunter2", "0123", "1:30:17", "yes", "off", "~", "null", "NULL", "2026-01-01", "2026-13-45", "0x_", "0b_",
    ".inf", "1e5", "12_34", "[xyz]", "{abc: bcd}", "[xyz", "{xyz", "xyz]", "*aster", "&anchor", "!tagged",
    "!!int xyz", "%percent", "@at-sign", "`backtick", "'single", '"double', "abc: bcd", "abc #bcd", "#hash",
    "- dash", "? question", "|pipe", ">fold", "=", "<<", "a'b\"c", "back\\slash", "${HOME}x", "file:/etc/hostname",
    "p\u00e4ss-w\u00f6rd", "trailing:", "https://u:v@w/",
]  # fmt: skip
SECRETS = ["kafka.sasl_plain_password", "kafka.ssl_password", "milvus.token"]


def secret_of(settings: Settings, name: str) -> object:
    if name == "milvus.token":
        return None if settings.milvus.token is None else settings.milvus.token.get_secret_value()
    return settings.kafka.client_options.get(name.removeprefix("kafka."))


def says_nothing_of(password: str, text: str) -> bool:
    """Neither the password nor a part of it that tells something stands in the text."""
    parts = [part for part in re.split(r"[^\w]+", password) if len(part) > 2 and part not in ("null", "NULL", "int")]
    return password not in text.split() and not any(part in text for part in parts)


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize("password", PASSWORDS)
def test_an_unquoted_password_is_taken_as_written_or_refused_unseen(tmp_path: Path, name: str, password: str) -> None:
    section, key = name.split(".")
    file = tmp_path / "c.yaml"
    file.write_text(f"{section}:\n  {key}: {password}\n")
    try:
        found = secret_of(load_settings(file, {"HOME": "/home"}), name)
    except UsageError as error:
        message = str(error)
        assert says_nothing_of(password, message)
        assert "line 2" in message or "secret's file" in message
        return
    if (name, password) == ("milvus.token", "null"):
        assert found is None  # written so in the documentation: no token
    elif password == "${HOME}x":
        assert found == "/homex"
    elif password == "file:/etc/hostname":
        assert found == Path("/etc/hostname").read_text().rstrip("\n")
    else:
        assert found == password


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize("password", PASSWORDS)
def test_a_quoted_password_is_taken_as_written(tmp_path: Path, name: str, password: str) -> None:
    section, key = name.split(".")
    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump({section: {key: password}}, default_style='"'))
    if password in ("${HOME}x", "file:/etc/hostname"):
        file.write_text(f"{section}:\n  {key}: ${{PW}}  # a comment\n")
    assert secret_of(load_settings(file, {"PW": password}), name) == password


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize("password", PASSWORDS)
def test_a_password_of_the_environment_or_the_command_line_is_taken_as_written(name: str, password: str) -> None:
    by_name = load_settings(None, {"PW": password}, [f"{name}=${{PW}}"])
    assert secret_of(by_name, name) == password
    if password in ("${HOME}x", "file:/etc/hostname"):
        return
    variable = "MILVUS_STREAM__" + name.replace(".", "__").upper()
    assert secret_of(load_settings(None, {variable: password}), name) == password
    assert secret_of(load_settings(None, {}, [f"{name}={password}"]), name) == password


@pytest.mark.parametrize("text", ["[x]", "{a: b}", "~", "null"])
@pytest.mark.parametrize("name", ["kafka.group_id", "milvus.uri", "record.id_field", "kafka.sasl_plain_username"])
def test_text_settings_take_any_text(name: str, text: str) -> None:
    settings = load_settings(None, {}, [f"{name}={text}"])
    section, key = name.split(".")
    assert getattr(settings, section).model_dump()[key] == text


def test_what_can_be_null_or_a_list_is_read_as_yaml() -> None:
    sets = [
        "record.version_field=null",
        "dead_letters.max_ratio=~",
        "kafka.topics=[a, b]",
        "milvus.index.params={M: 4}",
    ]
    settings = load_settings(None, {}, ["record.version_field=v", *sets, "milvus.index.params.efConstruction=null"])
    assert settings.record.version_field is None
    assert settings.dead_letters.max_ratio is None
    assert settings.kafka.topics == ("a", "b")
    assert settings.milvus.index.params == {"M": 4, "efConstruction": None}
    with pytest.raises(UsageError, match="put it in quotes") as refused:
        load_settings(None, {}, ["kafka={sasl_plain_password: 0123}"])
    assert "0123" not in str(refused.value)


def test_a_file_of_a_secret_keeps_its_blanks(tmp_path: Path) -> None:
    (tmp_path / "pw").write_text(" with blanks \n")
    settings = load_settings(None, {"DIR": str(tmp_path)}, ["milvus.token=file:${DIR}/pw"])
    assert secret_of(settings, "milvus.token") == " with blanks "
    (tmp_path / "pw").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="UTF-8"):
        load_settings(None, {}, [f"milvus.token=file:{tmp_path}/pw"])


@pytest.mark.parametrize("uri", ["http://root:pa@ss/w0rd@h:1", "https://apikey-secret@h", "tcp://u:pass@h/db"])
def test_what_is_shown_holds_no_user_part_of_an_address(uri: str) -> None:
    plain = masked_values(
        load_settings(None, {}, [f"milvus.uri={uri}", "kafka.socks5_proxy=socks5://u:hunter2@proxy:1080"])
    )
    assert plain["milvus"]["uri"] == re.sub("://.*@", "://********@", uri)
    assert plain["kafka"]["socks5_proxy"] == "socks5://********@proxy:1080"


def test_a_setting_without_equals_sign_is_not_printed_whole() -> None:
    with pytest.raises(UsageError, match=r"--set kafka\.sasl_plain_password…") as refused:
        load_settings(None, {}, ["kafka.sasl_plain_password:hunter2"])
    assert "hunter2" not in str(refused.value)


def test_aliases_are_refused_before_they_grow(tmp_path: Path) -> None:
    file = tmp_path / "bomb.yaml"
    levels = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))
    file.write_text("a0: &a0 [x]\n" + levels)
    with pytest.raises(UsageError, match="line 2, column 10: aliases"):
        load_settings(file, {})


@pytest.mark.parametrize("content", ["[" * 100_000, "a: " + "{b: " * 100_000])
def test_a_deep_file_is_refused_in_one_line(tmp_path: Path, content: str) -> None:
    file = tmp_path / "deep.yaml"
    file.write_text(content)
    with pytest.raises(UsageError, match=r"deep\.yaml is not"):
        load_settings(file, {})


CLEAR = "kafka: {sasl_plain_password: hunter2}\nmilvus: {uri: 'http://root:hunter2@h:1', token: '${TOKEN}'}\n"
KEPT = "kafka: {sasl_plain_password: '${PW}'}\nmilvus: {uri: 'http://${USER}:${PW}@h:1', token: 'file:/run/token'}\n"


@pytest.mark.parametrize(
    ("content", "mode", "names"),
    [
        (CLEAR, 0o644, ["kafka.sasl_plain_password", "milvus.uri"]),
        (CLEAR, 0o640, []),
        (KEPT, 0o644, []),
        ("", 0o644, []),
    ],
)
def test_secrets_in_clear_that_others_may_read(tmp_path: Path, content: str, mode: int, names: list[str]) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(content)
    file.chmod(mode)
    assert exposed_secrets(file) == names


def test_lint_warns_of_secrets_that_others_may_read(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(CLEAR)
    file.chmod(0o644)
    command = [sys.executable, "-m", "consumers.cli", "config", "lint", "-c", str(file)]
    ran = subprocess.run(command, env={"TOKEN": "t"}, capture_output=True, text=True, check=True)
    assert "config.readable_secrets" in ran.stderr
    assert "kafka.sasl_plain_password" in ran.stderr
    assert "hunter2" not in ran.stdout + ran.stderr
    file.chmod(0o600)
    ran = subprocess.run(command, env={"TOKEN": "t"}, capture_output=True, text=True, check=True)
    assert ran.stderr == "the configuration is valid\n"
