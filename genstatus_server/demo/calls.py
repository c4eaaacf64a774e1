"""The calls to try that the demo prints: curl and sed are all they need."""

from typing import Final
from urllib.request import getproxies

from genstatus_server.demo.samples import (
    DEMO_FILE_TYPE,
    DEMO_SUBMISSION_ID,
    STUCK_FILE_TYPE,
    STUCK_SUBMISSION_ID,
    DemoTokens,
)

#: `-w` ends the output with a line break, which a JSON body does not.
_CURL: Final = r"curl -sS -w '\n'"
_CURL_STATUS: Final = r"curl -sS -w '\n%{http_code}\n'"


def curl_lines(base_url: str, tokens: DemoTokens | None = None) -> str:
    """What to paste into another terminal, for the server at `base_url`; each call is one line."""
    tokens = tokens or DemoTokens()
    route = f"{base_url.rstrip('/')}/v1/check_generation_status/"
    demo = f"'{route}?submission_id={DEMO_SUBMISSION_ID}&file_type={DEMO_FILE_TYPE}"
    stuck = f"'{route}?submission_id={STUCK_SUBMISSION_ID}&file_type={STUCK_FILE_TYPE}"
    owner, stranger = (f"-H 'X-Session-ID: {token}'" for token in (tokens.owner, tokens.stranger))
    take_url = r"""sed -n 's/.*"url": *"\([^"]*\)".*/\1/p'"""
    calls = {
        "A plain poll; sometimes waiting, sometimes finished": f"{_CURL} {owner} {demo}'",
        "A hold; answered within 4 seconds, when the file is there": f"{_CURL} {owner} {demo}&wait=true'",
        "A hold that reaches its deadline of 3 seconds": f"{_CURL} {owner} {stuck}&wait=true&timeout=3'",
        "Not logged in: 401": f"{_CURL_STATUS} {demo}'",
        "Somebody else's submission: 403": f"{_CURL_STATUS} {stranger} {demo}'",
        "A hold, and the download of its file": (
            f"curl -sS {owner} {demo}&wait=true' | {take_url} | xargs curl -sS -f -o /tmp/{DEMO_FILE_TYPE}.csv"
            f" && head -n 3 /tmp/{DEMO_FILE_TYPE}.csv"
        ),
    }
    text = "\n".join(f"{what}:\n\n    {call}\n" for what, call in calls.items())
    # The other terminal has a proxy where this one has; no proxy reaches this machine's loopback.
    return text.replace("curl -sS", "curl -sS --noproxy '*'") if getproxies().get("http") else text
