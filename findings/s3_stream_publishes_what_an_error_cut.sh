#!/usr/bin/env bash
# What happens: an error inside `with filesystem.open_output_stream("bucket/name") as stream:` still publishes what was
#   written up to there, under the final name. A ParquetWriter adds a valid footer: the half table reads as a whole one.
# Versions: pyarrow 26.0.1, against moto 5.2.5's S3 server on loopback.
# Where: NativeFile.__exit__ and ParquetWriter.__exit__ in pyarrow close the stream whatever happened; closing completes
#   the upload.
# Who meets it: who takes "an S3 object appears only when its upload is complete" for "an object that is there is
#   whole": stores, checkpoints, exports.
# Guess that was wrong: the upload is aborted, and no object appears.
# Instead: write a marker last, with sizes or hashes of what it vouches for; or write the bytes in one call.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check pyarrow==26.0.1 "moto[server]==5.2.5"
cd "$folder"
"$folder/venv/bin/python" - 2>server.log <<'PYTHON'
import contextlib

import moto
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
from moto.server import ThreadedMotoServer

server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
host, port = server.get_host_and_port()
filesystem = pyarrow.fs.S3FileSystem(
    access_key="test",
    secret_key="test",
    region="us-east-1",
    endpoint_override=f"http://{host}:{port}",
    allow_bucket_creation=True,
)
filesystem.create_dir("bucket")
with contextlib.suppress(KeyError), filesystem.open_output_stream("bucket/whole-is-9-bytes") as stream:
    stream.write(b"whole")
    raise KeyError("the second half could not be made")
rows = pa.table({"pair_id": range(10)})
with contextlib.suppress(KeyError), pq.ParquetWriter("bucket/of-20.parquet", rows.schema, filesystem=filesystem) as file:
    file.write_table(rows)
    raise KeyError("the other ten rows could not be made")

cut = filesystem.get_file_info("bucket/whole-is-9-bytes")
table = pq.read_table("bucket/of-20.parquet", filesystem=filesystem)
server.stop()
print(f"pyarrow {pa.__version__}, moto {moto.__version__}")
print("guess: neither object is there")
print(f"seen:  an object of {cut.size} bytes, and a table of {table.num_rows} rows that reads without an error")
if (cut.size, table.num_rows) != (5, 10):
    raise SystemExit("the behaviour has changed")
PYTHON
