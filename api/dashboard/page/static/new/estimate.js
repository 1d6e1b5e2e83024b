// The bar below the form: when the video would start and end and what it would cost, and the button that creates it.
// The figures come from a dry run of the request, so they are what accepting it would say.

import { answers, post, Problem } from "../base/api.js";
import { h } from "../base/dom.js";
import { number, plural, seconds, sentence, soon } from "../base/format.js";
import * as load from "../base/load.js";
import { artifactOf, badge, bar, button, progressText, readyOf, thumbnail, titleOf } from "../base/parts.js";
import { changed, hasEnded, state } from "../base/state.js";
import { cancelAllButton, cancelButton, stateOf } from "../job/actions.js";
import { firstUse, firstUseSentence } from "../models/first_use.js";
import { pausedLine, pauseOf } from "../overview/pauses.js";
import { chosenInWords } from "./choices.js";
import { chosen, draft, formOf, MOST_VIDEOS, requestBody, valueOf } from "./draft.js";
import { outsideOf } from "./form_fields.js";
import { focusCreate, leaveOut, newSeed } from "./reusing.js";

const PAUSE_MS = 400;
const FRESH_MS = 15_000; // afterwards the queue has changed
const UNKNOWN_MS = 3_000; // the same, while nothing is known of the start, or if more or fewer jobs wait
// In place of a picture: its content changes neither memory nor time.
const DOT =
  "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC";

const LORAS_SHOWN = 2;

const NOTHING = { of: null, at: 0, found: null, refused: null, failed: null, wrong: [], outside: [] };

let estimate = NOTHING; // `outside`: fields whose values are outside their ranges, as [name, message]
let pause = null;
let asking = false; // whether a request is under way

/** `newest`: what was submitted last, {jobs: the known ones, count, batch_id}, shown where its own entry is not beside the form. */
export function estimateBar(entry, take, newest) {
  requestSoon();
  const { outside } = estimate;
  const { count } = settings(entry);
  return h(
    "div",
    { class: "make-bar", key: "bar", heir: ".make-go .primary", made: keepClear },
    newest ? inBrief(newest) : null,
    h(
      "section",
      { class: "estimate", "aria-labelledby": "h-cost", "aria-live": "polite" },
      h("h2", { id: "h-cost", class: "hidden" }, "Estimated time"),
      toCorrect(),
      notCreated(),
      Object.keys(draft.errors).length || draft.refused ? null : (ranges(outside) ?? expectedOf(entry, take)),
    ),
    h(
      "div",
      { class: "make-go" },
      h("div", { class: "make-chosen small" }, h("span", { id: "chosen" }, chosenInWords(settings(entry))), fixedSeed(), entry.loras ? chosenLoras() : null),
      h(
        "button",
        { type: "submit", form: "make-form", class: "button primary large", disabled: draft.sending, "aria-describedby": "chosen" },
        draft.sending ? "Sending…" : count > 1 ? `Create ${count} videos` : "Create video",
      ),
    ),
  );
}

/** Keeps what has the focus clear of the bar: the browser scrolls it into view above. */
function keepClear(bar) {
  new ResizeObserver(() => document.documentElement.style.setProperty("--make-bar", `${bar.offsetHeight}px`)).observe(bar);
}

/** What the dry run has answered. */
function expectedOf(entry, take) {
  const { found, refused, failed, wrong } = estimate;
  if (refused) return missing(refused, take);
  if (wrong.length) return ranges(wrong);
  if (failed) return h("p", { class: "small bad-text" }, failed);
  return found?.model_id === entry.model_id ? figures(found, entry) : h("p", { class: "muted" }, "Estimating…");
}

/** Says that the server did not answer a submission, and whether it is back. */
function unanswered() {
  const isBack = answers.count > draft.refused.answers;
  return `${isBack ? "The server did not respond, and is back." : draft.refused.message} Trying again creates nothing twice.`;
}

