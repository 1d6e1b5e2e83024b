// The library of LoRAs on the view of models: what there is, uploads, fetches, sharing and removing.

import { base, fieldErrors, newKey, patch, post, Problem, remove, Unreachable } from "../base/api.js";
import { awaited, none } from "../base/awaited.js";
import { attempt, confirm, showMessage } from "../base/dialogs.js";
import { h } from "../base/dom.js";
import { ago, bytes, sentence } from "../base/format.js";
import { readLoras } from "../base/load.js";
import { button, select } from "../base/parts.js";
import { changed, mergeJobs, state } from "../base/state.js";

const own = { sending: null, problem: null };

export function loras() {
  const maySubmit = document.body.dataset.scopes.includes("submit") || document.body.dataset.scopes.includes("admin");
  return h(
    "section",
    { class: "panel loras-panel", "aria-labelledby": "h-loras", key: "loras" },
    h("h2", { id: "h-loras" }, "LoRAs"),
    awaited("loras", "LoRAs", state.loras),
    !state.loras ? null : state.loras.length ? table(state.loras) : none("loras", "No LoRAs yet. One that you add is yours alone until you share it."),
    maySubmit ? adding() : null,
  );
}

function table(rows) {
  return h(
    "ul",
    { class: "replicas", "aria-label": "LoRAs by name" },
    rows.map((one) =>
      h(
        "li",
        { key: one.name, class: "replica", "data-lora": one.name },
        h("div", { class: "row between wrap" }, h("strong", null, one.name), h("span", { class: "small muted" }, owned(one))),
        h("span", { class: "small muted" }, told(one)),
        one.description ? h("p", { class: "small" }, one.description) : null,
        mayChange(one) ? h("div", { class: "row wrap" }, steering(one)) : null,
      ),
    ),
  );
}

const mayChange = (one) => one.id && (one.mine || document.body.dataset.scopes.includes("admin"));

function owned(one) {
  if (one.source === "folder") return "from the server's folder";
  const whose = one.mine ? "yours" : `of ${one.owner ?? "this installation"}`;
  const shared = one.shared ? ", shared with everybody" : one.shared_with.length ? `, shared with ${one.shared_with.join(", ")}` : "";
  return `${whose}${shared}`;
}

function told(one) {
  if (!one.files.length) return "no description";
  const ranks = [...new Set(one.files.map((file) => file.rank).filter(Boolean))];
  const bases = [...new Set(one.files.map((file) => file.base).filter(Boolean))];
  return [
    bases.length ? `for ${bases.join(", ")} models` : null,
    one.files.map((file) => (file.expert === "both" ? "all experts" : `${file.expert} noise`)).join(" and "),
    ranks.length ? `rank ${ranks.join(", ")}` : null,
    bytes(one.bytes),
    `added ${ago(one.created_at)}`,
  ]
    .filter(Boolean)
    .join(" · ");
}

function steering(one) {
  return [
    h("a", { key: "use", class: "button quiet", href: "#new", on: { click: () => use(one.name) } }, "Use"),
    button(one.shared ? "Stop sharing" : "Share with everybody", () => share(one), {
      key: "share",
      kind: "quiet",
      label: `${one.shared ? "Stop sharing" : "Share with everybody"}: ${one.name}`,
    }),
    button("Remove", () => drop(one), { key: "remove", kind: "quiet danger", label: `Remove the LoRA ${one.name}` }),
  ];
}

/** The form takes the name when it is shown next. */
function use(name) {
  dispatchEvent(new CustomEvent("wanworks-use-lora", { detail: name }));
}

function share(one) {
  return attempt(async () => {
    await patch(`/api/v1/loras/${one.id}`, { shared: !one.shared });
    await readLoras();
  }, one.shared ? `${one.name} is yours alone again.` : `Every key may use ${one.name}.`, { key: `share ${one.id}`, not: one.shared ? `${one.name} is still shared` : `${one.name} is not shared` });
}

async function drop(one) {
  const text = "Jobs that were accepted with it keep its files until they end.";
  if (!(await confirm({ title: "Remove this LoRA?", text, lines: [one.name], yes: "Remove" }))) return;
  await attempt(async () => {
    await remove(`/api/v1/loras/${one.id}`);
    await readLoras();
  }, "Removed", { not: `${one.name} is not removed` });
}

