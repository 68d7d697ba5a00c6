"""A small hub: the requests by which `huggingface_hub` and `datasets` find and fetch the files of one data set."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha1
from urllib.parse import unquote, urlsplit

from tests.servers.loopback import Handler, served

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    url: str = ""
    name: str = "mill/grain"
    files: dict[str, bytes] = field(default_factory=dict)
    """By path in the repository, at `COMMIT`, which is `main`."""
    asked: list[str] = field(default_factory=list)
    down: bool = False


@contextmanager
def hub_server() -> Iterator[Hub]:
    hub = Hub()

    class Answers(Handler):
        def do_GET(self) -> None:
            self.respond(b"")

        def do_HEAD(self) -> None:
            self.respond(b"")

        def do_POST(self) -> None:
            self.respond(self.rfile.read(int(self.headers.get("Content-Length", 0))))

        def respond(self, body: bytes) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.asked.append(f"{self.command} {path}")
            if hub.down:
                return self.say(503, {"error": "down"})
            api, resolve = f"/api/datasets/{hub.name}", f"/datasets/{hub.name}/resolve/"
            if path.startswith(resolve):
                revision, _, name = path.removeprefix(resolve).partition("/")
                if revision in (COMMIT, "main") and name in hub.files:
                    return self.file(hub.files[name])
                return self.say(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
            if path == api or path.startswith(f"{api}/revision/"):
                if path.removeprefix(api).rpartition("/")[2] not in ("", COMMIT, "main"):
                    return self.say(404, {"error": "no revision"}, {"X-Error-Code": "RevisionNotFound"})
                siblings = [{"rfilename": name} for name in hub.files]
                return self.say(200, {"id": hub.name, "sha": COMMIT, "private": False, "siblings": siblings})
            if path.startswith(f"{api}/tree/"):
                below = path.removeprefix(f"{api}/tree/").partition("/")[2]
                return self.say(200, self.entries(below, "recursive=true" in self.path.lower()))
            if path.startswith(f"{api}/paths-info/"):
                asked = json.loads(body)["paths"] if body.startswith(b"{") else _form(body)
                known = {entry["path"]: entry for entry in self.entries("", True)}
                return self.say(200, [known[one] for one in asked if one in known])
            return self.say(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})

        def entries(self, below: str, deep: bool) -> list[dict[str, object]]:
            inside = f"{below}/" if below else ""
            found: dict[str, dict[str, object]] = {}
            for name, data in hub.files.items():
                if not name.startswith(inside):
                    continue
                parts = name.removeprefix(inside).split("/")
                for end in range(1, len(parts)):
                    folder = inside + "/".join(parts[:end])
                    found[folder] = {"type": "directory", "path": folder, "oid": "0" * 40, "size": 0}
                found[name] = {"type": "file", "path": name, "oid": sha1(data).hexdigest(), "size": len(data)}
            return [one for name, one in found.items() if deep or "/" not in name.removeprefix(inside)]

        def file(self, data: bytes) -> None:
            headers = {"ETag": f'"{sha1(data).hexdigest()}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
            start = int(self.headers.get("Range", "bytes=0-").partition("=")[2].partition("-")[0])
            self.send(206 if start else 200, data[start:], headers)

        def say(self, status: int, told: object, headers: dict[str, str] | None = None) -> None:
            self.send(status, json.dumps(told).encode(), {"Content-Type": "application/json", **(headers or {})})

        def send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(data)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)
            self.wfile.flush()

    with served(Answers) as port:
        hub.url = f"http://127.0.0.1:{port}"
        yield hub


def _form(body: bytes) -> list[str]:
    from urllib.parse import parse_qs

    return parse_qs(body.decode()).get("paths", [])
