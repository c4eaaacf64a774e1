/**
 * Waits until a file is generated: asks the genstatus server, is held by it, and asks again until there is a result.
 * No dependencies; runs in browsers, workers and Node 20 or newer. Types: genstatus.d.ts.
 */

const GIVE_UP = new Set([400, 401, 403, 413, 414, 431]); // Asking the same again would be answered the same.
const TOKEN = /^[ -~]*[!-~][ -~]*$/; // Any other makes fetch fail like a lost connection.
const STATUSES = new Set(["finished", "waiting", "failed", "invalid"]);
const GRACE_MS = 10_000; // How much later than the hold's end an answer may come.
const SHORTEST_CYCLE_MS = 1_000; // From one question to the next, whatever the server says.
const FIRST_BACKOFF_MS = 1_000;
const LONGEST_BACKOFF_MS = 30_000;

/** The server refused the request; repeating it makes no sense. */
export class GenerationError extends Error {
  constructor(message, { status, body, requestId }) {
    super(message);
    Object.assign(this, { name: "GenerationError", status, body, requestId });
  }
}

/** Resolves with the answer once its status is no longer `waiting`; rejects when refused (GIVE_UP) or aborted. */
export async function waitForGeneration(options) {
  const { signal, onUpdate = () => {} } = options;
  const request = checked({ ...options, wait: options.wait ?? 25 });
  const nudges = watchNudges();
  try {
    for (let failures = 0, pause; ; ) {
      signal?.throwIfAborted();
      const earliest = performance.now() + SHORTEST_CYCLE_MS; // No wall clock: somebody may set that back.
      onUpdate({ phase: "asking", failures });
      const { answer, waitResult, retryAfterMs, error } = await sendRequest(request, nudges).catch((e) => ({ error: e }));
      if (!answer) {
        signal?.throwIfAborted();
        if (error instanceof GenerationError && GIVE_UP.has(error.status)) throw error;
        const isNudged = error === NUDGED;
        if (!isNudged) failures += 1;
        const backoff = isNudged ? 0 : Math.random() * Math.min(LONGEST_BACKOFF_MS, FIRST_BACKOFF_MS * 2 ** failures);
        const floor = Math.max(error?.retryAfterMs ?? 0, isNudged ? earliest - performance.now() : 0);
        pause = { floor, extra: Math.max(0, backoff - floor) };
        onUpdate({ phase: "reconnecting", error, failures, retryAt: Date.now() + pause.floor + pause.extra });
      } else if (answer.status === "waiting") {
        failures = 0;
        // The server spreads the deadlines of holds, so no pause is added.
        const floor = Math.max(retryAfterMs, earliest - performance.now());
        pause = { floor, extra: waitResult === "deadline" ? 0 : 1000 * Math.random() };
        onUpdate({ phase: "waiting", answer, waitResult, retryAt: Date.now() + pause.floor + pause.extra });
      } else {
        onUpdate({ phase: "settled", answer });
        return answer;
      }
      await sleep(pause.floor, { signal }); // This part of the pause is never cut short.
      await sleep(pause.extra, { signal, nudges });
    }
  } finally {
    nudges.close();
  }
}

/** Sends one request without a hold. Resolves with the answer; rejects on any answer but a 200. */
export async function checkGeneration(options) {
  return (await sendRequest(checked({ ...options, wait: 0 }))).answer;
}

/** `options`, unless no request could be made of them: then a TypeError, which names the `option`, not its value. */
function checked(options) {
  const must = (isMet, option, rule) => {
    if (!isMet) throw Object.assign(new TypeError(`${option} must ${rule}`), { option });
  };
  const { baseUrl, sessionToken, submissionId, fileType, wait } = options;
  const page = globalThis.location?.href;
  const { protocol } = typeof baseUrl === "string" && URL.canParse(baseUrl, page) ? new URL(baseUrl, page) : {};
  must(["http:", "https:"].includes(protocol), "baseUrl", "begin with http:// or https://");
  must(typeof sessionToken === "string" && TOKEN.test(sessionToken), "sessionToken", "be printable ASCII");
  must(["number", "bigint", "string"].includes(typeof submissionId), "submissionId", "be a number, a bigint or a string");
  must(typeof fileType === "string", "fileType", "be a string");
  must(wait >= 0 && wait < Infinity, "wait", "be a number of seconds");
  return options;
}

