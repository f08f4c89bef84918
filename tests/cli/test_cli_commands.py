"""The commands of a client, against a node that runs in a process of its own."""

from __future__ import annotations

import base64
import io
import json
import shlex
import signal
import subprocess
import sys
from unittest import mock

import pytest

from disheap import sync
from disheap.cli import cluster, messages
from disheap.cli.processes.local_cluster import free_ports
from disheap.cli.terminal import failures, output
from disheap.cli.terminal.options import DURATION_MAX_MS
from disheap.protocol import broker
from tests.cli.command_line import run, run_process
from tests.cli.conftest import Ask

TOPIC_KEYS = [
    "topic", "mode", "max_messages", "overflow", "message_ttl_ms", "expires_ms", "auto_delete", "exclusive",
    "priority_max", "delivery_limit", "dead_letter_topic", "dead_letter_exchange", "dead_letter_key", "retry_delay_ms",
    "retry_delay_max_ms", "revision", "paused", "ready", "delayed", "leased", "consumers", "ready_bytes",
    "oldest_enqueued_ms",
]  # fmt: skip


# --- topics ----------------------------------------------------------------------------------------------------------


def test_a_topic_is_created_once_and_found_again(ask: Ask) -> None:
    words = (
        "topic",
        "create",
        "mail",
        "--mode",
        "min",
        "--overflow",
        "drop",
        "--max-messages",
        "7",
        "--message-ttl",
        "1h",
        "--expires",
        "2d",
        "--priority-max",
        "9",
    )
    first = ask(*words, "--auto-delete", "--json").json
    assert list(first) == [*TOPIC_KEYS, "created"]
    assert first["created"] and not ask(*words, "--auto-delete", "--json").json["created"]
    found = ask("topic", "info", "mail", "--json").json
    assert (found["mode"], found["max_messages"], found["overflow"], found["auto_delete"]) == ("min", 7, "drop", True)
    assert (found["message_ttl_ms"], found["expires_ms"], found["priority_max"]) == (3_600_000, 172_800_000, 9)
    assert ask(*words, "--auto-delete").text == "topic mail was there already\n"


def test_a_topic_with_other_settings_is_a_mismatch(ask: Ask, topic: str) -> None:
    ended = ask("topic", "create", topic, "--mode", "min", "--json")
    assert ended.code == 5 and json.loads(ended.err)["error"] == "topic-mismatch"


def test_topics_are_listed_by_name_and_prefix(ask: Ask) -> None:
    for name in ("list.b", "list.a", "other"):
        ask("topic", "create", name)
    listed = ask("topic", "ls", "--prefix", "list.", "--json").json["topics"]
    assert [each["topic"] for each in listed] == ["list.a", "list.b"]
    assert all(list(each) == TOPIC_KEYS for each in listed)
    lines = ask("topic", "ls", "--prefix", "list.").text.splitlines()
    assert lines[0].split() == ["TOPIC", "MODE", "READY", "DELAYED", "LEASED", "CONSUMERS", "BYTES", "PAUSED"]
    assert [line.split()[0] for line in lines[1:]] == ["list.a", "list.b"]


def test_a_topic_is_described_for_people(ask: Ask, topic: str) -> None:
    text = ask("topic", "info", topic).text
    assert "message ttl     none" in text and "max messages    no limit" in text
    assert "dead letters    dropped" in text and "retry delay     none" in text


def test_an_empty_topic_is_removed_without_a_question(ask: Ask, topic: str) -> None:
    assert ask("topic", "rm", topic, "--json").json == {"topic": topic, "removed_messages": 0}
    ended = ask("topic", "info", topic)
    assert ended.code == 5 and "there is no topic" in ended.err


def test_a_topic_with_messages_is_not_removed_where_nobody_can_be_asked(ask: Ask, topic: str) -> None:
    ask("enqueue", topic, "x")
    ended = ask("topic", "rm", topic)
    assert ended.code == 2 and f"{topic} holds 1 message, which would be lost; insist with --yes" in ended.err
    assert ask("topic", "rm", topic, "--if-empty").code == 5
    assert ask("topic", "rm", topic, "--yes").text == f"topic {topic} is removed, and 1 message with it\n"


