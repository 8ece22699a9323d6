"""The arena's server: what it refuses, what it never tells, votes that outlive a kill, and its page in a browser."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image, PngImagePlugin
from support.arena_material import CAPTIONS, GREEN, LEFT, RED, Client, serving, write_sets
from support.browser import CHROMIUM, Page, open_page

from pipelines.arena_app.arena_pairs import Contents, Sets, left_model, read_sets
from pipelines.arena_app.arena_server import Arena, ArenaServer, is_loopback
from pipelines.arena_app.arena_votes import QUESTIONS, VOTES, VoteLog, check_rater, read_votes


@pytest.fixture
def sets(tmp_path: Path) -> Sets:
    return read_sets(write_sets(tmp_path))


def test_only_the_token_opens_anything(sets: Sets, tmp_path: Path) -> None:
    with serving(sets, tmp_path / "votes") as server:
        client = Client(server)
        name, token = server.cookie, server.token
        for path in ("/", "/arena.js", "/arena.css", "/session?rater=ann", "/image/0/left?rater=ann", "/nothing"):
            for cookie in (None, "", f"{name}=wrong", f"{name}=é", f"other={token}", ";;=;", f"{name}={token}x"):
                assert client.ask("GET", path, Cookie=cookie)[0] == 403, (path, cookie)
        assert client.ask("GET", "/?token=wrong", Cookie=None)[0] == 403
        assert client.ask("GET", f"/session?rater=ann&token={token}", Cookie=None)[0] == 403
        assert client.vote("ann", 0, LEFT, Cookie=None) == 403
        status, headers, page = client.ask("GET", server.url.split(client.host)[1], Cookie=None)
        assert (status, headers["Set-Cookie"]) == (200, f"{client.cookie}; HttpOnly; SameSite=Strict; Path=/")
        assert token.encode() not in page
    with serving(sets, tmp_path / "votes") as later:
        assert later.token != token
    assert not read_votes(str(tmp_path / "votes" / VOTES))[0]


def test_a_class_that_comes_at_once_is_let_in_beside_connections_that_say_nothing(sets: Sets, tmp_path: Path) -> None:
    with contextlib.ExitStack() as held:
        contents = held.enter_context(contextlib.closing(Contents(sets, sets.pairs, str(tmp_path))))
        log = held.enter_context(contextlib.closing(VoteLog(str(tmp_path / VOTES))))
        server = held.enter_context(ArenaServer(Arena(sets.pairs, contents, log, 0), "127.0.0.1", 0))
        for _ in range(62):  # before the server takes the first of them
            held.enter_context(socket.create_connection(("127.0.0.1", server.server_port), timeout=5))
        held.enter_context(ThreadPoolExecutor()).submit(server.serve_forever, 0.01)
        held.callback(server.shutdown)
        with ThreadPoolExecutor(62) as raters:
            answers = raters.map(lambda number: Client(server).vote(f"rater-{number}", 0, LEFT), range(62))
            assert list(answers) == [200] * 62
        assert log.count() == 62


def test_names_that_somebodys_dns_points_here_and_other_origins_are_refused(sets: Sets, tmp_path: Path) -> None:
    with serving(sets, tmp_path / "votes") as server:
        client = Client(server)
        for host in (None, "", "evil.example", f"evil.example:{server.server_port}", "127.0.0.1.evil.example", "["):
            assert client.ask("GET", "/session?rater=ann", Host=host)[0] in (400, 403), host
        for host in (f"localhost:{server.server_port}", "localhost:9999", "[::1]:8000"):  # the ends of ssh tunnels
            assert client.ask("GET", "/session?rater=ann", Host=host)[0] == 200
        for origin in (
            None,
            "null",
            "http://evil.example",
            f"http://localhost:{server.server_port}",
            "http://127.0.0.1:1",
        ):
            assert client.vote("ann", 0, LEFT, Origin=origin) == 403, origin
        assert client.vote("ann", 0, LEFT) == 200


def test_bad_votes_are_refused_and_leave_no_trace(sets: Sets, tmp_path: Path) -> None:
    with serving(sets, tmp_path / "votes") as server:
        client = Client(server)
        for rater in ("", "a/b", "../ann", "a" * 41, "a\n", "é", None, 3):
            assert client.vote(rater, 0, LEFT) == 400, rater
        for pair, status in ((len(CAPTIONS), 404), (-1, 404), ("0", 400), (True, 400), (None, 400)):
            assert client.vote("ann", pair, LEFT) == status, pair
        for answers in (None, {}, {"general": "left"}, LEFT | {"more": "left"}, LEFT | {"general": 0}, list(LEFT)):
            assert client.vote("ann", 0, answers) == 400, answers
        for body in (b"", b"{", b"[]", b"\xff", b"[" * 4000):
            assert client.ask("POST", "/vote", body)[0] == 400, body
        assert client.ask("POST", "/vote", b" " * 5000)[0] == 413
        assert client.ask("POST", "/vote", b"{}", Content_Type="text/plain")[0] == 415
        assert client.ask("POST", "/vote", Content_Type="application/json")[0] == 411
        assert client.ask("POST", "/elsewhere", b"{}")[0] == 404
        assert client.ask("DELETE", "/vote")[0] == 501
        assert (tmp_path / "votes" / VOTES).read_bytes() == b""


def test_no_path_leads_to_a_file(sets: Sets, tmp_path: Path) -> None:
    with serving(sets, tmp_path / "votes") as server:
        client = Client(server)
        for path in (
            "/votes.jsonl", "/arena.py", "/../pipelines/arena.py", "/..%2f..%2fetc/passwd", "//etc/passwd",
            "/arena.js/..", "/image/../../etc/passwd", "/image/0/..?rater=ann", "/image/0/left/?rater=ann",
            "/image/-1/left?rater=ann", "/image/9999/left?rater=ann", "/image/0/left%00?rater=ann",
            f"/image/{'9' * 30}/left?rater=ann",
        ):  # fmt: skip
            assert client.ask("GET", path)[0] == 404, path
        assert client.ask("GET", "/image/0/left?rater=../../etc/passwd")[0] == 400


def test_nothing_that_is_sent_tells_the_models_apart(sets: Sets, tmp_path: Path) -> None:
    path = Path(sets.models[1].folder) / "images" / "part-0.parquet"
    table = pq.read_table(path)
    rows = table.to_pylist()
    for row in rows:  # what a generator may leave in its files
        notes, buffer = PngImagePlugin.PngInfo(), io.BytesIO()
        notes.add_text("model", "secret-policy")
        image = Image.open(io.BytesIO(row["image"]))
        image.convert("RGBA").save(buffer, format="PNG", pnginfo=notes, icc_profile=b"secret-policy", dpi=(72, 72))
        row["image"] = buffer.getvalue()
    pq.write_table(table.from_pylist(rows, schema=table.schema), path)
    with serving(sets, tmp_path / "votes") as server:
        client, sent = Client(server), []
        shown = [f"/image/{number}/{side}?rater=ann" for number in range(len(CAPTIONS)) for side in ("left", "right")]
        for address in ("/", "/arena.js", "/arena.css", "/session?rater=ann", "/nothing", *shown):
            _, headers, content = client.ask("GET", address)
            sent.append(str(headers).encode() + content)
            assert "default-src 'none'" in headers["Content-Security-Policy"]
            assert "unsafe" not in headers["Content-Security-Policy"]
            assert (headers["Cache-Control"], headers["X-Content-Type-Options"]) == ("no-store", "nosniff")
            assert (headers["Referrer-Policy"], headers["Server"]) == ("no-referrer", "arena")
        client.vote("ann", 0, LEFT)
        sent.append(client.get("/session?rater=ann"))
        words = [b"secret", str(tmp_path).encode(), *(uid.encode() for uid in sets.uids(sets.pairs[0]))]
        assert not [word for word in words for content in sent if word in content]
        images = [Image.open(io.BytesIO(client.get(address))) for address in shown]
        assert {(image.format, image.mode, str(image.info)) for image in images} == {("PNG", "RGB", "{}")}
        for number, pair in enumerate(sets.pairs):
            colours = [image.getpixel((0, 0)) for image in images[2 * number : 2 * number + 2]]
            assert colours == ([GREEN, RED] if left_model(pair, 0, "ann") else [RED, GREEN])


def test_a_rater_goes_on_after_a_restart_and_a_second_vote_replaces_the_first(sets: Sets, tmp_path: Path) -> None:
    with serving(sets, tmp_path / "votes") as server:
        client = Client(server)
        before = client.session("ann")
        assert sorted(row["caption"] for row in before) == sorted(CAPTIONS)
        assert client.vote("Ann", before[0]["pair"], LEFT) == 200  # the same person as ann
        assert client.vote("ann", before[1]["pair"], LEFT) == 200
        assert client.vote("ann", before[1]["pair"], LEFT | {"general": "none"}) == 200
    with (tmp_path / "votes" / VOTES).open("ab") as file:
        file.write(b'{"rater": "ann", "ima')  # a server was killed here
    with serving(sets, tmp_path / "votes") as server:
        client = Client(server)
        after = client.session("ann")
        assert [row["answers"] for row in after] == [LEFT, LEFT | {"general": "none"}, None, None]
        assert [row["pair"] for row in after] == [row["pair"] for row in before]
        assert [row["answers"] for row in client.session("bob")] == [None] * 4
        assert client.vote("ann", after[2]["pair"], LEFT) == 200
    votes, _ = read_votes(str(tmp_path / "votes" / VOTES))
    assert [vote.rater for vote in votes.values()] == ["ann"] * 3
    assert len((tmp_path / "votes" / VOTES).read_bytes().splitlines()) == 4  # none lost, the half one gone


def test_a_vote_that_the_disk_does_not_take_is_not_half_there(
    sets: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: int) -> None:
        raise OSError(28, "No space left on device")

    with serving(sets, tmp_path / "votes") as server:
        client = Client(server)
        assert client.vote("ann", 0, LEFT) == 200
        kept = (tmp_path / "votes" / VOTES).read_bytes()
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", fails)
            assert client.vote("ann", 1, LEFT) == 507
        assert (tmp_path / "votes" / VOTES).read_bytes() == kept
        assert sum(row["answers"] is not None for row in client.session("ann")) == 1
        assert client.vote("ann", 1, LEFT) == 200


def test_raters_and_addresses() -> None:
    assert check_rater("Ann-Marie_2.b") == "ann-marie_2.b"
    assert [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "10.0.0.1", "box")] == [
        True, True, True, False, False, False,
    ]  # fmt: skip


STATE, COUNT = "document.body.dataset.state", "document.getElementById('count').textContent"


async def judge_in_a_browser(server: ArenaServer, profile: Path) -> None:
    """Judge all four pairs: with keys of both kinds, an undo in a pair and over pairs, and the mouse."""

    async def at(page: Page, done: int) -> None:
        await page.until(f"{STATE} === 'judging' && {COUNT} === '{done} of 4 judged'")

    async with open_page(profile) as page:
        await page.resize(1000, 900)
        await page.open(server.url)
        assert await page.evaluate("location.href") == server.url.split("?")[0]  # the token has left the address bar
        await page.until("document.activeElement.id === 'rater'")
        for key in "ann":
            await page.press(key)
        await page.press("Enter")
        await at(page, 0)
        captions = [await page.evaluate("document.getElementById('caption').textContent")]
        for key in ("2", "u", "ArrowLeft", "ArrowRight", " "):
            await page.press(key)
        await at(page, 1)
        width = "document.querySelector('#left img').clientWidth"
        before = await page.evaluate(width)
        await page.press("z")
        assert await page.evaluate(width) > 1.2 * before
        await page.press("z")
        for _ in QUESTIONS:
            await page.click("#left img")
        await at(page, 2)
        await page.press("u")  # back to the second pair, its last question open
        await at(page, 2)
        await page.press("0")
        await page.until(f"{STATE} === 'judging' && !document.querySelector('[aria-pressed=true]')")
        for question in QUESTIONS:
            await page.click(f'[data-question="{question}"] [data-answer="right"]')
        await at(page, 3)
        captions.append(await page.evaluate("document.getElementById('caption').textContent"))
        for key in ("2", "0", "1"):
            await page.press(key)
        await page.until(f"{STATE} === 'end'")
        assert captions[0] != captions[1]
        assert set(captions) <= set(CAPTIONS)  # as text: one of them looks like HTML
        assert await page.evaluate("document.querySelector('#end h1').getClientRects().length") == 1
        assert page.errors == []


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="no chromium, chromium-browser or google-chrome on this machine")
def test_a_rater_judges_all_pairs_in_a_real_browser(sets: Sets, tmp_path: Path) -> None:
    with serving(sets, tmp_path / "votes") as server:
        asyncio.run(judge_in_a_browser(server, tmp_path / "profile"))
        session = Client(server).session("ann")
    assert [list(row["answers"].values()) for row in session] == [
        ["left", "right", "none"],
        ["left", "left", "none"],
        ["right", "right", "right"],
        ["right", "none", "left"],
    ]