/** Why the last attempt created nothing, with the way to another one where that may help. Null: it was not refused. */
function notCreated() {
  if (!draft.refused) return null;
  const again = () => document.getElementById("make-form").requestSubmit();
  return h(
    "div",
    { key: "refused", class: "row wrap" },
    h("p", { class: "small bad-text" }, "answers" in draft.refused ? unanswered() : draft.refused.message),
    draft.refused.again ? button("Try again", again, { kind: "again" }) : null,
  );
}

/** The seed that was set or copied, which would make the same video again, with the way to a new one; null: it is random. */
function fixedSeed() {
  const seed = draft.filled.seed ?? "";
  if (seed === "") return null;
  const renew = () => {
    newSeed();
    focusCreate();
  };
  return h(
    "button",
    { key: "seed", type: "button", class: "chip", "aria-label": `Seed ${seed}, use a new one`, title: "The same seed and settings make the same video. Use a new seed.", on: { click: renew } },
    h("span", null, `seed ${seed}`),
    h("span", { "aria-hidden": "true" }, "✕"),
  );
}

/** The LoRAs that are applied, each with the way to leave it out; many are counted and lead to their fields. */
function chosenLoras() {
  const named = draft.loras.map((row, index) => [row, draft.filled.loras?.[index]]).filter(([, one]) => one?.name?.trim());
  if (named.length > LORAS_SHOWN) return fieldLink(`loras.${named[0][0]}.name`, plural(named.length, "LoRA"), { kind: "" });
  return named.map(([row, { name, scale }]) => {
    const text = `LoRA ${name}${scale === undefined || scale === "" || Number(scale) === 1 ? "" : ` × ${scale}`}`;
    const leave = () => leaveOut(row);
    return h(
      "button",
      { key: `lora-${row}`, type: "button", class: "chip", "aria-label": `${text}, leave it out`, title: "Leave this LoRA out.", on: { click: leave } },
      h("span", null, text),
      h("span", { "aria-hidden": "true" }, "✕"),
    );
  });
}

/** What was submitted last in one line that leads to it: the progress, then a picture. */
function inBrief({ jobs, count, batch_id }) {
  const [job] = jobs;
  const picture = jobs.map((one) => artifactOf(one, "thumbnail")).find(Boolean);
  const ended = hasEnded(job) ? [badge(job.status), h("span", { class: "title" }, titleOf(job))] : stateOf(job);
  const href = count > 1 ? `#jobs?batch_id=${batch_id}` : `#job/${job.id}`;
  return h(
    "div",
    { key: "newest", class: "row newest" },
    h(
      "a",
      { key: "link", class: "row newest-link", href },
      picture ? h("span", { class: "frame" }, thumbnail(picture.url)) : null,
      count > 1 ? together(jobs, count) : ended,
      h("span", { class: "button quiet" }, "Open"),
    ),
    count > 1 ? cancelAllButton(jobs, "quiet") : hasEnded(job) ? null : cancelButton(job, "quiet"),
  );
}

/** How far jobs are that were submitted at once, with the progress of the one that ends next. */
function together(jobs, count) {
  const text = readyOf(jobs, count);
  const next = jobs.find((one) => one.status === "running") ?? jobs.find((one) => !hasEnded(one));
  if (!next) return h("span", { class: "title" }, `${text}: ${titleOf(jobs[0])}`);
  return h(
    "div",
    { class: "progress" },
    next.progress.percent ? bar(next.progress.percent, `Progress of ${titleOf(next)}`) : null,
    h("span", { class: "small" }, h("b", null, text), h("span", { class: "muted" }, ` · next: ${progressText(next)}`)),
  );
}

function settings(entry) {
  const value = (name) => valueOf(entry, name);
  return {
    resolution: String(value("resolution")),
    frames: Number(value("frames")),
    fps: Number(value("fps")),
    speed: draft.filled.speed ?? entry.default_speed,
    count: countOf(draft.filled.count),
  };
}

