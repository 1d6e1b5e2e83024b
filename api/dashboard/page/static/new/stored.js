// What the browser keeps for the form, in its own storage: the draft, one that was set aside, past prompts, and presets by
// name. Nothing of it is sent to the server until a video is created. Pictures are not kept.

const KEYS = { draft: "wanworks.draft", aside: "wanworks.aside", prompts: "wanworks.prompts", presets: "wanworks.presets" };
const PROMPTS = 50;

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
