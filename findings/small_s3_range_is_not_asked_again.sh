#!/usr/bin/env bash
# What happens: pyarrow asks S3 again after a 503 where the range asked for is longer than the answer's error document,
#   and gives up at once where it is shorter: "INTERNAL_FAILURE ... Failed to flush response stream".
# Versions: pyarrow 26.0.1.
# Where: the S3 filesystem of Arrow C++ hands the client a buffer of the range's size as the response's stream, and the
#   error document does not fit in; what the client then reports is no error of the kind that is tried again.
# Who meets it: whoever reads rows, footers or indexes of a few hundred bytes from S3 by read_at. A busy bucket's
#   SlowDown, which large reads outlive, ends the run.
# Guess that was wrong: ten attempts mean ten attempts, whatever the size of a read.
# Instead: ask for at least 4 KiB and cut the answer.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check pyarrow==26.0.1
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pyarrow as pa
import pyarrow.fs as pafs

CONTENT = bytes(range(256)) * 64
BUSY = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


class Bucket(BaseHTTPRequestHandler):
    asked = 0  # GETs

    def answer(self, status, body, length=None):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        self.end_headers()
        self.wfile.write(body)

    def do_HEAD(self):
        self.answer(200, b"", len(CONTENT))

    def do_GET(self):
        Bucket.asked += 1
        first, last = (int(end) for end in self.headers["Range"].removeprefix("bytes=").split("-"))
        self.answer(*((503, BUSY) if Bucket.asked == 1 else (206, CONTENT[first : last + 1])))

    def log_message(self, *_):
        pass


def read(size):
    """Read a range of which the first request is refused; return what came of it and the number of requests."""
    Bucket.asked = 0
    try:
        outcome = "read" if file.read_at(size, 512) == CONTENT[512 : 512 + size] else "other bytes"
    except OSError as error:
        outcome = str(error).split(":")[0]
    return outcome, Bucket.asked


server = ThreadingHTTPServer(("127.0.0.1", 0), Bucket)
threading.Thread(target=server.serve_forever, daemon=True).start()
s3 = pafs.S3FileSystem(
    endpoint_override=f"http://127.0.0.1:{server.server_address[1]}", region="us-east-1", access_key="none",
    secret_key="none", retry_strategy=pafs.AwsStandardS3RetryStrategy(10),
)
file = s3.open_input_file("bucket/object")
large = read(4096)
small = read(16)
print(f"pyarrow {pa.__version__}; the first request is answered 503 with a document of {len(BUSY)} bytes")
print("guess: both ranges are read at the second request")
print(f"seen:  4,096 bytes: {large[0]}, {large[1]} requests")
print(f"       16 bytes: {small[0]}, {small[1]} request")
if large != ("read", 2) or small[0] == "read" or small[1] != 1:
    raise SystemExit("the behaviour has changed")
PYTHON
