// The gallery: finished videos as a grid, with search, filters, favourites, and actions on those that are selected.
// Loaded when the view is first opened. Everything that decides what is shown is in the address.

import { get } from "../base/api.js";
import { problem } from "../base/awaited.js";
import { collectionTools, loadCollections, nameOf } from "./collections.js";
import { showMessage } from "../base/dialogs.js";
import { h } from "../base/dom.js";
import { folded } from "../base/folding.js";
import { number, plural, size } from "../base/format.js";
import { focusCell, grid } from "./grid.js";
import { isReversed } from "../base/list_address.js";
import { button, loading, select } from "../base/parts.js";
import { selection } from "./selection.js";
import { afterDrawing, changed, state } from "../base/state.js";

export const PAGE = 60;
const NAMES = ["q", "model_id", "size", "lora", "collection", "from", "to", "favourite"];
const TYPED_MS = 300;
const MOST_SELECTED = 1000;

export const own = {
  query: null, // what the address says, by NAMES
  total: null, // null: not loaded yet
  every: null, // how many there are without any filter, where more match than the gallery counts
  pages: new Map(), // by number: videos, or null while they are loaded
  selected: new Map(), // by id
  anchor: null, // index of the last video that was selected
  newer: false, // whether videos have finished since
  version: 0, // rises when the address was changed by something else than the fields, which are then made anew
};

let asked = 0; // number of the latest request for a first page
let ours = null; // the address that the fields have made last

state.gallery = { load: refresh, neighbours, video, focus };

/** Shows what the address says. */
export async function open(params) {
  const query = Object.fromEntries(NAMES.map((name) => [name, params.get(name) ?? ""]));
  if (own.query && NAMES.every((name) => own.query[name] === query[name])) return;
  if (params.toString() !== ours) own.version += 1;
  own.query = query;
  own.selected.clear();
  own.anchor = null;
  reset();
  changed();
  await Promise.all([loadFirst(), loadChoices()]);
}

function reset() {
  own.total = null;
  own.pages = new Map();
  own.newer = false;
}

const isFiltered = () => NAMES.some((name) => own.query[name]);

/** Returns the filters as the API reads them. */
function filters() {
  const { q, model_id, size, lora, collection, favourite, from, to } = own.query;
  const given = { q, model_id, size, lora, collection, favourite: favourite === "true" ? "true" : "" };
  return { ...given, finished_after: midnight(from, 0), finished_before: midnight(to, 1) };
}

/** Returns the beginning of a day in this time zone, or of the day so many days later. */
function midnight(day, later) {
  const [year, month, date] = day.split("-").map(Number);
  const moment = new Date(year, month - 1, date + later);
  return day && !Number.isNaN(moment.valueOf()) ? moment.toISOString() : "";
}

/** Loads the first page. Resolves to the error, if it could not. */
export async function loadFirst() {
  asked += 1;
  const mine = asked;
  try {
    const found = await get("/api/v1/gallery", { ...filters(), limit: PAGE });
    if (mine !== asked) return null;
    Object.assign(own, { total: found.total, more: found.is_more, looked: found.looked_through, as_of: found.as_of, isRefused: false });
    own.pages = new Map([[0, found.data]]);
    own.newer = false;
    own.every = found.is_more && !isFiltered() ? await countAll() : null;
    delete state.notes.gallery;
    return null;
  } catch (error) {
    own.isRefused = error.status === 422 || error.status === 404;
    const isOfCollection = own.isRefused && error.errors?.some(({ field }) => field === "collection");
    if (isOfCollection && mine === asked) state.notes.gallery = "There is no such collection.";
    else if (mine === asked) state.notes.gallery = error.errors?.map((one) => `${one.field}: ${one.message}`).join(" ") || error.message;
    return error;
  } finally {
    changed();
  }
}

/** Returns how many videos there are, which the server knows exactly of all jobs; null: it does not. */
async function countAll() {
  const found = await get("/api/v1/jobs/count", { type: "generation", status: "succeeded" }).catch(() => null); // the rest is shown
  return found?.is_exact ? found.count : null;
}

async function loadChoices() {
  const choices = get("/api/v1/gallery/choices").then((found) => {
    own.choices = found;
    delete state.notes.choices;
  });
  const why = (error) => {
    state.notes.choices = error.message;
  };
  await Promise.all([choices.catch(why), loadCollections()]);
  changed();
}

