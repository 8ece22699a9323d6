#!/usr/bin/env bash
# What happens: requests sends what ~/.netrc has for a host in place of the Authorization header that the caller gave.
#   A key for a server on loopback or in the cluster is lost, and a stored password goes to it instead.
# Versions: requests 2.34.2.
# Where: Session.prepare_request in requests/sessions.py asks netrc where no auth is given. HTTPBasicAuth then
#   overwrites the header.
# Who meets it: whoever asks a vision-language judge behind vLLM or a gateway with `headers={"Authorization": ...}`, on
#   a machine whose ~/.netrc names that host, or has a default line, as logins to model hubs and trackers leave.
# Guess that was wrong: a header that the caller gives wins.
# Instead: give `auth=` an object that sets the header, or turn `session.trust_env` off and lose proxies with it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check requests==2.34.2
cd "$folder"
printf 'machine 127.0.0.1 login somebody password else\n' > netrc
NETRC="$folder/netrc" "$folder/venv/bin/python" - <<'PYTHON'
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import requests

seen = []


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        seen.append(self.headers["Authorization"])
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


class Key(requests.auth.AuthBase):
    def __call__(self, request):
        request.headers["Authorization"] = "Bearer the-key"
        return request


server = HTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}/v1/models"
requests.get(url, headers={"Authorization": "Bearer the-key"}, timeout=10)
requests.get(url, auth=Key(), timeout=10)
server.shutdown()

print(f"requests {requests.__version__}")
print("guess: Bearer the-key, both times")
print(f"seen:  by headers= {seen[0]}, by auth= {seen[1]}")
if not seen[0].startswith("Basic ") or seen[1] != "Bearer the-key":
    raise SystemExit("the behaviour has changed")
PYTHON
