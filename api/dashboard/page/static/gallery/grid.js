// The grid of the gallery. Only the cells near the visible part are in the document; the others are empty space, so the
// scroll bar is right from the start. A video plays, muted, while the pointer or the keyboard's focus is on it.

import { h, render } from "../base/dom.js";
import { ago, moment, size } from "../base/format.js";
import { PAGE, loadPage, own, toggle, videoAt } from "./gallery.js";
import { thumbnail } from "../base/parts.js";
import { toggleFavourite } from "./marks.js";
import { afterDrawing, changed } from "../base/state.js";

const MOST_CELLS = 240;
const GAP = 14;
const CAPTION = 94; // two lines of the title, and two about it
const ROOM = 200; // pixels, which a seed and a time need beside each other
const REST_MS = 90; // pages are loaded once the scrolling rests for this long
const HOVER_MS = 120;

const stillness = matchMedia("(prefers-reduced-motion: reduce)");

let place = null; // the element
let current = 0; // index of the one cell that Tab reaches; the arrow keys move to the others
let layout = { columns: 1, width: 200, row: 200 };
let alike = new Set(); // prompts that several of the videos in the document have
let playing = null; // id
let starting = null;
let resting = null;
let wanted = false;

for (const event of ["scroll", "resize"]) addEventListener(event, schedule, { passive: true });

/** Returns the grid, which draws its content itself. */
export function grid() {
  return h("ul", { key: "grid", class: "cells", "aria-label": "Videos, newest first", own: draw, on: { keydown, focusin } });
}

function schedule() {
  if (wanted || document.documentElement.dataset.view !== "gallery") return;
  wanted = true;
  requestAnimationFrame(() => {
    wanted = false;
    if (place?.isConnected && own.total) draw(place);
  });
}

function draw(element) {
  place = element;
  if (!element.isConnected) {
    queueMicrotask(() => element.isConnected && draw(element)); // it is about to be, and has no width before
    return;
  }
  measure(element.clientWidth || 1);
  const { columns, row } = layout;
  const rows = Math.ceil(own.total / columns);
  element.style.setProperty("height", `${rows * row}px`);
  const above = -element.getBoundingClientRect().top;
  const around = Math.max(1, Math.min(2, Math.floor((MOST_CELLS / columns - innerHeight / row) / 2)));
  const first = Math.max(0, Math.floor(above / row) - around);
  const last = Math.min(rows, Math.ceil((above + innerHeight) / row) + around, first + Math.max(1, Math.floor(MOST_CELLS / columns)));
  const cells = [];
  alike = likenesses(first * columns, Math.min(own.total, last * columns));
  const focused = indexOf(document.activeElement);
  const [top, bottom] = [above, above + innerHeight].map((edge) => Math.ceil(Math.max(0, edge) / row) * columns);
  if (focused === null && (current < top || current >= bottom)) current = Math.min(top, own.total - 1);
  for (let index = first * columns; index < Math.min(own.total, last * columns); index += 1) cells.push(cell(index));
  // The focused cell stays, so that the keyboard does not lose its place.
  if (focused !== null && (focused < first * columns || focused >= last * columns) && focused < own.total) cells.push(cell(focused));
  render(element, cells);
  clearTimeout(resting);
  resting = setTimeout(() => fetchRange(first * columns, last * columns), REST_MS);
}

/** Returns the prompts that several of these videos have: their seeds tell them apart. */
function likenesses(first, end) {
  const seen = new Set();
  const twice = new Set();
  for (let index = first; index < end; index += 1) {
    const prompt = videoAt(index)?.prompt;
    if (seen.has(prompt)) twice.add(prompt);
    seen.add(prompt);
  }
  return twice;
}

function measure(width) {
  const least = width < 520 ? 148 : width < 1800 ? 216 : 264;
  const columns = Math.max(1, Math.floor((width + GAP) / (least + GAP)));
  const each = (width - GAP * (columns - 1)) / columns;
  layout = { columns, width: each, row: Math.round((each * 9) / 16 + CAPTION + GAP) };
}

function fetchRange(first, end) {
  for (let page = Math.floor(first / PAGE); page * PAGE < Math.min(end, own.total); page += 1) loadPage(page);
}

