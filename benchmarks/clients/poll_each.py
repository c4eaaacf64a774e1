"""Polls one after the other on one connection: what each takes.

Stdin has, in JSON, `port` on 127.0.0.1 and `requests`, a list of `[path, token]`. Prints a list of `[status, seconds]`.
"""

import http.client
import json
import sys
import time


def main() -> None:
    params = json.loads(sys.stdin.read())
    connection = http.client.HTTPConnection("127.0.0.1", params["port"])
    times = []
    for path, token in params["requests"]:
        began = time.monotonic()
        connection.request("GET", path, headers={"X-Session-ID": token})
        answer = connection.getresponse()
        answer.read()
        times.append((answer.status, time.monotonic() - began))
    print(json.dumps(times))  # noqa: T201 - its purpose


if __name__ == "__main__":
    main()
