/** Calls the server with openapi-fetch and the types that openapi-typescript generated. */
import createClient from "openapi-fetch";
import type { components, operations, paths } from "./schema.js";

type Status = components["schemas"]["GenerationStatus"];
type Query = operations["check_generation_status"]["parameters"]["query"];

const client = createClient<paths>({ baseUrl: process.argv[2] });
const as = (token: string) => ({ headers: { "X-Session-ID": token } });

function seen({ job_id, status, size, start, message, generated_at, url }: Status) {
  const nullable: [number | null, number | null, string | null] = [job_id, size, generated_at]; // So the types say.
  return { job_id, status, size, start: start ?? null, message, generated_at, has_url: url !== "#" && nullable.length > 0 };
}

async function check(file_type: Query["file_type"], token = "owner", more: Partial<Query> = {}) {
  const query: Query = { submission_id: 1, file_type, ...more };
  const { data, error, response } = await client.GET("/v1/check_generation_status/", { params: { query }, ...as(token) });
  return { code: response.status, ...(data ? seen(data) : { message: error.message }) };
}

async function checkSeveral(file_type: Query["file_type"][]) {
  const query = { submission_id: 1, file_type };
  const { data, response } = await client.GET("/v1/generation_statuses/", { params: { query }, ...as("owner") });
  return { code: response.status, statuses: data?.files.map((file) => file.status) };
}

console.log(
  JSON.stringify({
    finished: await check("D1"),
    waiting: await check("D2"),
    invalid: await check("F"),
    failed: await check("E"),
    unknown: await check("D1", "owner", { submission_id: 2 ** 52 }),
    logged_out: await check("D1", "nobody"),
    forbidden: await check("D1", "stranger"),
    several: await checkSeveral(["F", "D1", "D2"]),
    held: await check("D2", "owner", { wait: true, timeout: 50 }),
  }),
);