function adding() {
  return h(
    "details",
    { key: "add", class: "advanced" },
    h("summary", null, "Add a LoRA"),
    h(
      "form",
      { class: "lora-add", "aria-label": "Add a LoRA", novalidate: true, on: { submit: add, input: forgive } },
      h("div", { class: "field" }, h("label", { for: "lora-file" }, "File"), h("input", { id: "lora-file", name: "file", type: "file", accept: ".safetensors", on: { change: named } })),
      h(
        "div",
        { class: "field" },
        h("label", { for: "lora-source" }, "Address"),
        h("input", { id: "lora-source", name: "source", placeholder: "https://…", autocomplete: "off", spellcheck: "false", maxlength: 2000 }),
        h("p", { class: "hint" }, "Instead of a file: a public address, or owner/repository/path.safetensors on the hub."),
      ),
      h("div", { class: "field" }, h("label", { for: "lora-name" }, "Name"), h("input", { id: "lora-name", name: "name", required: true, maxlength: 128, autocomplete: "off", spellcheck: "false", pattern: "[A-Za-z0-9][A-Za-z0-9._\\-]*" })),
      select("For", "expert", [["both", "all experts"], ["high", "high noise"], ["low", "low noise"]], { value: "both" }),
      h("div", { class: "field" }, h("label", { for: "lora-description" }, "Description"), h("input", { id: "lora-description", name: "description", maxlength: 1000 })),
      own.problem ? h("p", { class: "field-error", role: "alert", key: "problem" }, own.problem) : null,
      own.sending === null
        ? h("button", { type: "submit", class: "button primary", key: "send" }, "Add")
        : h("p", { class: "small", role: "status", key: "sending" }, `Sending: ${own.sending} %`),
    ),
  );
}

function named(event) {
  const file = event.target.files[0];
  const field = event.target.form.elements.name;
  if (file && !field.value) field.value = file.name.replace(/\.(high|low)?\.?safetensors$/, "").replace(/[^A-Za-z0-9._-]+/g, "-");
}

/** Returns the first field that is wrong, and why; null: none. */
function wrongField({ elements: { file, source, name } }) {
  if (!file.files.length && !source.value.trim()) return [file, "Choose a file, or give an address."];
  if (!name.value) return [name, "Give it a name."];
  if (name.validity.patternMismatch) return [name, "The name must begin with a letter or digit and consist of letters, digits, dots, hyphens and underscores."];
  return null;
}

async function add(event) {
  event.preventDefault();
  const form = event.target;
  const { name, expert, description, source } = Object.fromEntries(new FormData(form));
  const file = form.elements.file.files[0];
  const wrong = wrongField(form);
  own.problem = wrong?.[1] ?? null;
  if (wrong) {
    wrong[0].focus();
    return changed();
  }
  own.sending = 0;
  changed();
  try {
    if (file) {
      await upload(file, { name, expert, description });
      await readLoras();
      showMessage("The LoRA is there. It is yours alone until you share it.", "good");
    } else {
      const [owner, repository, ...path] = source.trim().split("/");
      const from = source.includes("://") ? { url: source.trim() } : { repo: `${owner}/${repository ?? ""}`, file: path.join("/") };
      const job = await post("/api/v1/loras/fetch", { name, expert, description, ...from }, { key: newKey() });
      mergeJobs([job]);
      location.hash = `job/${job.id}`;
      showMessage("It is being fetched.", "good");
    }
    form.reset();
  } catch (error) {
    if (!(error instanceof Problem || error instanceof Unreachable)) throw error;
    own.problem = error.errors?.length ? error.errors.map((one) => refusal(one, Boolean(file))).join(" ") : error.message;
  } finally {
    own.sending = null;
    changed();
  }
  return null;
}

const LABELS = { file: "File", name: "Name", expert: "For", description: "Description", url: "Address", repo: "Address" };

/** Says what is wrong with a field, under the name that it has in this form. `isFile`: a file was sent, not an address. */
function refusal({ field, message }, isFile) {
  const label = field === "file" && !isFile ? LABELS.url : (LABELS[field] ?? sentence(field));
  const goesOn = /^(is|has|must|needs|cannot|contains)\b/.test(message); // the field is its subject
  return `${label}${goesOn ? " " : ": "}${message}${/[.!?]$/.test(message) ? "" : "."}`;
}

/** What was wrong is no news once the form has changed. */
function forgive() {
  if (own.problem === null) return;
  own.problem = null;
  changed();
}

/** Sends the file as it is, and shows how much of it was sent. `fetch` cannot tell. */
function upload(file, query) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", `${base}/api/v1/loras?${new URLSearchParams(query)}`);
    request.setRequestHeader("Content-Type", "application/octet-stream");
    request.setRequestHeader("Accept", "application/json");
    request.upload.addEventListener("progress", (event) => {
      own.sending = Math.floor((100 * event.loaded) / event.total);
      changed();
    });
    request.addEventListener("error", () => reject(new Problem(0, "The server does not respond.", [])));
    request.addEventListener("load", () => {
      let answer = {};
      try {
        answer = JSON.parse(request.responseText);
      } catch {
        // not JSON: an error page of a proxy
      }
      if (request.status < 300) return resolve(answer);
      return reject(new Problem(request.status, answer.detail ?? `The server responded with status ${request.status}.`, fieldErrors(answer)));
    });
    request.send(file);
  });
}
