"""How does the fan-out compare with nginx and nchan, a hub written in C?

`python -m benchmarks.nchan [--streams 500,5000] [--seconds 1] [--rounds 6]` needs Debian's `nginx-light` and
`libnginx-mod-nchan`. With `--port` and `--core` it is that server: one nginx process without a master.
"""

import os
import sys
import tempfile
from pathlib import Path

from benchmarks import report
from benchmarks.fanout import FLOOR, PACKAGE, Variant, parse_arguments, run
from benchmarks.floor import PADDING
from benchmarks.servers import be_server, parse_server_arguments

# The same length as what the others send; the mark counts it, and no time in it: the request's counts instead.
MESSAGE = b'signals {"text":"~' + b"-" * 20 + b" " + PADDING + b'"}'
MODULE = Path("/usr/lib/nginx/modules/ngx_nchan_module.so")
CONFIGURATION = """
load_module {module};
daemon off; master_process off; worker_rlimit_nofile 20000; error_log stderr error; pid {folder}/pid;
events {{ worker_connections 19000; }}
http {{
  access_log off; client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
  uwsgi_temp_path {folder}; scgi_temp_path {folder}; keepalive_requests 1000000;
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location = / {{ nchan_subscriber eventsource; nchan_channel_id all; nchan_eventsource_event datastar-patch-signals; }}
    location = /publish {{ nchan_publisher; nchan_channel_id all; nchan_message_buffer_length 2; }}
    location = /event {{ default_type text/event-stream; return 200 "data: signals {{}}\\n\\n"; }}
  }}
}}
"""
NCHAN = Variant("nginx + nchan (C)", "benchmarks.nchan", body=MESSAGE)


def serve(port: int, core: int) -> None:
    """Become nginx."""
    be_server(core)
    folder = tempfile.mkdtemp(prefix="nchan-")
    path = Path(folder) / "nginx.conf"
    path.write_text(CONFIGURATION.format(module=MODULE, folder=folder, port=port), encoding="utf-8")
    os.execvp("nginx", ["nginx", "-p", folder, "-c", str(path)])


def main() -> None:
    """Be the server, or measure."""
    if "--port" in sys.argv:
        arguments = parse_server_arguments()
        serve(arguments.port, arguments.core)
    run("nchan", [FLOOR, PACKAGE, NCHAN], parse_arguments(), report.environment())


if __name__ == "__main__":
    main()
