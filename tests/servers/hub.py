"""Hugging Face Hub server for tests: the requests with which `huggingface_hub` and `datasets` read one data set."""

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
    """One data set on the server; tests change it while the server runs."""

    url: str = ""
    name: str = "mill/grain"
    files: dict[str, bytes] = field(default_factory=dict)
    """Path in the repository -> content, at `COMMIT`, which is `main`."""
    requests: list[str] = field(default_factory=list)
    """`METHOD path` of every request, in order."""
    down: bool = False
    """Answer every request with 503."""


@contextmanager
def hub_server() -> Iterator[Hub]:
    """Run a server; its address is `Hub.url`."""
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
            hub.requests.append(f"{self.command} {path}")
            if hub.down:
                return self.send_json(503, {"error": "down"})
            api, resolve = f"/api/datasets/{hub.name}", f"/datasets/{hub.name}/resolve/"
            if path.startswith(resolve):
                revision, _, name = path.removeprefix(resolve).partition("/")
                if revision in (COMMIT, "main") and name in hub.files:
                    return self.file(hub.files[name])
                return self.send_json(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
            if path == api or path.startswith(f"{api}/revision/"):
                if path.removeprefix(api).rpartition("/")[2] not in ("", COMMIT, "main"):
                    return self.send_json(404, {"error": "no revision"}, {"X-Error-Code": "RevisionNotFound"})
                siblings = [{"rfilename": name} for name in hub.files]
                return self.send_json(200, {"id": hub.name, "sha": COMMIT, "private": False, "siblings": siblings})
            if path.startswith(f"{api}/tree/"):
                below = path.removeprefix(f"{api}/tree/").partition("/")[2]
                return self.send_json(200, self.entries(below, "recursive=true" in self.path.lower()))
            if path.startswith(f"{api}/paths-info/"):
                paths = json.loads(body)["paths"] if body.startswith(b"{") else _form(body)
                entries = {entry["path"]: entry for entry in self.entries("", True)}
                return self.send_json(200, [entries[path] for path in paths if path in entries])
            return self.send_json(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})

        def entries(self, below: str, deep: bool) -> list[dict[str, object]]:
            """Tree entries of the folder `below`; `deep`: of its subfolders as well."""
            inside = f"{below}/" if below else ""
            entries: dict[str, dict[str, object]] = {}
            for name, data in hub.files.items():
                if not name.startswith(inside):
                    continue
                parts = name.removeprefix(inside).split("/")
                for end in range(1, len(parts)):
                    folder = inside + "/".join(parts[:end])
                    entries[folder] = {"type": "directory", "path": folder, "oid": "0" * 40, "size": 0}
                entries[name] = {"type": "file", "path": name, "oid": sha1(data).hexdigest(), "size": len(data)}
            return [entry for name, entry in entries.items() if deep or "/" not in name.removeprefix(inside)]

        def file(self, data: bytes) -> None:
            headers = {"ETag": f'"{sha1(data).hexdigest()}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
            start = int(self.headers.get("Range", "bytes=0-").partition("=")[2].partition("-")[0])
            self.send(206 if start else 200, data[start:], headers)

        def send_json(self, status: int, value: object, headers: dict[str, str] | None = None) -> None:
            self.send(status, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})

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
