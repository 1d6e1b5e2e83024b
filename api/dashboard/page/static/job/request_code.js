// Writes the request that makes a video again, for curl and in Python. It names the environment variable with the key,
// never the key.

import { base } from "../base/api.js";

const KEY = "$WANWORKS_API_KEY";
const REQUEST = [
  "model_id", "prompt", "negative_prompt", "resolution", "frames", "fps", "steps", "guidance_scale", "guidance_scale_2",
  "flow_shift", "seed", "quantization", "speed", "output_format", "loras", "devices_per_job",
]; // prettier-ignore

/** The address of this installation. */
const installation = () => `${location.origin}${base}`;

/** Returns the fields of the request that makes the same video. */
export function requestOf(job) {
  const fixed = new Set(["devices_per_job"]);
  return Object.fromEntries(
    REQUEST.map((name) => [name, job.params[name]]).filter(
      ([name, value]) => value !== null && value !== undefined && value !== "" && !(Array.isArray(value) && !value.length) && !(fixed.has(name) && value === 1),
    ),
  );
}

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

export function asCurl(job) {
  const picture = job.params.image ? [`  -F ${quoted("image=@picture.png")}`] : [];
  const head = [`curl -sS ${quoted(`${installation()}/api/v1/jobs/generation`)}`, `  -H "Authorization: Bearer ${KEY}"`];
  if (picture.length) {
    const fields = Object.entries(requestOf(job)).map(
      ([name, value]) => `  --form-string ${quoted(`${name}=${typeof value === "object" ? JSON.stringify(value) : value}`)}`,
    );
    return [...head, ...fields, ...picture].join(" \\\n");
  }
  return [...head, "  -H 'Content-Type: application/json'", `  -d ${quoted(JSON.stringify(requestOf(job), null, 2))}`].join(" \\\n");
}

export function asPython(job) {
  const fields = Object.entries(requestOf(job)).map(([name, value]) => `    ${name}=${python(value)},`);
  const picture = job.params.image ? ['    image=Path("picture.png"),'] : [];
  return [
    "import os",
    ...(picture.length ? ["from pathlib import Path"] : []),
    "",
    "from wanworks import Client",
    "",
    `client = Client(${python(installation())}, api_key=os.environ["WANWORKS_API_KEY"])`,
    "job = client.generate(",
    ...fields,
    ...picture,
    ")",
    'print(job["id"])',
    "",
  ].join("\n");
}

function python(value) {
  if (value === true) return "True";
  if (value === false) return "False";
  if (value === null) return "None";
  if (Array.isArray(value)) return `[${value.map(python).join(", ")}]`;
  if (typeof value === "object") return `{${Object.entries(value).map(([name, one]) => `${python(name)}: ${python(one)}`).join(", ")}}`;
  return JSON.stringify(value);
}
