/** One file on the status page: what is known of it, how old that is, and what happens next. */

const STATUSES = { finished: "Finished", waiting: "Being generated", failed: "Failed", invalid: "Never requested" };
const DEFAULT_TTL_S = 60;

export class FileRow {
  #fields;
  #since;
  #checkedAt = 0;
  #settledAt = 0;
  #goodUntil = 0;
  #update = { phase: "asking", failures: 0 };
  answer = null;

  /** `since` is when the watching began. `onDownload` is called when the URL may have expired by now. */
  constructor(element, fileType, { since, onDownload, onAgain }) {
    const find = (name) => element.querySelector(name);
    const [title, status, elapsed, detail] = ["h3", ".status", ".elapsed", ".detail"].map(find);
    this.#fields = { title, status, elapsed, detail, link: find(".download"), again: find(".again"), checked: find(".checked") };
    this.element = element;
    this.fileType = fileType;
    this.#since = since;
    title.textContent = `File ${fileType}`;
    this.#fields.again.addEventListener("click", onAgain);
    for (const kind of ["click", "auxclick"]) {
      this.#fields.link.addEventListener(kind, (event) => {
        if (Date.now() < this.#goodUntil) return; // The browser follows the link.
        event.preventDefault();
        onDownload();
      });
    }
    this.#draw();
  }

  get isOver() {
    return this.#update.phase === "settled" || this.#update.phase === "refused";
  }

  /** Take in an update of `watchGeneration`; the sentence that is worth being said aloud, or nothing. */
  show(update) {
    const before = this.#spoken();
    if (update.answer) {
      if (update.phase === "settled" && this.answer?.status === "waiting") this.#settledAt = Date.now();
      this.answer = update.answer;
      this.#checkedAt = Date.now();
      this.#goodUntil = Date.now() + (1000 * lifetime(update.answer.url)) / 2;
    }
    this.#update = update;
    this.#draw();
    const spoken = this.#spoken();
    return spoken === before ? "" : `File ${this.fileType}: ${spoken}`;
  }

  /** Start anew: what was known stays to be seen until there is something newer. */
  restart() {
    this.#since = Date.now();
    this.#settledAt = 0;
    this.show({ phase: "asking", failures: 0 });
  }

  #draw() {
    const { status, detail, link, again } = this.#fields;
    const { answer } = this;
    const isRefused = this.#update.phase === "refused";
    this.element.className = `file ${isRefused ? "failed" : (answer?.status ?? "")}`;
    status.textContent = isRefused ? "Not available" : (STATUSES[answer?.status] ?? "Not known yet");
    detail.textContent = isRefused ? this.#update.message : describe(answer);
    link.hidden = isRefused || answer?.status !== "finished";
    if (link.hidden) link.removeAttribute("href");
    else link.href = answer.url;
    link.textContent = `Download ${this.fileType}${answer?.size == null ? "" : ` (${bytes(answer.size)})`}`;
    again.hidden = !this.isOver;
    again.setAttribute("aria-label", `Check file ${this.fileType} again`);
    this.tick();
  }

  /** Bring the times up to date. */
  tick() {
    put(this.#fields.elapsed, this.#elapsed());
    put(this.#fields.checked, this.#checked());
  }

  #elapsed() {
    if (this.#settledAt) return `after ${clock(this.#settledAt - this.#since)}`;
    return this.isOver ? "" : `watched for ${clock(Date.now() - this.#since)}`;
  }

  #checked() {
    const { phase, failures, retryAt, message } = this.#update;
    const checked = this.#checkedAt ? `checked ${ago(Date.now() - this.#checkedAt)}` : "not checked yet";
    const left = Math.ceil((retryAt - Date.now()) / 1000);
    if (phase === "reconnecting") return `${checked}, reconnecting ${left > 0 ? `in ${left} s` : "now"} (${message})`;
    if (phase === "asking" && failures) return `${checked}, reconnecting now`;
    if (phase === "waiting" && left > 1) return `${checked}, asking again in ${left} s`;
    return phase === "asking" || phase === "waiting" ? `${checked}, watching` : checked;
  }

  #spoken() {
    const { phase, failures, message } = this.#update;
    if (phase === "refused") return message;
    if (phase === "reconnecting" || failures) return "connection lost, reconnecting";
    return this.answer ? `${STATUSES[this.answer.status]} ${this.answer.message}`.trim() : "";
  }
}

function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function describe(answer) {
  if (!answer) return "";
  const days = answer.start || answer.end ? `${answer.start || "?"} to ${answer.end || "?"}` : "";
  const updated = answer.generated_at && `updated ${answer.generated_at} UTC`;
  return [answer.message, days, updated].filter(Boolean).join(" · ");
}

/** Seconds that a presigned URL lives; one that was just handed out has at least half of it left. */
function lifetime(url) {
  const query = URL.canParse(url) ? new URL(url).searchParams : new URLSearchParams();
  return Number(query.get("X-Amz-Expires")) || DEFAULT_TTL_S;
}

function clock(milliseconds) {
  const seconds = Math.max(0, Math.floor(milliseconds / 1000));
  const parts = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, seconds % 60];
  const [first, ...rest] = parts[0] ? parts : parts.slice(1);
  return [first, ...rest.map((part) => String(part).padStart(2, "0"))].join(":");
}

function ago(milliseconds) {
  const seconds = Math.floor(milliseconds / 1000);
  if (seconds < 5) return "just now";
  if (seconds < 60) return `${seconds} s ago`;
  return seconds < 3600 ? `${Math.floor(seconds / 60)} min ago` : `${Math.floor(seconds / 3600)} h ago`;
}

function bytes(count) {
  const power = count < 1000 ? 0 : Math.min(Math.floor(Math.log10(count) / 3), 4);
  return `${Number((count / 1000 ** power).toPrecision(3))} ${["bytes", "kB", "MB", "GB", "TB"][power]}`;
}
