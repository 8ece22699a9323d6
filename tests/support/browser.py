"""Chromium without a window, driven over its DevTools protocol: what the tests of web pages press and read."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp  # comes with ray[default]

from infra.base.files import ROOT

OWN = ROOT / ".venv" / "browser"  # Chromium with its libraries and fonts, as `make .venv/browser/chromium` fetches it
OWN_CHROMIUM = str(OWN / "chromium") if (OWN / "chromium").is_file() else ""
NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = OWN_CHROMIUM or next((found for found in map(shutil.which, NAMES) if found), "")
OWN_SURROUNDINGS = (
    {"LD_LIBRARY_PATH": str(OWN / "lib"), "FONTCONFIG_FILE": str(OWN / "fonts.conf")} if OWN_CHROMIUM else {}
)
LIMIT = 60  # seconds that anything may take before a test fails instead of waiting on
KEYS = {" ": ("Space", 32), "ArrowLeft": ("ArrowLeft", 37), "ArrowRight": ("ArrowRight", 39), "Enter": ("Enter", 13)}


class Page:
    """One tab."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket, self._number = socket, 0
        self.errors: list[str] = []  # what the page complained of: exceptions, refused loads, errors of the console

    async def send(self, method: str, **parameters: Any) -> Any:
        """Send a command and wait for its result; events that come meanwhile are noted where they are complaints."""
        self._number += 1
        await self._socket.send_json({"id": self._number, "method": method, "params": parameters})
        while True:
            message = json.loads((await asyncio.wait_for(self._socket.receive(), LIMIT)).data)
            if message.get("method") == "Runtime.exceptionThrown":
                self.errors.append(str(message["params"]["exceptionDetails"]))
            elif message.get("method") == "Log.entryAdded" and message["params"]["entry"]["level"] == "error":
                self.errors.append(f"{message['params']['entry']['text']} {message['params']['entry'].get('url')}")
            elif message.get("id") == self._number:
                assert "error" not in message, message
                return message["result"]

    async def evaluate(self, expression: str) -> Any:
        """Return an expression's value in the page, awaiting promises."""
        found = await self.send("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    async def open(self, url: str) -> None:
        """Go to an address and wait until it is loaded, also those images that are loaded where they come into view."""
        await self.send("Page.navigate", url=url)
        await self.until("document.readyState === 'complete'")
        await self.evaluate(
            "Promise.allSettled([...document.images].filter(one => one.src)"
            ".map(one => { one.loading = 'eager'; return one.decode(); })).then(() => true)"
        )

    async def until(self, condition: str) -> None:
        """Wait, at each change of the page, until a condition holds."""
        watch = (
            "new Promise(found => { const look = () => { if (%s) { watcher.disconnect(); found(true); } };"
            "const watcher = new MutationObserver(look); addEventListener('load', look);"
            "watcher.observe(document, {subtree: true, childList: true, attributes: true}); look(); })"
        )
        await self.evaluate(watch % condition)

    async def press(self, key: str) -> None:
        """Press and release a key."""
        code, number = KEYS.get(key, (f"Digit{key}" if key.isdigit() else f"Key{key.upper()}", ord(key[0].upper())))
        pressed = {"key": key, "code": code, "windowsVirtualKeyCode": number}
        text = {"text": "\r" if key == "Enter" else key} if len(key) == 1 or key == "Enter" else {}
        await self.send("Input.dispatchKeyEvent", type="keyDown", **pressed, **text)
        await self.send("Input.dispatchKeyEvent", type="keyUp", **pressed)

    async def click(self, selector: str) -> None:
        """Click the middle of an element with the mouse."""
        await self.evaluate(f"document.querySelector({selector!r}).scrollIntoView({{block: 'center'}})")
        box = f"document.querySelector({selector!r}).getBoundingClientRect()"
        x, y = await self.evaluate(f"(box => [box.x + box.width / 2, box.y + box.height / 2])({box})")
        for kind in ("mousePressed", "mouseReleased"):
            await self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    async def resize(self, width: int, height: int) -> None:
        """Give the page a size in pixels."""
        await self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )

    async def picture(self) -> bytes:
        """Return the whole page as PNG, also what is below the window."""
        height = await self.evaluate("document.documentElement.scrollHeight")
        width = await self.evaluate("innerWidth")
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        shot = await self.send("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        return base64.b64decode(shot["data"])


@contextlib.asynccontextmanager
async def open_page(profile: Path) -> AsyncIterator[Page]:
    """Start Chromium with a profile of its own, yield a tab, and end it."""
    flags = ["--headless=new", "--remote-debugging-port=0", f"--user-data-dir={profile}", "--disable-gpu",
             "--no-first-run", "--disable-background-networking", "--disable-dev-shm-usage"]  # fmt: skip
    if os.geteuid() == 0:
        flags.append("--no-sandbox")  # Chromium refuses to sandbox root's processes
    process = await asyncio.create_subprocess_exec(
        CHROMIUM,
        *flags,
        "about:blank",
        stderr=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        env=os.environ | OWN_SURROUNDINGS,
    )
    try:
        assert process.stderr
        line = ""
        while "DevTools listening on" not in line:
            line = (await asyncio.wait_for(process.stderr.readline(), LIMIT)).decode()
            assert line, "Chromium ended before it listened"
        root = f"http://{line.split('ws://')[1].split('/')[0]}"
        async with aiohttp.ClientSession() as session:
            async with session.get(f"{root}/json") as answer:
                tab = next(one for one in await answer.json() if one["type"] == "page")
            async with session.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                page = Page(socket)
                for domain in ("Page", "Runtime", "Log"):
                    await page.send(f"{domain}.enable")
                yield page
    finally:
        process.terminate()
        await process.wait()
