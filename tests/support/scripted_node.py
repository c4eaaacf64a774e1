"""The JavaScript client in Node with a clock, a luck, a network and a person of the test's own: no time passes."""

import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.support.node import CLIENT, SECONDS
from tests.support.requirements import require

#: An answer, which comes `after` milliseconds; None where nobody listens, `{"lost": True}` where none ever comes.
Reply = dict[str, Any] | None

DRIVER: Final = """
import { waitForGeneration } from "./genstatus.mjs";
const { replies, events, luck, hours, options } = JSON.parse(process.argv[2]);
const realTurn = setImmediate;

let now = 0, names = 0;
const timers = new Map();
let wall = 0;
Date.now = () => now + wall;
performance.now = () => now;
globalThis.setTimeout = (run, ms) => (timers.set(++names, { at: now + Math.max(ms, 0), run }), names);
globalThis.clearTimeout = (name) => timers.delete(name);
let seed = 1;
Math.random = () => luck ?? (seed = (seed * 16807) % 2147483647) / 2147483647;

let listening = 0;
class Target extends EventTarget {
  addEventListener(...all) { listening += 1; super.addEventListener(...all); }
  removeEventListener(...all) { listening -= 1; super.removeEventListener(...all); }
}
const page = new Target();
globalThis.addEventListener = page.addEventListener.bind(page);
globalThis.removeEventListener = page.removeEventListener.bind(page);
globalThis.document = Object.assign(new Target(), { visibilityState: "hidden" });
const stop = new AbortController();
const happen = {
  online: () => page.dispatchEvent(new Event("online")),
  abort: () => stop.abort(new Error("enough")),
  visible: () => show("visible"),
  hidden: () => show("hidden"),
  clockSetBack: () => (wall -= 3600000),
};
function show(state) {
  document.visibilityState = state;
  document.dispatchEvent(new Event("visibilitychange"));
}
for (const { at, name } of events) at < 0 ? happen[name]() : setTimeout(happen[name], at);
if (hours) setTimeout(happen.abort, hours * 3600000);

const asked = [];
async function fetch(url, { signal, ...init }) {
  asked.push({ at: now, url, init });
  const reply = replies.length > 1 ? replies.shift() : replies[0];
  if (!reply) throw new TypeError("fetch failed");
  await new Promise((resolve, reject) => {
    if (!reply.lost) setTimeout(resolve, reply.after ?? 0);
    signal.addEventListener("abort", () => reject(signal.reason));
  });
  const { text, body, status = 200, headers } = reply;
  return new Response(text ?? JSON.stringify(body), { status, headers });
}

const updates = [];
const onUpdate = ({ phase, retryAt, failures }) => {
  updates.push({ phase, retryAt, failures });
  if (phase === options.fails) throw new Error("a mistake of the caller");
};
const told = { answer: null, refused: null };
for (const name of options.missing ?? []) options[name] = undefined;
let isOver = false;
waitForGeneration({ ...options, signal: stop.signal, fetch, onUpdate }).then(
  (answer) => (told.answer = answer),
  ({ name, message, option, status, body, requestId }) =>
    (told.refused = { name, message, option, status, body, requestId }),
).finally(() => (isOver = true));
while (true) {
  for (let turn = 0; turn < 20; turn += 1) await new Promise((resolve) => realTurn(resolve));
  if (isOver) break;
  const [name, next] = [...timers].sort(([, a], [, b]) => a.at - b.at)[0];
  timers.delete(name);
  now = Math.max(now, next.at);
  next.run();
}
console.log(JSON.stringify({ ...told, asked, updates, endedAt: now, listening }));
"""


@dataclass(frozen=True)
class Told:
    """What became of it; times are in milliseconds from the beginning."""

    answer: dict[str, Any] | None
    refused: dict[str, Any] | None
    asked: list[dict[str, Any]]
    updates: list[dict[str, Any]]
    endedAt: int  # noqa: N815 - as JavaScript has it
    #: Listeners on the page that were left.
    listening: int

    @property
    def times(self) -> list[float]:
        """When it asked, in seconds."""
        return [each["at"] / 1000 for each in self.asked]


def wait_by_script(
    folder: Path,
    replies: Sequence[Reply],
    *,
    events: dict[float, str] | None = None,
    luck: float | None = 1.0,
    hours: float = 0,
    **options: Any,
) -> Told:
    """Call `waitForGeneration`; the last of `replies` is given for ever. `events` happen at these seconds.

    Without `luck` numbers are drawn, the same ones each time; after `hours` the caller has had enough.
    """
    require(shutil.which("node"), "node runs the JavaScript client (Debian: apt-get install nodejs)")
    (folder / "genstatus.mjs").write_text(CLIENT.read_text())
    (folder / "script.mjs").write_text(DRIVER)
    happening = [{"at": 1000 * at, "name": name} for at, name in (events or {}).items()]
    asked = {"baseUrl": "http://server/", "sessionToken": "hush", "submissionId": 1, "fileType": "D1"} | options
    script = {"replies": list(replies), "events": happening, "luck": luck, "hours": hours, "options": asked}
    command = ["node", "script.mjs", json.dumps(script)]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert ended.returncode == 0, ended.stderr
    return Told(**json.loads(ended.stdout))
