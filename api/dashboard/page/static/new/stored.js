// What the browser keeps for the form, in its own storage: the draft, one that was set aside, past prompts, and presets by
// name. Nothing of it is sent to the server until a video is created. Pictures are kept in `stored_pictures.js`.

const KEYS = { draft: "wanworks.draft", aside: "wanworks.aside", prompts: "wanworks.prompts", presets: "wanworks.presets", submitted: "wanworks.submitted" };
const PROMPTS = 50;
const JOBS = 20; // of each key
const SIGN_INS = 5; // keys whose jobs are kept
const { key } = document.body.dataset; // the id of the key with which this page was opened; empty without keys

function read(name, otherwise) {
  try {
    return JSON.parse(localStorage.getItem(KEYS[name])) ?? otherwise;
  } catch {
    return otherwise; // storage is unavailable, or holds something else
  }
}

function write(name, value) {
  try {
    localStorage.setItem(KEYS[name], JSON.stringify(value));
    return true;
  } catch {
    return false; // storage is unavailable or full: it lasts until the page is closed
  }
}

export const draft = () => read("draft", null);
export const saveDraft = (value) => write("draft", value);
export const aside = () => read("aside", null);
export const saveAside = (value) => write("aside", value);

/** The last prompts that were sent, newest first, each once. */
export const prompts = () => read("prompts", []).filter((one) => typeof one === "string");
export function rememberPrompt(text) {
  const prompt = text.trim();
  if (prompt) write("prompts", [prompt, ...prompts().filter((one) => one !== prompt)].slice(0, PROMPTS));
}

/** Presets by name: {name: {model_id, ...fields}}. */
export const presets = () => read("presets", {});
export const savePreset = (name, value) => write("presets", { ...presets(), [name]: value });
export function dropPreset(name) {
  const { [name]: _, ...rest } = presets();
  write("presets", rest);
}

const isRequest = (one) => Array.isArray(one?.ids) && one.ids.length > 0 && one.ids.every((id) => typeof id === "string");

/** What was submitted, by the id of the key, the one that was used last first: [{key, requests}]. */
function submittedByKey() {
  const kept = read("submitted", []);
  return Array.isArray(kept) ? kept.filter((one) => typeof one?.key === "string" && Array.isArray(one.requests)) : [];
}

/** What was submitted with this key, newest first: [{ids, batch_id}]. */
export const submitted = () => submittedByKey().find((one) => one.key === key)?.requests.filter(isRequest) ?? [];

/** Keeps a request; of its key, the newest jobs. What was submitted at once is kept whole, or not. */
export function rememberSubmitted({ ids, batch_id }) {
  writeSubmitted([{ ids, batch_id }, ...submitted().filter((one) => one.ids[0] !== ids[0])]);
}

/** Forgets jobs that no longer exist. */
export function forgetSubmitted(gone) {
  writeSubmitted(submitted().map((one) => ({ ...one, ids: one.ids.filter((id) => !gone.has(id)) })).filter(({ ids }) => ids.length));
}

function writeSubmitted(requests) {
  let count = 0;
  const newest = requests.filter(({ ids }) => (count += ids.length) <= JOBS);
  write("submitted", [{ key, requests: newest }, ...submittedByKey().filter((one) => one.key !== key)].slice(0, SIGN_INS));
}
