/**
 * Watches a generation for a page that may be open in several tabs. A browser opens six connections to a host, and a
 * hold keeps one. So one of all tabs that watch the same file with the same token, the leader, sends the requests and
 * publishes the answers to the others. All tabs together hold at most HOLDS requests; other files are polled meanwhile.
 */
import { checkGeneration, waitForGeneration } from "./genstatus.js";

const HOLDS = 4; // Two connections are left for other requests.
const ATTEMPTS = 5; // To become one of these.
const OVER = new Set(["settled", "refused"]);
const REFUSALS = new Set([400, 401, 403, 413, 414, 431]);

/**
 * Calls `onUpdate` with every update of this tab or of another one, until the file is settled or refused, or `signal`
 * is aborted. The updates are those of the client and `{ phase: "refused", status, option, message }`. An error is its status.
 */
export async function watchGeneration({ signal, onUpdate, ...params }) {
  const over = new AbortController();
  const ended = AbortSignal.any([signal, over.signal]);
  const show = (update) => {
    if (ended.aborted) return;
    onUpdate(update);
    if (OVER.has(update.phase)) over.abort();
  };
  try {
    // A page that was loaded over plain HTTP has neither locks nor hashes: each of its tabs polls.
    await (globalThis.isSecureContext ? share(params, ended, show) : waitAndPublish(params, ended, show, poll));
  } catch (error) {
    if (error.name !== "AbortError") throw error;
  }
}

/** The update that tells of `error`, if the server would refuse the same again, or no request can be made of an option. */
export function refusalOf({ status, option, message }) {
  return option || REFUSALS.has(status) ? { phase: "refused", status, option, message } : null;
}

async function share(params, ended, show) {
  const key = await keyOf(params);
  const channel = new BroadcastChannel("genstatus");
  const publish = (update) => {
    if (!ended.aborted) channel.postMessage({ key, update });
    show(update);
  };
  channel.onmessage = ({ data }) => data.key === key && show(data.update);
  try {
    await checkOnce(params, ended, publish);
    await leadWhenPossible(`genstatus ${key}`, ended, (signal) => waitAndPublish(params, signal, publish, hold));
  } finally {
    channel.close();
  }
}

/** Publishes the present status at once; a hold would answer only when it changes. */
async function checkOnce(params, signal, publish) {
  try {
    const answer = await checkGeneration({ ...params, signal });
    publish({ phase: answer.status === "waiting" ? "asking" : "settled", answer, failures: 0 });
  } catch (error) {
    signal.throwIfAborted();
    const refusal = refusalOf(error);
    if (refusal) publish(refusal); // Any other error comes again with the next request.
  }
}

async function waitAndPublish(params, signal, publish, fetch) {
  let failures = 0;
  const onUpdate = ({ error, ...update }) => {
    failures = update.failures ?? 0;
    publish({ ...update, status: error?.status }); // An error cannot be sent to other tabs, its status can.
  };
  // After a failure the first hold is short, so that its answer soon shows that the server is there again.
  const send = (url, init) => fetch(failures ? url.replace(/(?<=timeout=)[^&]*/, "1") : url, init);
  try {
    await waitForGeneration({ ...params, signal, fetch: send, onUpdate });
  } catch (error) {
    const refusal = refusalOf(error);
    if (!refusal) throw error;
    publish(refusal);
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

/** What tabs know each other by; nobody can publish the token from it. */
async function keyOf({ baseUrl, sessionToken, submissionId, fileType }) {
  const text = new TextEncoder().encode(JSON.stringify([baseUrl, sessionToken, submissionId, fileType]));
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", text));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