/** Returns how many videos the form makes; 1 as well while the field has no such number. */
function countOf(given) {
  const count = Number(given);
  return Number.isInteger(count) && count >= 1 && count <= MOST_VIDEOS ? count : 1;
}

function figures({ cost, expected, memory, model_ready: ready }, entry) {
  const known = cost.generation_seconds !== null;
  const there = state.models?.[entry.model_id];
  const first = there && !there.is_available ? firstUse(entry.model_id, draft.filled.fallback?.includes("download_and_retry")) : null;
  const later = first && first.state !== "refused" ? "after the download" : "when the model is there";
  const held = pauseOf(entry.model_id);
  // Counted from the answer: while nothing is sent, the time that passes brings neither nearer.
  const isDated = !held && (expected.start_at || !ready);
  const end = expected.end_at ?? endOf(expected.start_at, cost);
  const starts = expected.start_at ? soon(expected.start_at, estimate.at) : later;
  const ends = end ? soon(end, estimate.at) : null;
  return [
    h(
      "dl",
      { class: "estimate-facts" },
      isDated ? pair("Starts", starts) : null,
      isDated ? pair("Ends", ends ? (ends !== starts ? ends : ends === "now" ? "within seconds" : "less than a minute later") : known ? "not known" : "not measured yet") : null,
      pair("Device time", cost.gpu_seconds !== null ? `about ${seconds(cost.gpu_seconds)}` : known ? `about ${seconds(cost.generation_seconds)} after loading` : "not measured yet"),
    ),
    first ? download(first) : null,
    memory && !memory.open_devices
      ? h("p", { class: "small warn-text" }, memory.fitting_devices ? "No device that fits it accepts jobs now; it would wait." : "No registered device has the memory; it would wait.")
      : null,
    held ? pausedLine(held, "Your video starts when it is resumed.") : expected.start_at || !expected.how || first ? null : h("p", { class: "small" }, expected.how),
    h("p", { class: "hint" }, known ? cost.how : "First video of this model with these settings: its time is not known yet."),
  ];
}

/** Says whether the model's files come by themselves, and where to see to it if not. */
function download(first) {
  const refused = first.state === "refused";
  return h(
    "p",
    { class: `small ${refused ? "warn-text" : ""}`, key: "download" },
    firstUseSentence(first),
    refused ? [" ", h("a", { href: "#models" }, "Models")] : null,
  );
}

/** Returns when one video ends that starts then, from its own times; null: they are not known, or there are several videos. */
function endOf(start, { generation_seconds: generation, loading_seconds: loading }) {
  if (!start || generation === null || loading === null || countOf(draft.filled.count) > 1) return null;
  return new Date(Date.parse(start) + (loading + generation) * 1000).toISOString();
}

const pair = (name, value) => h("div", { key: name }, h("dt", null, name), h("dd", null, value));

/** What the request lacks, and requests that would fit as buttons. */
function missing(refused, take) {
  return [
    h("p", { class: "small bad-text" }, refused.message),
    refused.alternatives.length
      ? h(
          "div",
          { class: "row wrap", role: "group", "aria-label": "Requests that fit" },
          refused.alternatives.slice(0, 4).map((one, index) =>
            button(changesText(one.changes), () => take(one.request), { key: index, kind: "tiny", label: `Use ${changesText(one.changes)}` }),
          ),
        )
      : null,
  ];
}

/** Names the fields with an error, each as a link to it; the errors stand at the fields. Null: there are none. */
function toCorrect() {
  const errors = Object.entries(draft.errors);
  if (!errors.length) return null;
  const names = [...(document.querySelector(".make-form")?.elements ?? [])].map(({ name }) => name);
  errors.sort(([one], [other]) => names.indexOf(one) - names.indexOf(other)); // in the order of the form
  return h("p", { class: "small bad-text" }, `${plural(errors.length, "field")} to correct: `, errors.map(([name, text], index) => [index ? ", " : "", fieldLink(name, labelOf(name), { title: text })]));
}

