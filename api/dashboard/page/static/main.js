// Entry point of the page: routes addresses to views, draws the state, and shows the state of the connection.

import { base } from "./base/api.js";
import { script, wrong } from "./base/awaited.js";
import { attempt, leaveView, liftToasts, showMessage } from "./base/dialogs.js";
import { h, render } from "./base/dom.js";
import { number, seconds } from "./base/format.js";
import * as feed from "./base/feed.js";
import { filterBy } from "./jobs/going.js";
import { jobs } from "./jobs/jobs.js";
import { closeJob, drawJob, openJob, watched } from "./job/job_dialog.js";
import * as load from "./base/load.js";
import * as menus from "./base/menus.js";
import { loading, retryPictures, titleOf } from "./base/parts.js";
import * as places from "./base/places.js";
import { newJob, startFrom } from "./new/new_job.js";
import { announceEnds } from "./new/recent.js";
import { overview } from "./overview/overview.js";
import { activeCount, activeJobs, changed, hasData, mergeJobs, state, whenChanged } from "./base/state.js";
import * as theme from "./base/theme.js";

// The scripts of these views are loaded when they are first shown.
const LATER = {
  alerts: () => import("./operating/alerts.js"),
  devices: () => import("./operating/devices.js"),
  flows: () => import("./jobs/flows.js"),
  gallery: () => import("./gallery/gallery.js"),
  models: () => import("./models/models.js"),
};
const scripts = {}; // by view: null if it could not be loaded
const ofScript = (name) => () => scripts[name]?.[name]() ?? (name in scripts ? missing(name) : loading());
const VIEWS = { overview, gallery: ofScript("gallery"), jobs, flows: ofScript("flows"), new: newJob, models: ofScript("models"), devices: ofScript("devices"), alerts: ofScript("alerts") };
const ESSENTIAL = ["metrics", "workers", "active", "alerts"];
const PARTS_OF = { batches: "jobs", loras: "models" }; // parts of views, by the address that one would guess
const FAST_POLL_MS = 2_000;
const FIRST = document.documentElement.dataset.first; // the view of an address without one

const root = document.documentElement;
const byId = (id) => document.getElementById(id);
const titles = Object.fromEntries(Object.keys(VIEWS).map((name) => [name, byId(`h-${name}`).textContent]));


let view = null;
let behind = "jobs"; // the address to return to when a job's dialog closes
let comparing = null; // the script of the comparison, once it is there
let compared = null; // the address of the comparison from which a job was opened
let newer = false; // whether the server has a newer version of the page

/** Shows what the address names; `before` is the one that was shown before. */
function route(first = false, before = "") {
  const [name, id] = location.hash.slice(1).split("?")[0].split("/");
  if (name === "main") return; // the skip link, not a view
  if (name in PARTS_OF) return location.replace(`#${PARTS_OF[name]}`);
  const place = places.enter();
  comparing?.closeCompare();
  if (before.startsWith("#compare/")) compared = before;
  else if (!before.startsWith("#job/")) compared = null;
  if (name === "job" && id) {
    const under = history.state.behind ?? behind;
    if (under !== behind || view === null) showAddress(under, first); // Back, or a reload
    compared = history.state.compared ?? compared;
    places.note({ behind, compared });
    openJob(plain(id), left, view === "jobs" ? (state.list.ids ?? []) : view === "overview" ? [...state.latest] : []);
    drawTitle();
  } else if (name === "compare") {
    closeJob();
    const under = history.state.behind ?? (view === "gallery" ? behind : "gallery");
    if (under !== behind || view === null) showAddress(under, first);
    places.note({ behind });
    compare((id ?? "").split(",").filter(Boolean));
  } else {
    closeJob();
    showAddress(location.hash.slice(1), first);
  }
  if (place !== null) places.goTo(place);
}

/** Notes that the dialog of a job was closed, which showed this one last. */
function left(last) {
  if (location.hash.startsWith("#job/") && compared) {
    location.replace(compared);
  } else if (location.hash.startsWith("#job/")) {
    places.rename(behind);
    if (view === "gallery") state.gallery?.focus(last);
  }
  drawTitle();
}

/** Opens the comparison of the videos that the address names, over the view behind it. */
async function compare(ids) {
  const here = location.hash;
  const isHere = () => location.hash === here;
  const leave = () => isHere() && places.rename(behind);
  const act = async () => {
    comparing ??= await script(() => import("./gallery/compare.js"));
    await comparing.openCompare(ids, leave, isHere);
  };
  if (!(await attempt(act, null, { not: "The videos cannot be compared" }))) leave();
}