@pytest.mark.parametrize(("answer", "code", "left"), [(b"n\n", 130, 5), (b"y\n", 0, 0)])
def test_at_a_terminal_the_loss_has_to_be_agreed_to(ask: Ask, topic: str, answer: bytes, code: int, left: int) -> None:
    ask("enqueue", topic, "x", "--count", "5")
    ended = ask("purge", topic, stdin=answer, terminal=True)
    assert ended.code == code and "holds 5 messages, which will be lost. Go on?" in ended.err
    assert ask("topic", "info", topic, "--json").json["ready"] == left


def test_purge_drops_what_waits(ask: Ask, topic: str) -> None:
    ask("enqueue", topic, "now", "--count", "2")
    ask("enqueue", topic, "later", "--delay", "1h")
    assert ask("purge", topic).code == 2
    assert ask("purge", topic, "--yes", "--json").json == {"topic": topic, "purged_messages": 3}
    assert ask("purge", topic).text == f"0 messages purged from {topic}\n"


# --- messages --------------------------------------------------------------------------------------------------------


def test_messages_come_out_by_priority_and_then_in_order(ask: Ask, topic: str) -> None:
    for payload, priority in (("low", "-5"), ("first", "0"), ("second", "0"), ("urgent", "9")):
        ask("enqueue", topic, payload, "--priority", priority)
    assert ask("pop", topic, "--count", "4").out == b"urgent\nfirst\nsecond\nlow\n"
    assert ask("topic", "info", topic, "--json").json["leased"] == 0


def test_what_enqueue_says_is_what_was_done(ask: Ask, topic: str) -> None:
    one = ask("enqueue", topic, "x", "--json").json
    assert one == {"topic": topic, "enqueued_messages": 1, "first_id": one["last_id"], "last_id": one["first_id"]}
    many = ask("enqueue", topic, "x", "--count", "3", "--json").json
    assert many["enqueued_messages"] == 3 and many["last_id"] == many["first_id"] + 2 > one["last_id"]
    nothing = ask("enqueue", topic, "--lines", "--json").json
    assert nothing == {"topic": topic, "enqueued_messages": 0, "first_id": None, "last_id": None}


def test_payloads_are_bytes_from_end_to_end(ask: Ask, topic: str) -> None:
    raw = bytes(range(256))
    ask("enqueue", topic, "-", stdin=raw)
    ask("enqueue", topic, stdin=raw)
    ask("enqueue", topic, raw[1:].decode(sys.getfilesystemencoding(), "surrogateescape"))
    assert ask("pop", topic, "--count", "3").out == raw + b"\n" + raw + b"\n" + raw[1:] + b"\n"


def test_json_has_text_where_it_is_text_and_base64_where_it_is_not(ask: Ask, topic: str) -> None:
    ask("enqueue", topic, "--lines", stdin="größer\n".encode() + b"\xff\xfe")
    for verb in ("peek", "pop"):
        text, binary = ask(verb, topic, "--count", "2", "--json").json["messages"]
        assert text["payload"] == "größer" and "payload_base64" not in text
        assert base64.b64decode(binary["payload_base64"]) == b"\xff\xfe" and "payload" not in binary


def test_each_line_is_a_message_however_many_batches_they_fill(ask: Ask, topic: str) -> None:
    lines = [b"%d" % number for number in range(2 * messages.BATCH_MESSAGES + 1)]
    assert ask("enqueue", topic, "--lines", "--json", stdin=b"\n".join(lines)).json["enqueued_messages"] == len(lines)
    assert ask("pop", topic, "--count", "10000").out.splitlines() == lines