/** Names the fields whose values are not possible, with the reasons. Null: there are none. */
function ranges(outside) {
  if (!outside.length) return null;
  return h("p", { class: "small bad-text" }, outside.map(([name, text], index) => [index ? "; " : "", fieldLink(name, `${labelOf(name)}: ${text}`)]));
}

function fieldLink(name, text, { title, kind = "bad-text" } = {}) {
  const focus = (event) => {
    event.preventDefault();
    const field = document.getElementById(`f-${name}`) ?? document.querySelector(`.make-form [name="${CSS.escape(name)}"]`);
    field?.closest(".advanced")?.setAttribute("open", "");
    (field?.matches("fieldset") ? field.querySelector("input, button") : field)?.focus();
  };
  return h("a", { key: name, class: kind, href: "#new", title, on: { click: focus } }, text);
}

/** Returns the field's label without its addition, such as "(optional)". */
function labelOf(name) {
  const label = document.querySelector(`.make-form label[for="${CSS.escape(`f-${name}`)}"], .make-form fieldset[name="${CSS.escape(name)}"] > legend`);
  return label?.firstChild?.textContent.trim() ?? sentence(name);
}

const changesText = (changes) =>
  Object.entries(changes)
    .map(([name, value]) => (name === "frames" ? `${value} frames` : name === "quantization" || name === "speed" ? `${name} ${value}` : String(value)))
    .join(", ");

/** Requests the estimate for the form's values once typing has paused and the form has been drawn. */
function requestSoon() {
  if (pause || asking || document.documentElement.dataset.view !== "new") return;
  pause = setTimeout(() => {
    pause = null;
    ask();
  }, PAUSE_MS);
}

async function ask() {
  const form = document.querySelector(".make-form");
  const entry = chosen();
  if (form?.dataset.of !== formOf(entry)) return; // the next drawing asks again
  // What the request's answer alone can say, such as a LoRA that does not exist, is left out.
  const { webhook_url, webhook_progress, loras, fallback, ...wanted } = requestBody(form, entry);
  wanted.prompt = "a video"; // its words change neither time nor memory
  delete wanted.negative_prompt;
  delete wanted.seed;
  if (entry.image === "required" || (entry.image === "optional" && draft.image)) wanted.image = DOT;
  else delete wanted.fit;
  if (wanted.fit === "auto") delete wanted.fit; // the size follows the picture itself, at the same area
  const of = JSON.stringify([wanted, state.pauses]);
  const queued = state.counts?.queued;
  const isOld = estimate.found?.expected.start_at === null || queued !== estimate.queued;
  if (estimate.of === of && Date.now() - estimate.at < (isOld ? UNKNOWN_MS : FRESH_MS)) return;
  const outside = outsideOf(form);
  if (outside.length) {
    if (String(estimate.outside) !== String(outside)) {
      estimate = { ...NOTHING, outside };
      changed();
    }
    return;
  }
  const known = { ...NOTHING, of, queued, at: Date.now() };
  asking = true;
  try {
    known.found = await post("/api/v1/jobs/generation?dry_run=true", wanted);
  } catch (error) {
    if (error instanceof Problem && error.alternatives.length) known.refused = error;
    else if (error instanceof Problem && error.errors.length) known.wrong = error.errors.map((one) => [one.field, one.message]);
    else if (error instanceof Problem) known.refused = error;
    else known.failed = error.message;
  } finally {
    asking = false;
  }
  estimate = known;
  changed();
  const cost = known.found?.cost;
  const there = state.models?.[entry.model_id];
  // A model is loaded, or leaves, without a message: what the cards say has changed if the answer says otherwise.
  if (there && cost && cost.generation_seconds !== null && (cost.loading_seconds === 0) !== there.is_loaded) load.models().catch(() => {}); // the feed reports an unreachable server
}