/** Loads the newest videos again, unless that would move what somebody looks at. */
async function refresh() {
  if (!own.query) return;
  if (own.total === null || (scrollY < 100 && !own.selected.size && !document.querySelector(".cells:hover, .cells :focus"))) {
    const [error] = await Promise.all([loadFirst(), loadChoices()]);
    if (error) throw error;
    return;
  }
  const [newest] = (await get("/api/v1/gallery", { ...filters(), limit: 1 })).data;
  own.newer = Boolean(newest) && !video(newest.id);
  changed();
}

/** Loads a page of the grid once. */
export async function loadPage(page) {
  if (own.pages.has(page)) return;
  const { pages, as_of } = own;
  pages.set(page, null);
  try {
    pages.set(page, (await get("/api/v1/gallery", { ...filters(), as_of, offset: page * PAGE, limit: PAGE })).data);
    delete state.notes.gallery;
  } catch (error) {
    pages.delete(page);
    state.notes.gallery = error.message;
  }
  if (pages === own.pages) changed();
}

export const videoAt = (index) => own.pages.get(Math.floor(index / PAGE))?.[index % PAGE] ?? null;

/** Returns the place of a video in the gallery; null: it is not loaded. */
function indexOf(id) {
  for (const [page, videos] of own.pages) {
    const place = videos?.findIndex((video) => video.id === id) ?? -1;
    if (place >= 0) return page * PAGE + place;
  }
  return null;
}

/** Focuses the link of a video, for example the one that its dialog showed last. */
function focus(id) {
  const index = indexOf(id);
  if (index !== null) focusCell(index);
}

/** Returns the ids before and after this video in the order of the gallery, as far as they are loaded. */
function neighbours(id) {
  const index = indexOf(id);
  if (index === null) return null;
  if (index + 1 < own.total && !videoAt(index + 1)) loadPage(Math.floor((index + 1) / PAGE));
  return { previous: index ? videoAt(index - 1)?.id : null, next: videoAt(index + 1)?.id ?? null };
}

export function gallery() {
  if (!own.query) return loading();
  return [
    filterForm(),
    h("p", { class: "small muted", key: "kept" }, "Favourites and videos in collections are kept until you delete them."),
    own.isRefused && state.notes.gallery ? refused() : problem("gallery", "videos", false, reload),
    choicesProblem(),
    own.query.collection && !own.isRefused ? h("h2", { key: "collection", class: "clamp" }, nameOf(own.query.collection)) : null,
    own.total === 0 && !own.newer ? null : h(
      "div",
      { key: "count", class: "row gallery-count" },
      own.total === 0 ? null : h("p", { key: "count", role: "status", class: "muted" }, summary()),
      own.newer ? button("Show new videos", reload, { key: "newer", kind: "quiet outlined" }) : null,
    ),
    own.total === 0 && !state.notes.gallery ? nothing() : null,
    own.total ? grid() : null,
    own.more && own.total ? h("p", { key: "full", class: "note" }, `These are the newest ${number(own.total)}. Choose an end date to see older ones.`) : null,
    own.selected.size ? selection() : null,
  ];
}

function summary() {
  if (own.total === null) return state.notes.gallery ? "" : "Loading…";
  const looked = own.looked ? `; only the newest ${number(own.looked)} were searched` : "";
  if (own.every !== null) return plural(own.every, "video");
  return `${own.more ? "More than " : ""}${plural(own.total, "video")}${looked}`;
}

/** Says why the fields lack choices, unless the videos could not be loaded for the same reason: trying that again loads all. */
function choicesProblem() {
  const wanting = ["choices", "collections"].filter((part) => state.notes[part] && state.notes[part] !== state.notes.gallery);
  const what = { choices: "sizes and LoRAs", collections: "collections", "choices,collections": "sizes, LoRAs and collections" };
  return wanting.length ? problem(wanting[0], what[wanting], false, loadChoices) : null;
}

function nothing() {
  const filters = NAMES.filter((name) => own.query[name]);
  if (filters.join() === "collection")
    return h("p", { key: "none", class: "empty" }, `“${nameOf(own.query.collection)}” is empty: `, h("a", { href: "#gallery" }, "add videos from the gallery"));
  if (isReversed(own.query))
    return h("p", { key: "none", class: "empty" }, "“From” is after “To”: no day is between them. ", h("a", { href: "#gallery" }, "Show all videos"));
  return filters.length
    ? h("p", { key: "none", class: "empty" }, "No video matches. ", h("a", { href: "#gallery" }, "Show all videos"))
    : h("p", { key: "none", class: "empty" }, "No videos yet. ", h("a", { href: "#new" }, "Create a video"));
}