def test_batches_are_bounded_in_messages_and_bytes() -> None:
    half = b"x" * (messages.BATCH_BYTES // 2)
    assert [len(batch) for batch in messages._batches([half, half, half, b""])] == [2, 2]
    assert [len(batch) for batch in messages._batches([half * 3, b"", half * 3])] == [1, 1, 1]
    assert [len(batch) for batch in messages._batches([b""] * (messages.BATCH_MESSAGES + 1))] == [1000, 1]


def test_a_delayed_message_is_seen_only_on_request(ask: Ask, topic: str) -> None:
    ask("enqueue", topic, "later", "--delay", "1h")
    ended = ask("peek", topic)
    assert (ended.code, ended.err) == (9, f"disheap: nothing waits in {topic}\n")
    (message,) = ask("peek", topic, "--delayed", "--json").json["messages"]
    assert message["state"] == "delayed" and message["due_ms"] - message["enqueued_ms"] == 3_600_000


def test_a_message_that_is_given_back_keeps_its_place(ask: Ask, topic: str) -> None:
    ask("enqueue", topic, "--lines", stdin=b"one\ntwo")
    assert ask("pop", topic, "--nack").out == b"one\n"
    (again,) = ask("pop", topic, "--json").json["messages"]
    assert (again["payload"], again["attempts"]) == ("one", 2)
    assert list(again) == ["id", "priority", "attempts", "redelivered", "enqueued_ms", "key", "headers", "payload"]


def test_headers_and_a_key_go_in_and_come_out(ask: Ask, topic: str) -> None:
    ask("enqueue", topic, "plain")
    ask("enqueue", topic, "body", "--header", "tenant=blue", "--header", "sum=a=b\n\x1b", "--key", "customer-7")
    shown = {"key": "customer-7", "headers": {"tenant": "blue", "sum": "a=b\n\x1b"}}
    for verb in ("peek", "pop"):
        plain, full = ask(verb, topic, "--count", "2", "--json", *(["--nack"] if verb == "pop" else [])).json[
            "messages"
        ]
        assert (plain["key"], plain["headers"]) == ("", {})
        assert {name: full[name] for name in shown} == shown
    head, first, second = ask("peek", topic).text.splitlines()
    assert head.split() == ["ID", "PRIORITY", "ATTEMPTS", "STATE", "KEY", "HEADERS", "PAYLOAD"]
    assert first.endswith("plain") and "customer-7" in second and "tenant=blue sum=a=b\\n\\x1b" in second
    assert ask("pop", topic, "--count", "2", "--nack").out == b"plain\nbody\n", "payloads alone, unless asked for"
    assert ask("pop", topic, "--count", "2", "--headers").text == (
        "\nplain\nkey: customer-7\nheader tenant: blue\nheader sum: a=b\\n\\x1b\n\nbody\n"
    )


def test_every_type_of_header_is_shown(ask: Ask, url: str, topic: str) -> None:
    headers = broker.encode_headers({"i": 7, "f": 0.5, "n": float("nan"), "b": True, "raw": b"\x00\xff"})
    command = broker.Enqueue(topic, broker.NewMessage(b"x", encoded_headers=headers))
    with sync.connect(url) as client:
        client.driver.request(command)
    (message,) = ask("peek", topic, "--json").json["messages"]
    assert message["headers"] == {"i": 7, "f": 0.5, "n": "nan", "b": True, "raw": {"base64": "AP8="}}
    assert "i=7 f=0.5 n=NaN b=true raw=0x00ff" in ask("peek", topic).text


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--header", "tenant"], 2, "'tenant' is no header; write NAME=VALUE"),
        (["--header", "a=1", "--header", "a=2"], 2, "--header 'a' is given twice"),
        (["--header", "=1"], 5, "has 1 to 255 characters, not 0"),
        (["--header", "a=" + "x" * 20_000], 5, "over the limit of 16384"),
        (["--key", "k" * 256], 5, "a key of 256 bytes is over the limit"),
    ],
)
def test_bad_headers_and_keys_are_refused_and_nothing_is_enqueued(
    ask: Ask, topic: str, words: list[str], code: int, said: str
) -> None:
    ended = ask("enqueue", topic, "x", *words)
    assert ended.code == code and said in " ".join(ended.err.split())
    assert ask("topic", "info", topic, "--json").json["ready"] == 0


