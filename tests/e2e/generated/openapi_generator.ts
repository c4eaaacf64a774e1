/** Calls the server with what OpenAPI Generator's `typescript-fetch` generated. */
import { Configuration, ResponseError, StatusApi } from "./client/index.js";
import type { CheckGenerationStatusFileTypeEnum as FileType, CheckGenerationStatusRequest } from "./client/index.js";

const as = (token: string) => new StatusApi(new Configuration({ basePath: process.argv[2], apiKey: token }));

async function check(fileType: FileType, token = "owner", more: Partial<CheckGenerationStatusRequest> = {}) {
  try {
    const response = await as(token).checkGenerationStatusRaw({ submissionId: 1, fileType, ...more });
    const { jobId, status, size, start, message, generatedAt, url } = await response.value();
    const nullable: [number | null, number | null, string | null] = [jobId, size, generatedAt]; // So the types say.
    const [job_id, , generated_at] = nullable;
    return { code: response.raw.status, job_id, status, size, start: start ?? null, message, generated_at, has_url: url !== "#" };
  } catch (error) {
    if (!(error instanceof ResponseError)) throw error;
    return { code: error.response.status, message: (await error.response.json()).message };
  }
}

async function checkSeveral(fileType: FileType[]) {
  const response = await as("owner").generationStatusesRaw({ submissionId: 1, fileType });
  return { code: response.raw.status, statuses: (await response.value()).files.map((file) => file.status) };
}

console.log(
  JSON.stringify({
    finished: await check("D1"),
    waiting: await check("D2"),
    invalid: await check("F"),
    failed: await check("E"),
    unknown: await check("D1", "owner", { submissionId: 2 ** 52 }),
    logged_out: await check("D1", "nobody"),
    forbidden: await check("D1", "stranger"),
    several: await checkSeveral(["F", "D1", "D2"]),
    held: await check("D2", "owner", { wait: true, timeout: 50 }),
  }),
);