function cell(index) {
  const { columns, width, row } = layout;
  const video = videoAt(index);
  const at = { transform: `translate(${(index % columns) * (width + GAP)}px, ${Math.floor(index / columns) * row}px)`, width: `${width}px`, height: `${row - GAP}px` };
  const props = { key: index, class: "cell", css: at, "data-index": index, "aria-setsize": own.total, "aria-posinset": index + 1 };
  if (!video) return h("li", { ...props, "aria-label": "Loading…" }, h("span", { class: "frame" }));
  const title = video.prompt;
  const chosen = own.selected.has(video.id);
  const tabindex = index === current ? null : "-1";
  const over = { pointerenter: () => begin(video, true), pointerleave: () => end(video) };
  return h(
    "li",
    { ...props, class: `cell${chosen ? " chosen" : ""}`, "data-job": video.id, on: over },
    h(
      "a",
      {
        class: "cell-link",
        tabindex,
        "aria-keyshortcuts": "x f",
        href: `#job/${video.id}`,
        on: { focus: () => begin(video), blur: () => end(video) },
      },
      h(
        "span",
        { class: "frame" },
        thumbnail(video.thumbnail?.url, { key: video.id, decoding: "async" }),
        playing === video.id && video.video
          ? h("video", { key: `v-${video.id}`, src: video.video.url, loop: true, playsinline: true, "aria-hidden": "true", tabindex: "-1", made: play })
          : null,
      ),
      h("span", { class: "cell-title" }, title),
      h(
        "span",
        { class: "small muted cell-about", title: `${video.model_id} · ${size(video.size)} · seed ${video.seed} · ${moment(video.finished_at)}` },
        h("span", null, `${video.model_id} · ${size(video.size)}`),
        h("span", null, [alike.has(title) ? `seed ${video.seed}` : "", alike.has(title) && width < ROOM ? "" : ago(video.finished_at)].filter(Boolean).join(" · ")),
      ),
    ),
    h("input", {
      type: "checkbox",
      class: "pick",
      tabindex,
      "aria-label": `Select: ${title.slice(0, 80)}`,
      own: (box) => {
        box.checked = chosen;
      },
      on: {
        click: (event) => toggle(index, event.shiftKey),
      },
    }),
    h(
      "button",
      {
        type: "button",
        class: "star",
        tabindex,
        "aria-pressed": String(video.favourite),
        "aria-label": `Favourite: ${title.slice(0, 80)}`,
        title: video.favourite ? "Favourite: kept until you delete it" : "Make it a favourite",
        on: { click: () => toggleFavourite(video) },
      },
      h("span", { "aria-hidden": "true" }, video.favourite ? "★" : "☆"),
    ),
  );
}

// --- playing

function begin(video, waits = false) {
  if (stillness.matches) return;
  clearTimeout(starting);
  starting = setTimeout(() => set(video.id), waits ? HOVER_MS : 0);
}

function end(video) {
  clearTimeout(starting);
  if (playing === video.id) set(null);
}

function set(id) {
  if (playing === id) return;
  playing = id;
  schedule();
}

function play(element) {
  element.muted = true;
  element.play().catch(() => {}); // it was left before it began, or cannot be played here
}

// --- keyboard

function indexOf(element) {
  const found = element?.closest?.(".cells > .cell");
  return found ? Number(found.dataset.index) : null;
}

function focusin(event) {
  const index = indexOf(event.target);
  if (index === null || index === current) return;
  current = index;
  schedule();
}

function keydown(event) {
  const index = indexOf(event.target);
  if (index === null || event.ctrlKey || event.metaKey || event.altKey) return;
  const { columns } = layout;
  const visible = Math.max(1, Math.floor(innerHeight / layout.row)) * columns;
  const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns, PageUp: -visible, PageDown: visible, Home: -index, End: own.total - 1 - index };
  const video = videoAt(index);
  const key = event.key.toLowerCase();
  if (event.key in steps) {
    const next = Math.min(own.total - 1, Math.max(0, index + steps[event.key]));
    if (event.shiftKey) {
      own.anchor ??= index;
      toggle(next, true);
    }
    focusCell(next);
  } else if (key === "x" && video) toggle(index, event.shiftKey);
  else if (key === "f" && video) toggleFavourite(video);
  else return;
  event.preventDefault();
}

/** Scrolls to a cell and focuses it, once it is loaded. */
export function focusCell(index) {
  if (!place?.isConnected) return;
  const top = place.getBoundingClientRect().top + scrollY + Math.floor(index / layout.columns) * layout.row;
  const margin = 130; // what stays above the page
  const below = 140; // what stays below it: the bar of the selection, and on a phone that of the views
  if (top < scrollY + margin) scrollTo({ top: top - margin });
  else if (top + layout.row > scrollY + innerHeight - below) scrollTo({ top: top + layout.row - innerHeight + below });
  draw(place);
  const focus = () => place.querySelector(`[data-index="${index}"] .cell-link`)?.focus({ preventScroll: true });
  if (videoAt(index)) focus();
  else loadPage(Math.floor(index / PAGE)).then(() => afterDrawing(focus));
  changed();
}
