/** One file on the status page: what is known of it, and what can be done. */

const STATUSES = { finished: "Finished", waiting: "Being generated", failed: "Failed", invalid: "Never requested" };
const DEFAULT_TTL_S = 60;

export class FileRow {
  #fields;
  #since;
  #settledAt = 0;
  #goodUntil = 0;
  checkedAt = 0;
  update = { phase: "asking", failures: 0 };
  answer = null;

  /** `since` is when the watching began. `onDownload` is called when the URL may have expired by now. */
  constructor(element, fileType, { since, onDownload, onAgain }) {
    const find = (name) => element.querySelector(name);
    const value = (name) => find(`.${name} dd`);
    this.#fields = {
      status: find(".status"), dates: value("dates"), size: value("size"), changed: value("changed"),
      elapsed: value("elapsed"), message: find(".message"), link: find(".download"), again: find(".again"),
    };
    this.element = element;
    this.fileType = fileType;
    this.#since = since;
    find("h3").textContent = `File ${fileType}`;
    this.#fields.again.setAttribute("aria-label", `Check again: file ${fileType}`);
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
    return this.update.phase === "settled";
  }

  /** Take in an update of `watchGeneration`; the news that it brings: a status that was another before, or nothing. */
  show(update) {
    const before = this.answer?.status;
    if (update.answer) {
      if (update.phase === "settled" && before === "waiting") this.#settledAt = Date.now();
      this.answer = update.answer;
      this.checkedAt = Date.now();
      this.#goodUntil = Date.now() + (1000 * lifetime(update.answer.url)) / 2;
    }
    this.update = update;
    this.#draw();
    if (!this.answer || this.answer.status === before) return "";
    return `${STATUSES[this.answer.status]} ${this.answer.message}`.trim();
  }

  /** Start anew: what was known stays to be seen until there is something newer. */
  restart() {
    this.#since = Date.now();
    this.#settledAt = 0;
    this.show({ phase: "asking", failures: 0 });
  }

  #draw() {
    const { link, again, ...fields } = this.#fields;
    const { answer } = this;
    this.element.className = `file ${answer?.status ?? ""}`;
    put(fields.status, STATUSES[answer?.status] ?? (this.update.failures ? "Not known yet" : "Checking"));
    put(fields.dates, answer?.start || answer?.end ? `${answer.start || "?"} – ${answer.end || "?"}` : "");
    put(fields.size, answer?.size == null ? "" : bytes(answer.size));
    put(fields.changed, answer?.generated_at ? `${answer.generated_at} UTC` : "");
    put(fields.message, answer?.message ?? "");
    link.hidden = answer?.status !== "finished";
    if (link.hidden) link.removeAttribute("href");
    else link.href = answer.url;
    put(link, `Download ${this.fileType}`);
    again.hidden = !this.isOver || !link.hidden;
    this.tick();
  }

  /** Bring the waiting time up to date. */
  tick() {
    const until = this.#settledAt || (this.answer?.status === "waiting" && !this.isOver && Date.now());
    put(this.#fields.elapsed, until ? clock(until - this.#since) : "");
  }
}

/** A value of the list is hidden with its label where there is none. */
export function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
  if (element.tagName === "DD") element.parentElement.hidden = !text;
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

function bytes(count) {
  const power = count < 1000 ? 0 : Math.min(Math.floor(Math.log10(count) / 3), 4);
  return `${Number((count / 1000 ** power).toPrecision(3))} ${["bytes", "kB", "MB", "GB", "TB"][power]}`;
}