/** Returns an id of an address as it is written elsewhere; one that is damaged as it stands, so that it is not found. */
function plain(id) {
  try {
    return decodeURIComponent(id);
  } catch {
    return id;
  }
}

/** Shows the view of an address. */
function showAddress(address, first) {
  const [path, query] = address.split("?");
  const [name, id] = path.split("/");
  const params = new URLSearchParams(query ?? "");
  let lost = null;
  const wanted = name === "flow" && id ? "flows" : name in VIEWS ? name : FIRST;
  if (name && wanted === FIRST && name !== FIRST) {
    places.rename(FIRST);
    lost = name;
  }
  if (wanted in LATER) open(wanted, wanted === "gallery" ? params : name === "flow" ? plain(id) : null);
  behind = (lost ? "" : address) || FIRST;
  if (wanted !== view) leaveView(); // before the new view shows messages of its own
  if (wanted === "jobs") filterBy(params);
  if (wanted === "new") startFrom(params);
  show(wanted, first);
  if (lost) showMessage(`There is no view "${lost.slice(0, 40)}".`, "bad", { stays: false });
  if (wanted === "jobs" && !first) load.jobs().catch(() => {}); // the feed reports an unreachable server
}

function show(name, first) {
  const moved = view !== name;
  view = name;
  root.dataset.view = name;
  for (const link of document.querySelectorAll("nav.side a")) {
    if (link.getAttribute("href") === `#${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  drawTitle();
  if (!moved || first) return draw();
  draw();
  feed.showView(name);
  scrollTo({ top: 0 });
  byId(`h-${name}`).focus({ preventScroll: true });
}

/** Opens a view, once its script is there: the gallery under the filters of the address, a flow by its id. */
async function open(name, what) {
  scripts[name] ??= await LATER[name]().catch(() => null);
  changed();
  await scripts[name]?.open?.(what);
}

const missing = (name) => wrong("This view could not be loaded.", () => openAgain(name));

/** Browsers keep that a script could not be loaded. So the page is loaded again, once the server answers. */
async function openAgain(name) {
  const answer = await fetch(`${base}/healthz`, { cache: "no-store" }).catch(() => null);
  if (answer) location.reload();
  else showMessage("The view was not loaded: the server still does not respond.", "bad");
}

/** Shows which keys do what. */
const showShortcuts = () => attempt(async () => (await script(() => import("./base/shortcuts.js"))).show());

function drawTitle() {
  const open = state.alerts.size ? `(${state.alerts.size}) ` : "";
  const job = location.hash.startsWith("#job/") ? state.jobs.get(location.hash.slice("#job/".length)) : null;
  document.title = `${open}${job ? titleOf(job).slice(0, 60) : titles[view]} · wanworks`;
}

function draw() {
  render(document.querySelector(`#${view} .body`), VIEWS[view]());
  drawJob();
  comparing?.drawCompare();
  drawNotice();
  drawConnection();
  drawCounts();
  drawTitle();
  announceEnds();
  liftToasts();
  loadMissing();
}

function drawConnection() {
  const { link, answeredAt, lostAt, isFailing } = feed.feed;
  const age = answeredAt ? (Date.now() - answeredAt) / 1000 : null;
  const [shown, text, more = ""] =
    link === "lost"
      ? ["lost", "disconnected", `, ${hasData() ? `data ${seconds(age)} old` : "no data yet"}`]
      : feed.isStale()
        ? ["stale", "stale", `: last update ${seconds(age)} ago`]
        : isFailing
          ? ["stale", "requests fail", hasData() ? "" : ", no data yet"]
          : { connecting: ["painted", answeredAt ? "connecting…" : "loading…"], live: ["live", "live"], polling: ["polling", "updates every 5 s"] }[link];
  const place = byId("connection");
  if (place.dataset.state !== shown) place.dataset.state = shown;
  render(byId("connection-text"), text, more ? h("span", { class: "rest" }, more) : null);
  place.title = isFailing
    ? "Messages arrive, but the server does not answer requests"
    : lostAt
      ? `Disconnected ${seconds((Date.now() - lostAt) / 1000)} ago; reconnecting`
      : ({ live: "Updates arrive as they happen", polling: "No WebSocket: polling every five seconds" }[link] ?? "");
}

function drawCounts() {
  count("count-jobs", activeCount() ?? 0, "queued, running or paused");
  const unseen = [...state.alerts.values()].filter((alert) => !alert.acknowledged);
  count(
    "count-alerts",
    unseen.length,
    "unacknowledged",
    unseen.some((alert) => alert.severity === "critical") ? "critical" : "",
  );
  const { flower } = state;
  const place = byId("flower"); // present with the admin scope only
  if (flower && place) {
    const label = place.querySelector("small");
    if (flower.reachable) label?.remove();
    else if (!label)
      place.append(Object.assign(document.createElement("small"), { textContent: "not responding" }));
  }
}

function count(id, value, label, level = "") {
  const place = byId(id);
  place.hidden = !value;
  place.title = number(value);
  place.dataset.level = level;
  if (place.dataset.value === String(value)) return;
  place.dataset.value = String(value);
  render(place, value > 9999 ? `${Math.floor(value / 1000)}k` : String(value), h("span", { class: "hidden" }, ` ${label}`));
}

/** Draws the notice above every view: the server is unreachable, data is missing, or the page is outdated. */
function drawNotice() {
  const failed = [...new Set(ESSENTIAL.map((part) => state.notes[part]).filter(Boolean))];
  let notice = null;
  if (feed.feed.link === "lost")
    notice = h(
      "p",
      { key: "lost", class: "note bad" },
      `The server is unreachable. ${hasData() ? "The data shown is out of date; reconnecting." : "There is no data yet; connecting."} Accepted jobs are not lost. If it was stopped, start it again with `,
      h("code", null, "wanworks up"),
      " or as you did before.",
    );
  else if (failed.length)
    notice = h("p", { key: "failed", class: "note bad" }, `Some data could not be loaded. ${failed.join(" ")}`);
  else if (newer)
    notice = h(
      "p",
      { key: "newer", class: "note" },
      "A newer version of this page is available. ",
      h("a", { href: location.pathname, on: { click: () => location.reload() } }, "Reload"),
      ".",
    );
  else if (feed.feed.answeredAt === null) return; // keep the server-rendered notice
  render(byId("notice"), notice);
}

let wasAway = false; // whether the server did not answer since the page was drawn last

/** Loads the page again once the server answers, if the script of the view could not be loaded while it did not. */
function loadMissing() {
  const { link, isFailing } = feed.feed;
  if (link === "lost" || isFailing) wasAway = true;
  else if (wasAway && (link === "live" || link === "polling")) {
    wasAway = false;
    if (scripts[view] === null) location.reload();
  }
}

let restored = null; // ends the message that the connection is restored

async function connectionChanged(event) {
  drawNotice();
  restored?.(); // it may have been lost again meanwhile
  if (event !== "regained") return;
  restored = showMessage("The connection to the server is restored.", "good");
  const response = await fetch(`${base}/`, { method: "HEAD", cache: "no-store" }).catch(() => null); // lost again
  const served = response?.headers.get("X-Wanworks-Page");
  newer = Boolean(served) && served !== document.querySelector("meta[name=wanworks-page]").content;
  changed();
}

// Without a WebSocket, an open or newly created job is polled more often than everything else.
setInterval(async () => {
  if (feed.feed.link !== "polling" || document.hidden) return;
  const id = watched() ?? (view === "new" ? activeJobs()[0]?.id : null);
  if (id) mergeJobs([await load.one(id).catch(() => ({ id: null }))].filter((job) => job.id));
}, FAST_POLL_MS);

state.catalogue = JSON.parse(byId("catalogue").textContent);
whenChanged(draw);
theme.start(byId("theme"));
menus.listen();
byId("refresh").addEventListener("click", async () => {
  retryPictures();
  await feed.refresh();
  if (feed.feed.link !== "lost" && !feed.feed.isFailing) showMessage("Refreshed.");
});
byId("shortcuts").addEventListener("click", showShortcuts);
addEventListener("keydown", (event) => {
  if (event.key !== "?" || event.target.closest("input, select, textarea")) return;
  event.preventDefault();
  showShortcuts();
});
addEventListener("hashchange", (event) => route(false, new URL(event.oldURL).hash));
for (const wrong of ["error", "unhandledrejection"]) {
  addEventListener(wrong, () => showMessage("An error occurred on this page. Reloading it may help.", "bad"));
}
route(true);
feed.start(view, connectionChanged);
changed();
