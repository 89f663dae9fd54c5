"""Health check of an image: exit 0 where GET /health/ready on this container answers 200. Standard library only.

Usage: ``healthcheck.py VARIABLE DEFAULT``: the port is the first one in the environment variable, else the default.
"""

import http.client
import os
import re
import sys

# A little over the service's own limit for its dependencies' answers (3 s), so that its verdict is what we hear.
TIMEOUT_SECONDS = 5


def main() -> None:
    variable, default = sys.argv[1:]
    port = re.split(r"[,\s]+", os.environ.get(variable) or default)[0]
    connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", "/health/ready")
        response = connection.getresponse()
        body = response.read(2000).decode(errors="replace")
    except OSError as error:
        sys.exit(f"no answer on port {port}: {error}")
    if response.status != http.client.OK:
        sys.exit(f"{response.status} {body}")


if __name__ == "__main__":
    main()
