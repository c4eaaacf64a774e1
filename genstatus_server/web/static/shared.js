/**
 * Watches a generation for a page that may be open in several tabs. A browser opens six connections to a host, and a
 * hold keeps one. So of all tabs that watch the same file with the same token one, the leader, asks and tells the
 * others; and all tabs together hold at most HOLDS requests. What finds no place among these is polled meanwhile.
 */
import { checkGeneration, GenerationError, waitForGeneration } from "./genstatus.js";

const HOLDS = 4; // Two connections are left for all else.
const ATTEMPTS = 5; // To find a place among these.
const OVER = new Set(["settled", "refused"]);

/**
 * Calls `onUpdate` with everything that is learnt, here or in another tab, until it is settled or refused or `signal`
 * is aborted. The updates are those of the client and `{ phase: "refused", status, message }`; an error is its status.
 */
export async function watchGeneration({ signal, onUpdate, ...asked }) {
  const over = new AbortController();
  const ended = AbortSignal.any([signal, over.signal]);
  const show = (update) => {
    if (ended.aborted) return;
    onUpdate(update);
    if (OVER.has(update.phase)) over.abort();
  };
  try {
    // A page that came over plain HTTP has neither locks nor hashes: each of its tabs polls for itself.
    await (globalThis.isSecureContext ? share(asked, ended, show) : ask(asked, ended, show, poll));
  } catch (error) {
    if (error.name !== "AbortError") throw error;
  }
}

async function share(asked, ended, show) {
  const key = await keyOf(asked);
  const channel = new BroadcastChannel("genstatus");
  const tell = (update) => {
    if (!ended.aborted) channel.postMessage({ key, update });
    show(update);
  };
  channel.onmessage = ({ data }) => data.key === key && show(data.update);
  try {
    await look(asked, ended, tell);
    await leadWhenPossible(`genstatus ${key}`, ended, (signal) => ask(asked, signal, tell, hold));
  } finally {
    channel.close();
  }
}

/** Says at once how things are; a hold would say nothing before they change. */
async function look(asked, signal, tell) {
  try {
    const answer = await checkGeneration({ ...asked, signal });
    tell({ phase: answer.status === "waiting" ? "asking" : "settled", answer, failures: 0 });
  } catch (error) {
    signal.throwIfAborted(); // Whatever else it is, the next question tells.
  }
}

async function ask(asked, signal, tell, fetch) {
  let failures = 0;
  const onUpdate = ({ error, ...update }) => {
    failures = update.failures ?? 0;
    tell({ ...update, status: error?.status }); // An error is no plain data; whether a server answered is what matters.
  };
  // After a failure the first hold is short: its answer says soon that all is well again.
  const send = (url, init) => fetch(failures ? url.replace(/(?<=timeout=)[^&]*/, "1") : url, init);
  try {
    await waitForGeneration({ ...asked, signal, fetch: send, onUpdate });
  } catch (error) {
    if (!(error instanceof GenerationError)) throw error;
    tell({ phase: "refused", status: error.status, message: error.message });
  }
}

/** Runs `work` whenever this tab is the leader. A tab that comes to the front takes over: timers of others are slow. */
async function leadWhenPossible(name, ended, work) {
  let isLeader = false;
  let takesOver = document.visibilityState === "visible";
  let turn;
  const comeForward = () => {
    if (isLeader || document.visibilityState !== "visible") return;
    takesOver = true;
    turn.abort();
  };
  document.addEventListener("visibilitychange", comeForward);
  try {
    while (!ended.aborted) {
      turn = new AbortController();
      const signal = AbortSignal.any([ended, turn.signal]);
      const lead = () => {
        isLeader = true;
        return work(signal);
      };
      const options = takesOver ? { steal: true } : { signal };
      takesOver = false;
      await navigator.locks.request(name, options, lead).catch((error) => {
        if (error.name !== "AbortError") throw error; // It is one when another tab has taken over.
      });
      isLeader = false;
      turn.abort();
    }
  } finally {
    document.removeEventListener("visibilitychange", comeForward);
  }
}

async function hold(url, init) {
  for (let attempt = 0; attempt < ATTEMPTS; attempt += 1) {
    if (attempt) await new Promise((resolve) => setTimeout(resolve, 100)); // Another tab may be about to let go.
    for (let place = 0; place < HOLDS; place += 1) {
      const name = `genstatus hold ${place}`;
      const held = await navigator.locks.request(name, { ifAvailable: true }, (lock) => lock && fetch(url, init));
      if (held) return held;
    }
  }
  return poll(url, init);
}

function poll(url, init) {
  const plain = new URL(url);
  plain.searchParams.delete("wait");
  plain.searchParams.delete("timeout");
  return fetch(plain, init);
}

/** What tabs know each other by; nobody can tell the token from it. */
async function keyOf({ baseUrl, sessionToken, submissionId, fileType }) {
  const text = new TextEncoder().encode(JSON.stringify([baseUrl, sessionToken, submissionId, fileType]));
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", text));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
