/** The status page: what a person chose is kept for this tab only, and watched until it is settled. */
import { describeConnection, describeRefusal } from "./connection.js";
import { checkGeneration } from "./genstatus.js";
import { FileRow, put } from "./row.js";
import { refusalOf, watchGeneration } from "./shared.js";

const KEPT = "genstatus";
const MOST_NEWS = 20;
const TITLE = document.title;

const find = (id) => document.getElementById(id);
const form = find("choice");
const boxes = [...form.querySelectorAll("input[type=checkbox]")];
const baseUrl = new URL(".", location.href).href;

let rows = [];
let watching = new AbortController();
let unseen = [];
let isLost = false;

function begin(choice) {
  watching.abort();
  watching = new AbortController();
  sessionStorage.setItem(KEPT, JSON.stringify(choice));
  problem("");
  put(find("watched"), `Submission ${choice.submissionId}`);
  rows = choice.fileTypes.map((fileType) => addRow(choice, fileType, watching.signal));
  find("files").replaceChildren(...rows.map((row) => row.element));
  find("forget").hidden = false;
  showResult();
}

function addRow({ sessionToken, submissionId, since }, fileType, signal) {
  const params = { baseUrl, sessionToken, submissionId, fileType };
  const element = find("file").content.firstElementChild.cloneNode(true);
  const onUpdate = (update) => {
    if (signal.aborted) return;
    if (update.phase === "refused") return refuse(update, submissionId);
    const news = row.show(update);
    if (news) say(`File ${fileType}: ${news}`);
    if (news && row.isOver && document.hidden) noteUnseen(`${fileType} ${row.answer.status}`);
    tick();
  };
  const watch = () => watchGeneration({ ...params, signal, onUpdate });
  const onAgain = () => {
    row.restart();
    watch();
  };
  const onDownload = () => downloadAnew({ ...params, signal }, { onUpdate, onAgain });
  const row = new FileRow(element, fileType, { since, onDownload, onAgain });
  watch();
  return row;
}

/** The URL may have expired: request a new one, and go there. */
async function downloadAnew(params, { onUpdate, onAgain }) {
  problem("");
  try {
    const answer = await checkGeneration(params);
    if (answer.status === "waiting") return onAgain(); // It is being generated once more.
    onUpdate({ phase: "settled", answer });
    if (answer.status === "finished") location.assign(answer.url);
  } catch (error) {
    const refusal = refusalOf(error);
    if (refusal) onUpdate(refusal);
    else problem("The download could not begin, because the server could not be reached. Try again.");
  }
}

/** All files are refused alike: it is said once, and nothing of the submission is shown any longer. */
function refuse(update, submissionId) {
  const { field, text } = describeRefusal(update, submissionId);
  if (field === "token") forget();
  else watching.abort();
  rows = [];
  showResult();
  problem(text);
  find(field).focus();
}

function forget() {
  watching.abort();
  sessionStorage.removeItem(KEPT);
  find("token").value = "";
  find("forget").hidden = true;
}

function showResult() {
  find("result").hidden = !rows.length;
  find("empty").hidden = rows.length > 0;
  if (!rows.length) find("files").replaceChildren();
  tick();
}

function tick() {
  if (!rows.length) return;
  const connection = describeConnection(rows);
  put(find("connection"), connection.text);
  if (connection.isLost !== isLost) say(isLost ? "Connected again" : "Connection lost");
  ({ isLost } = connection);
  for (const id of ["connection", "files"]) find(id).classList.toggle("lost", isLost);
  for (const row of rows) row.tick();
}

function problem(text) {
  put(find("problem"), text);
  if (text) find("empty").hidden = true;
}

/** For screen readers; the times, which change every second, are not said. */
function say(sentence) {
  const line = document.createElement("span");
  line.textContent = `${sentence}. `;
  find("news").append(line);
  if (find("news").childElementCount > MOST_NEWS) find("news").firstElementChild.remove();
}

/** The title of a background tab tells what finished there, until the tab is shown. */
function noteUnseen(news) {
  unseen.push(news);
  document.title = `${unseen.join(", ")} – ${TITLE}`;
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
  problem("");
  showResult();
  find("token").focus();
});
document.addEventListener("visibilitychange", () => {
  if (document.hidden) return;
  unseen = [];
  document.title = TITLE;
});
setInterval(tick, 500);

const kept = JSON.parse(sessionStorage.getItem(KEPT) ?? "null");
if (kept) {
  find("token").value = kept.sessionToken;
  find("submission").value = kept.submissionId;
  boxes.forEach((box) => (box.checked = kept.fileTypes.includes(box.value)));
  begin(kept);
}