/** The address asks for what the server does not know: trying again would change nothing. */
const refused = () =>
  h("p", { key: "refused", class: "note warn", role: "status" }, `No video can match this address: ${state.notes.gallery} `, h("a", { href: "#gallery" }, "Show all videos"));

export function reload() {
  own.query && reset();
  scrollTo({ top: 0 });
  changed();
  return Promise.all([loadFirst(), loadChoices()]);
}

function filterForm() {
  const { query } = own;
  const known = (values, value) => (value && !values.includes(value) ? [...values, value] : values);
  const models = known(state.catalogue.map((entry) => entry.model_id), query.model_id);
  return h(
    "form",
    { key: "filters", class: "filters", role: "search", "aria-label": "Videos", on: { submit: (event) => event.preventDefault() } },
    h(
      "label",
      { class: "field grow", key: `q-${own.version}` },
      h("span", null, "Search in prompts"),
      h("input", { type: "search", name: "q", maxlength: 200, value: query.q, on: { input: search } }),
    ),
    folded("gallery", NAMES.filter((name) => query[name] && name !== "q").length, [
      choice("Model", "model_id", models),
      choice("Size", "size", known(own.choices?.sizes ?? [], query.size), size),
      choice("LoRA", "lora", known(own.choices?.loras ?? [], query.lora)),
      h("div", { class: "dates", key: "dates" }, day("From", "from"), day("To", "to")),
      h(
        "div",
        { class: "row wrap kept", key: "kept" },
        h(
          "button",
          {
            key: "favourites",
            type: "button",
            class: "button star-filter",
            "aria-pressed": String(query.favourite === "true"),
            on: { click: () => goTo({ favourite: query.favourite === "true" ? "" : "true" }) },
          },
          "★ Favourites",
        ),
        collectionTools(query.collection, own.version, goTo),
      ),
    ]),
    isFiltered() ? h("a", { key: "clear", class: "button quiet", href: "#gallery" }, "Clear") : null,
  );
}

function choice(label, name, values, text = String) {
  const value = own.query[name];
  const options = [["", "any"], ...values.map((one) => [one, text(one)])];
  return select(label, name, options, {
    key: `${name}-${own.version}`,
    value,
    change: (event) => goTo({ [name]: event.target.value }),
  });
}

function day(label, name) {
  return h(
    "label",
    { class: "field", key: `${name}-${own.version}` },
    h("span", null, label),
    h("input", { type: "date", name, value: own.query[name], on: { change: (event) => goTo({ [name]: event.target.value }) } }),
  );
}

let typing = null;

function search(event) {
  const value = event.target.value;
  clearTimeout(typing);
  typing = setTimeout(() => goTo({ q: value }, true), TYPED_MS);
}

/** Changes the address, and with it what is shown. `instead`: without a step in the browser's history. */
function goTo(change, instead = false) {
  const wanted = { ...own.query, ...change };
  const given = NAMES.filter((name) => wanted[name]).map((name) => [name, wanted[name]]);
  ours = new URLSearchParams(given).toString();
  const address = `gallery${ours ? `?${ours}` : ""}`;
  if (instead) location.replace(`#${address}`);
  else location.hash = address;
}

/** Returns a video by its id; undefined: it is not loaded. */
function video(id) {
  return [...own.pages.values()].flatMap((videos) => videos ?? []).find((one) => one.id === id);
}

// --- selection

/** Selects the video, or not any more; with `range`, all from the one that was selected before. */
export async function toggle(index, range) {
  const from = range && own.anchor !== null ? own.anchor : index;
  const [first, last] = [Math.min(from, index), Math.max(from, index)];
  if (last - first >= MOST_SELECTED) {
    showMessage(`At most ${number(MOST_SELECTED)} videos can be selected at once.`, "bad");
    return;
  }
  if (first !== last) {
    for (let page = Math.floor(first / PAGE); page <= Math.floor(last / PAGE); page += 1) await loadPage(page);
  }
  const one = videoAt(index);
  const wanted = range || !own.selected.has(one?.id);
  for (let at = first; at <= last; at += 1) {
    const video = videoAt(at);
    if (!video) continue;
    if (!wanted) own.selected.delete(video.id);
    else if (own.selected.size < MOST_SELECTED) own.selected.set(video.id, video);
  }
  own.anchor = index;
  changed();
}

export function clearSelection() {
  const last = document.activeElement?.closest(".selection-bar") ? own.anchor : null; // the focused bar goes
  own.selected.clear();
  own.anchor = null;
  changed();
  if (last !== null) afterDrawing(() => focusCell(last));
}