def test_batches_count_headers_too() -> None:
    assert [len(one) for one in messages._batches([b""] * 7, messages.BATCH_BYTES // 3)] == [3, 3, 1]
    assert [len(one) for one in messages._batches([b""] * 240, 1, 200)] == [100, 100, 40]


def test_nothing_to_pop_has_an_exit_code_of_its_own(ask: Ask, topic: str) -> None:
    ended = ask("pop", topic, "--wait", "10")
    assert (ended.code, ended.out, ended.err) == (9, b"", f"disheap: nothing to pop from {topic}\n")
    assert ask("pop", topic, "--json").json == {"topic": topic, "messages": []}


def test_peek_shows_what_cannot_be_printed(ask: Ask, topic: str) -> None:
    ask("enqueue", topic, "-", stdin=b"a\n\x1b[31m\xff" + b"x" * 100)
    row = ask("peek", topic).text.splitlines()[1]
    assert "a\\n\\x1b[31m\\xff" in row and row.endswith("…") and len(row.split()[-1]) == messages.PREVIEW_CHARACTERS


@pytest.mark.parametrize(
    ("words", "shown"), [((), b"a\\x1b[31m\tb\\u202e\nc\\xff\n"), (("--raw",), b"a\x1b[31m\tb\xe2\x80\xae\nc\xff\n")]
)
def test_pop_escapes_what_would_steer_a_terminal(ask: Ask, topic: str, words: tuple[str, ...], shown: bytes) -> None:
    payload = b"a\x1b[31m\tb\xe2\x80\xae\nc\xff"
    ask("enqueue", topic, "-", stdin=payload)
    assert ask("pop", topic, "--nack", *words, screen=True).out == shown
    assert ask("pop", topic).out == payload + b"\n", "a pipe gets the bytes as they are"


def test_standard_input_is_not_read_beyond_what_a_node_takes(ask: Ask, topic: str) -> None:
    endless = Endless()
    for words in ((), ("--lines",)):
        ended = ask("enqueue", topic, *words, "--json", stdin=endless)
        assert (ended.code, json.loads(ended.err)["error"]) == (5, "payload-too-large")
    assert endless.read_bytes < 32 << 20
    assert ask("topic", "info", topic, "--json").json["ready"] == 0


class Endless(io.RawIOBase):
    """A standard input without an end and without a line feed. Counts what was read of it."""

    read_bytes = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        assert 0 <= size < 1 << 30, "somebody wants to have all of it"
        self.read_bytes += size
        return b"x" * size

    def readline(self, size: int | None = -1) -> bytes:
        return self.read(-1 if size is None else size)


def test_a_line_that_is_too_long_is_named_and_so_is_what_went_before(ask: Ask, topic: str) -> None:
    lines = b"x\n" * messages.BATCH_MESSAGES + b"y" * (9 << 20)
    ended = ask("enqueue", topic, "--lines", stdin=lines)
    assert f"line {messages.BATCH_MESSAGES + 1} of standard input" in ended.err
    assert f"the first {messages.BATCH_MESSAGES} messages are in {topic}" in ended.err
    assert ask("topic", "info", topic, "--json").json["ready"] == messages.BATCH_MESSAGES


@pytest.mark.parametrize("words", [("enqueue", "nope", "x"), ("pop", "nope")], ids=" ".join)
def test_a_missing_topic_is_told_with_the_way_to_create_it(ask: Ask, words: tuple[str, ...]) -> None:
    ended = ask(*words, "--json")
    told = json.loads(ended.err)
    assert (ended.code, told["error"]) == (5, "topic-not-found") and "disheap topic create" in told["message"]


@pytest.mark.parametrize("name", ["-dash", "it's; rm"])
def test_the_way_to_create_a_topic_can_be_pasted(ask: Ask, name: str) -> None:
    hint = ask("pop", "--", name).err.partition("create it first: disheap ")[2]
    assert ask("--json", *shlex.split(hint)).json["topic"] == name


LOOKS = [("peek",), ("purge",), ("purge", "--yes"), ("topic", "info"), ("topic", "rm"), ("topic", "rm", "--yes")]


@pytest.mark.parametrize("words", LOOKS, ids=" ".join)
def test_nobody_is_told_to_create_a_topic_in_order_to_look_or_to_remove_it(ask: Ask, words: tuple[str, ...]) -> None:
    ended = ask(*words, "nope", "--json")
    told = json.loads(ended.err)
    assert (ended.code, told["error"]) == (5, "topic-not-found")
    assert "disheap topic ls" in told["message"] and "create" not in told["message"]


def test_an_oversize_payload_is_refused_by_name(ask: Ask, topic: str) -> None:
    ended = ask("enqueue", topic, "-", "--json", stdin=b"x" * (9 << 20))
    assert (ended.code, json.loads(ended.err)["error"]) == (5, "payload-too-large")
    assert ask("topic", "info", topic, "--json").json["ready"] == 0


# --- the cluster and the plugins -------------------------------------------------------------------------------------


def test_status_is_shown_again_and_again_until_it_is_interrupted(url: str) -> None:
    command = [sys.executable, "-m", "disheap", "status", "--watch", "100ms", "--json", "--url", url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        seen = [json.loads(process.stdout.readline())["nodes"][0]["uptime_s"] for _ in range(3)]
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    assert seen == sorted(seen)


def test_a_status_that_is_watched_says_when_nobody_answers_and_goes_on() -> None:
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "disheap", "status", "--watch", "100", "--url", f"disheap://127.0.0.1:{port}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert all("is a node running there" in process.stderr.readline() for _ in range(2))
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130


def test_a_status_is_not_asked_for_without_a_pause(ask: Ask) -> None:
    ended = ask("status", "--watch", "1ms")
    assert ended.code == 2
    assert "at most, not each 1 ms" in ended.err


def test_status_shows_the_node_and_its_counters(ask: Ask, url: str) -> None:
    shown = ask("status", "--json").json
    (node,) = shown["nodes"]
    assert (shown["leader"], node["node"], node["role"]) == ("dev", "dev", "leader")
    assert node["client_address"].rpartition(":")[2] == url.rpartition(":")[2]
    assert node["counters"]["raft_cluster_size"] == 1 and node["machine_stats"].keys() >= {"ready", "delayed", "leased"}
    text = ask("status").text
    assert text.splitlines()[0].split()[:2] == ["NODE", "ROLE"] and "raft_applied_entries_total" in text


def test_a_node_that_does_not_answer_is_shown_beside_one_that_does(ask: Ask, url: str) -> None:
    ended = run("status", "--url", f"{url},127.0.0.1:1")
    assert ended.code == 0 and ended.text.splitlines()[1].startswith("dev ")


def test_a_node_that_refuses_is_not_waited_for() -> None:
    with mock.patch.object(cluster, "NODE_TIMEOUT_S", 3600.0):
        ended = run("status", "--url", "disheap://127.0.0.1:1,127.0.0.1:2")
    assert ended.code == 6 and ended.err.startswith("disheap: 127.0.0.1:1: connection refused; 127.0.0.1:2: ")


def test_leadership_has_to_go_to_somebody(ask: Ask) -> None:
    assert "no other voter" in ask("transfer").err
    ended = ask("transfer", "n9", "--json")
    assert (ended.code, json.loads(ended.err)["error"]) == (5, "unknown-member")


def test_plugins_are_listed_with_their_origin() -> None:
    rows = {(row["kind"], row["name"]): row for row in run("plugins", "--json").json["plugins"]}
    shipped = [("transport", "tcp"), ("transport", "tls"), ("transport", "inproc"), ("storage", "file"),
               ("storage", "memory"), ("codec", "none"), ("codec", "zstd"), ("machine", "heap")]  # fmt: skip
    for key in shipped:
        assert rows[key]["distribution"] == "disheap" and rows[key]["error"] is None
    text = run("plugins").text
    assert text.splitlines()[0].split() == ["KIND", "NAME", "DISTRIBUTION", "VERSION", "ENTRY_POINT"]
    assert all(f"{kind:<9}  {name}" in text for kind, name in shipped)


def test_a_plugins_settings_come_with_type_default_and_bounds() -> None:
    (plugin,) = run("plugins", "storage.file", "--json").json["plugins"]
    settings = {setting["name"]: setting for setting in plugin["settings"]}
    assert list(settings["segment_bytes"]) == ["name", "type", "default", "bounds", "description"]
    assert settings["segment_bytes"]["type"] == "int" and settings["segment_bytes"]["bounds"].startswith(">= ")
    assert run("plugins", "file").text.startswith("storage file, from disheap ")
    assert "It has no settings." in run("plugins", "codec.none").text


@pytest.mark.parametrize(
    "name", ["transport.tcp", "transport.tls", "transport.inproc", "storage.file", "codec.zstd", "machine.heap"]
)
def test_each_setting_of_a_shipped_plugin_says_what_it_is(name: str) -> None:
    (plugin,) = run("plugins", name, "--json").json["plugins"]
    assert [setting["name"] for setting in plugin["settings"] if not setting["description"]] == []


def test_a_broken_plugin_is_listed_with_its_reason(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    from disheap.interfaces import Provenance
    from disheap.plugins.registry import Listed, Registry

    broken = Listed("", "", Provenance("acme", "1.0", "acme"), None, "plugin 'acme' of acme 1.0 cannot be\nloaded")
    monkeypatch.setattr(Registry, "listing", lambda self: (broken,))
    ended = run("plugins")
    assert ended.code == 0 and "broken: plugin 'acme' of acme 1.0 cannot be loaded" in ended.text
    assert run("plugins", "--json").json["plugins"][0]["error"] == broken.error


# --- what people write -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("500", 500),
        ("250ms", 250),
        ("10s", 10_000),
        ("1.5s", 1500),
        ("5m", 300_000),
        ("2h", 7_200_000),
        ("1 d", 86_400_000),
    ],
)
def test_a_duration_has_a_unit_or_is_in_milliseconds(text: str, milliseconds: int) -> None:
    from disheap.cli.terminal.options import duration

    assert duration(text) == milliseconds


def test_bounds_are_those_of_the_protocol() -> None:
    assert DURATION_MAX_MS == broker.DURATION_MAX_MS
    assert run("enqueue", "x", "y", "--delay", f"{DURATION_MAX_MS + 1}").code == 2


def test_without_a_payload_a_terminal_is_not_waited_for() -> None:
    ended = run("enqueue", "jobs", terminal=True)
    assert ended.code == 2 and "give one, or - to type it" in ended.err


def test_a_name_that_is_no_text_is_refused_before_it_is_sent() -> None:
    for words in (("topic", "info", "\udcff"), ("enqueue", "\udcff", "x"), ("transfer", "\udcff")):
        ended = run(*words)
        assert ended.code == 2 and "is not UTF-8 text" in ended.err


def test_a_terminal_that_lacks_a_character_gets_an_escape(ask: Ask, topic: str, url: str) -> None:
    ask("enqueue", topic, "\u20ac \U0001f600")
    latin = {"PYTHONIOENCODING": "latin-1", "DISHEAP_URL": url}
    assert b"\\u20ac \\U0001f600" in run_process("peek", topic, environ=latin).out
    assert run_process("peek", topic, "--json", environ=latin).json["messages"][0]["payload"] == "\u20ac \U0001f600"


# --- how it looks ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("columns", "drawn"), [(200, True), (20, False)])
def test_a_table_is_drawn_where_it_fits_and_is_never_cut(columns: int, drawn: bool) -> None:
    screen = io.StringIO()
    screen.isatty = lambda: True  # type: ignore[method-assign]
    with mock.patch.object(sys, "stdout", screen), mock.patch.dict("os.environ", {"COLUMNS": str(columns)}):
        output.emit_table(["node", "client address"], [("n1", "10.0.0.1:8400"), ("n2", "-")])
    assert "10.0.0.1:8400" in screen.getvalue()
    assert ("client address" in screen.getvalue()) is drawn
    assert ("CLIENT_ADDRESS" in screen.getvalue()) is not drawn


def test_columns_line_up_under_wide_and_combining_characters(capsys: pytest.CaptureFixture[str]) -> None:
    output.emit_table(["name", "n"], [("待ち行列", 1), ("e\u0301te\u0301", 2), ("plain", 3)])
    rows = ["待ち行列  1", "e\u0301te\u0301       2", "plain     3"]
    assert capsys.readouterr().out.splitlines() == ["NAME      N", *rows]


def test_nothing_in_a_table_steers_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    output.emit_table(["name"], [("\x1b[2J\u202eevil\n",)])
    output.emit_pairs([("name", "\x9b2J")])
    assert capsys.readouterr().out == "NAME\n\\x1b[2J\\u202eevil\\n\nname  \\x9b2J\n"


def test_json_steers_no_terminal_and_reads_the_same() -> None:
    steering = "\x9b2J\x1b[2J\u202eevil\n\U000e0001 été 漢字"
    told = failures.told("usage", steering, as_json=True)
    for text in (output.json_text(steering), told):
        assert text.isprintable() and "été 漢字" in text
    assert json.loads(output.json_text(steering)) == steering and json.loads(told)["message"] == steering


def test_names_that_head_columns_are_not_changed(ask: Ask) -> None:
    header = next(line for line in ask("status").text.splitlines() if line.startswith("COUNTER "))
    assert header.split()[1:] == [row["node"] for row in ask("status", "--json").json["nodes"]]


@pytest.mark.parametrize(
    ("count", "shown"), [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1 << 20, "1.0 MiB"), (1 << 52, "4096.0 TiB")]
)
def test_sizes_are_in_binary_units(count: int, shown: str) -> None:
    assert output.size(count) == shown


@pytest.mark.parametrize(
    ("milliseconds", "shown"),
    [(0, "0"), (250, "250ms"), (1500, "1500ms"), (90_000, "90s"), (5_400_000, "90m"), (86_400_000, "1d")],
)
def test_a_period_can_be_typed_again(milliseconds: int, shown: str) -> None:
    from disheap.cli.terminal.options import duration

    assert output.period(milliseconds) == shown and duration(shown) == milliseconds
