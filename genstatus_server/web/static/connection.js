/** What the page says once for all files: how old the news is, what happens next, and why the server cannot be asked. */

const CANNOT_BE_SENT = "This is not a session token: copy it again, without any other characters.";

/** The sentence, and whether the connection is lost. `rows` are those of the files that are watched. */
export function describeConnection(rows) {
  const updates = rows.filter((row) => !row.isOver).map((row) => row.update);
  const checked = lastCheck(Math.max(...rows.map((row) => row.checkedAt)));
  const failed = updates.filter(({ phase, failures }) => phase === "reconnecting" || failures);
  const isLost = failed.length > 0;
  const left = secondsUntil(isLost ? failed : updates);
  if (isLost) {
    const reason = failed.some(({ status }) => status) ? "The server cannot answer now." : "No connection to the server.";
    return { isLost, text: `${reason} ${left > 0 ? `Next try in ${left}\u00a0s.` : "Trying again."} ${checked}`.trim() };
  }
  if (!updates.length) return { isLost, text: checked };
  return { isLost, text: `${left > 1 ? `Next check in ${left}\u00a0s.` : "Watching."} ${checked}`.trim() };
}

/** Why the server refused all files alike, and the id of the field where a person can change that. */
export function describeRefusal({ status, option, message }, submissionId) {
  if (option === "sessionToken") return { field: "token", text: CANNOT_BE_SENT };
  if (status === 401) return { field: "token", text: "You are not logged in: this session token is unknown or has expired." };
  if (status > 403) return { field: "token", text: "This session token is too long." };
  if (status === 403) return { field: "submission", text: `You do not have permission to see submission ${submissionId}.` };
  const isMissing = message === "No such submission" || message.startsWith("submission_id: ");
  if (isMissing) return { field: "submission", text: `Submission ${submissionId} does not exist.` };
  return { field: "submission", text: "The server refused this. Check the session token and the submission ID." };
}

/** Seconds until the first of them sends its next request; 0 where one is under way. */
function secondsUntil(updates) {
  return Math.max(0, Math.ceil((Math.min(...updates.map(({ retryAt }) => retryAt ?? 0)) - Date.now()) / 1000));
}

function lastCheck(at) {
  if (!at) return "";
  const time = new Date(at).toLocaleTimeString(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
  return `Last check at ${time}, ${ago(Date.now() - at)}.`;
}

function ago(milliseconds) {
  const seconds = Math.floor(milliseconds / 1000);
  if (seconds < 5) return "just now";
  if (seconds < 60) return `${seconds} s ago`;
  return seconds < 3600 ? `${Math.floor(seconds / 60)} min ago` : `${Math.floor(seconds / 3600)} h ago`;
}