async function sendRequest({ baseUrl, sessionToken, submissionId, fileType, signal, wait, fetch = globalThis.fetch }, nudges) {
  const hold = wait ? { wait: "true", timeout: wait } : {};
  const query = new URLSearchParams({ submission_id: submissionId, file_type: fileType, ...hold });
  const attempt = new AbortController();
  const stop = () => attempt.abort(signal.reason);
  signal?.throwIfAborted();
  signal?.addEventListener("abort", stop);
  // The server may hold for less than requested, never for longer.
  const limit = Date.now() + wait * 1000 + GRACE_MS;
  const tooLate = () => attempt.abort(new Error("The server did not answer in time"));
  const timer = setTimeout(tooLate, limit - Date.now());
  const forget = nudges?.add((isOnline) => {
    if (isOnline) attempt.abort(NUDGED); // The network has changed: a request over the old one may never be answered.
    else if (Date.now() > limit) tooLate(); // Timers do not run while a machine sleeps.
  });
  try {
    const response = await fetch(`${baseUrl.replace(/\/+$/, "")}/v1/check_generation_status/?${query}`, {
      headers: { "X-Session-ID": sessionToken, Accept: "application/json" },
      signal: attempt.signal,
      cache: "no-store",
      credentials: "omit",
      redirect: "error", // The token goes to nobody else.
    });
    const header = (name) => response.headers.get(name);
    const body = await response.json().catch(() => attempt.signal.throwIfAborted() ?? null); // No JSON: a proxy's page.
    const retryAfterMs = toMilliseconds(header("Retry-After"));
    if (response.status !== 200 || !STATUSES.has(body?.status)) {
      const message = (response.status !== 200 && body?.message) || `Unexpected answer (HTTP ${response.status})`;
      const error = new GenerationError(message, { status: response.status, body, requestId: header("X-Request-ID") });
      throw Object.assign(error, { retryAfterMs });
    }
    return { answer: body, waitResult: header("X-Wait-Result"), retryAfterMs };
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", stop);
    forget?.();
  }
}

/** `Retry-After` is seconds, or from some proxies a date. */
function toMilliseconds(retryAfter) {
  const seconds = Number(retryAfter);
  const milliseconds = Number.isNaN(seconds) ? Date.parse(retryAfter) - Date.now() : seconds * 1000;
  return Math.min(Math.max(milliseconds || 0, 0), 2 ** 31 - 1);
}

function sleep(milliseconds, { signal, nudges }) {
  return new Promise((resolve, reject) => {
    const end = (settle) => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", abort);
      forget?.();
      settle();
    };
    const abort = () => end(() => reject(signal.reason));
    const timer = setTimeout(() => end(resolve), Math.max(milliseconds, 0));
    const forget = nudges?.add(() => end(resolve));
    signal?.aborted ? abort() : signal?.addEventListener("abort", abort);
  });
}

const NUDGED = new Error("The network is back");

/** Tells when a person or the network is back: a reason to try at once. Outside of browsers that never happens. */
function watchNudges() {
  const listeners = new Set();
  const notify = (isOnline) => [...listeners].forEach((listener) => listener(isOnline));
  const online = () => notify(true);
  const visible = () => globalThis.document.visibilityState === "visible" && notify(false);
  globalThis.addEventListener?.("online", online);
  globalThis.document?.addEventListener("visibilitychange", visible);
  const close = () => {
    globalThis.removeEventListener?.("online", online);
    globalThis.document?.removeEventListener("visibilitychange", visible);
  };
  return { close, add: (listener) => listeners.add(listener) && (() => listeners.delete(listener)) };
}
