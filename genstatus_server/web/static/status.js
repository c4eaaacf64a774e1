/** The status page: what a person chose is kept for this tab only, and watched until it is settled. */
import { checkGeneration, GenerationError } from "./genstatus.js";
import { FileRow } from "./row.js";
import { watchGeneration } from "./shared.js";

const KEPT = "genstatus";
const MOST_NEWS = 20;

const find = (id) => document.getElementById(id);
const form = find("choice");
const boxes = [...form.querySelectorAll("input[type=checkbox]")];
const baseUrl = new URL(".", location.href).href;

let rows = [];
let watching = new AbortController();

function begin(choice) {
  watching.abort();
  watching = new AbortController();
  sessionStorage.setItem(KEPT, JSON.stringify(choice));
  problem("");
  find("watched").textContent = `Submission ${choice.submissionId}`;
  find("watched").closest("section").hidden = false;
  rows = choice.fileTypes.map((fileType) => addRow(choice, fileType, watching.signal));
  find("files").replaceChildren(...rows.map((row) => row.element));
}

function addRow({ sessionToken, submissionId, since }, fileType, signal) {
  const asked = { baseUrl, sessionToken, submissionId, fileType };
  const element = find("file").content.firstElementChild.cloneNode(true);
  const onUpdate = (update) => {
    say(row.show(update));
    if (update.status === 401) logOut(update.message);
  };
  const watch = () => watchGeneration({ ...asked, signal, onUpdate });
  const onAgain = () => {
    if (signal.aborted) return find("token").focus();
    row.restart();
    watch();
  };
  const onDownload = () => downloadAnew({ ...asked, signal }, { onUpdate, onAgain });
  const row = new FileRow(element, fileType, { since, onDownload, onAgain });
  watch();
  return row;
}

/** The URL may have expired: ask for another, and go there. */
async function downloadAnew(asked, { onUpdate, onAgain }) {
  try {
    const answer = await checkGeneration(asked);
    if (answer.status === "waiting") return onAgain(); // It is being generated once more.
    onUpdate({ phase: "settled", answer });
    if (answer.status === "finished") location.assign(answer.url);
  } catch (error) {
    const isRefused = error instanceof GenerationError && error.status < 500;
    if (isRefused) onUpdate({ phase: "refused", status: error.status, message: error.message });
    else problem(`The download could not be begun: ${error.message}`);
  }
}

function logOut(message) {
  forget();
  for (const row of rows) if (!row.isOver) row.show({ phase: "refused", message });
  problem(`${message}: this session token is unknown or has expired.`);
  find("token").focus();
}

function forget() {
  watching.abort();
  sessionStorage.removeItem(KEPT);
  find("token").value = "";
}

function problem(text) {
  find("problem").textContent = text;
}

/** For screen readers; the times, which change every second, are not said. */
function say(sentence) {
  if (!sentence) return;
  const line = document.createElement("span");
  line.textContent = `${sentence}. `;
  find("news").append(line);
  if (find("news").childElementCount > MOST_NEWS) find("news").firstElementChild.remove();
}

function checkBoxes() {
  boxes[0].setCustomValidity(boxes.some((box) => box.checked) ? "" : "Choose at least one file");
}

form.addEventListener("change", checkBoxes);
form.addEventListener("submit", (event) => {
  event.preventDefault();
  const fileTypes = boxes.filter((box) => box.checked).map((box) => box.value);
  const [sessionToken, submissionId] = [find("token").value.trim(), find("submission").value.trim()];
  begin({ sessionToken, submissionId, fileTypes, since: Date.now() });
});
find("forget").addEventListener("click", () => {
  forget();
  rows = [];
  find("files").replaceChildren();
  find("watched").closest("section").hidden = true;
  problem("");
  find("token").focus();
});
setInterval(() => rows.forEach((row) => row.tick()), 500);

const kept = JSON.parse(sessionStorage.getItem(KEPT) ?? "null");
if (kept) {
  find("token").value = kept.sessionToken;
  find("submission").value = kept.submissionId;
  boxes.forEach((box) => (box.checked = kept.fileTypes.includes(box.value)));
  begin(kept);
}
