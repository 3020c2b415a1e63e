"""Runs `unified-fm` and writes down whom its process looks up or connects to.

python tests/page/watched_server.py LOG serve --run=RUN
"""

import sys

LOOKS = ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.connect")

if __name__ == "__main__":
    log = open(sys.argv[1], "w", buffering=1)  # noqa: SIM115  (for as long as the process lives)

    def write_down(event, arguments):
        if event in LOOKS:
            log.write(f"{event} {arguments[event.endswith('connect')]!r}\n")

    sys.addaudithook(write_down)

    from unified_fm import cli

    sys.exit(cli.main(sys.argv[2:]))
