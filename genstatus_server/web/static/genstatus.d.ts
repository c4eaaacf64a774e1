export type FileType = "D1" | "D2" | "E" | "F";

/** What the server says of one file. */
export interface GenerationStatus {
  job_id: number | null;
  status: "finished" | "waiting" | "failed" | "invalid";
  file_type: FileType;
  /** Presigned URL of the file when finished, else `"#"`. */
  url: string;
  /** Bytes; null where not known. */
  size: number | null;
  /** `MM/DD/YYYY` or `""`; for D1 and D2 only. */
  start?: string;
  end?: string;
  /** Why it failed, else `""`. */
  message: string;
  /** `MM/DD/YYYY HH:mm:ss`, UTC; `YYYY-MM-DD HH:mm:ss` where the server has `generated_at_format = iso`. */
  generated_at: string | null;
}

/** Where the waiting stands. `retryAt` is when it asks again, in milliseconds since 1970. */
export type Update =
  | { phase: "asking"; failures: number }
  | { phase: "waiting"; answer: GenerationStatus; waitResult: string | null; retryAt: number }
  | { phase: "reconnecting"; error: Error; failures: number; retryAt: number }
  | { phase: "settled"; answer: GenerationStatus };

export interface CheckOptions {
  /** Of the server, such as `https://status.example.gov`. */
  baseUrl: string;
  sessionToken: string;
  /** A text where it may be larger than a number can be exact. */
  submissionId: number | bigint | string;
  fileType: FileType;
  signal?: AbortSignal;
  fetch?: typeof globalThis.fetch;
}

export interface WaitOptions extends CheckOptions {
  /** Seconds for which a request is held, 25 unless told; 0 polls. */
  wait?: number;
  onUpdate?: (update: Update) => void;
}

/** The server refused the question (400, 401, 403; too large: 413, 414, 431), or `checkGeneration` got no 200. */
export class GenerationError extends Error {
  readonly status: number;
  /** As the server sent it, `{ message, errors? }` as a rule. */
  readonly body: unknown;
  readonly requestId: string | null;
  constructor(message: string, details: { status: number; body: unknown; requestId: string | null });
}

/** Resolves once the status is no longer `waiting`; rejects when refused (`GenerationError`) or aborted. */
export function waitForGeneration(options: WaitOptions): Promise<GenerationStatus>;

/** Asks once, without waiting. */
export function checkGeneration(options: CheckOptions): Promise<GenerationStatus>;
