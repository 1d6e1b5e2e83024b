// A line chart over time: gaps where nothing was measured, a readout by pointer or arrow keys, and a table of the
// same values. Independent of what the values mean.

import { h, render } from "./dom.js";
import { clock, day, NONE } from "./format.js";

const HEIGHT = 140;
const EDGE = { left: 48, right: 10, top: 8, bottom: 20 };
const HOUR_MS = 3_600_000;
const MINUTE_MS = 60_000;
const SLIDE_MS = 10_000; // without new data, the time axis moves this often
const POINTS = 500; // the server sends at most this many
const TABLE_ROWS = 120;
const LABEL_PX = 60; // minimum distance between two labels of the time axis
const DAY_S = 86_400;
const ROUND_SECONDS = [20, 30, 60, 120, 240, 600, 1200, 1800, 3600, 7200, 14_400, 28_800, 43_200, DAY_S, 2 * DAY_S];
const TICKS = { 1: 15 * MINUTE_MS, 24: 6 * HOUR_MS, 168: 24 * HOUR_MS };

const places = new WeakMap(); // plot -> {spec, points, at: index of the readout or null, drawnAt, scale}
const sizes = new ResizeObserver((entries) => {
  for (const { target } of entries) draw(target);
});

/**
 * Returns a chart. `spec`: {title, hours, times [ms], series [{name, values, live?}], format (value -> text),
 * nothing? (what it says without times), inSeconds? (the values are seconds), at? (() -> the time of the present values, ms), top? (the end of the scale), least? (the minimum end of the scale)}.
 * `live()` is what the series is now; without it, that is its last value. Null values were not measured.
 */
export function chart(spec) {
  return h(
    "figure",
    { key: spec.title, class: "chart" },
    h("figcaption", null, h("span", { class: "chart-title" }, spec.title), legend(spec)),
    h("div", {
      class: "plot",
      tabindex: "0",
      role: "slider",
      "aria-label": `${spec.title}: read the values with the arrow keys`,
      own: (plot) => {
        if (!places.has(plot)) {
          places.set(plot, { spec, at: null, drawnAt: -Infinity });
          sizes.observe(plot);
        }
        const place = places.get(plot);
        const isSame = place.spec === spec && place.now === String(present(spec));
        if (isSame && Date.now() - place.drawnAt < SLIDE_MS) return;
        place.spec = spec;
        draw(plot);
      },
      on: {
        pointermove: (event) => read(event.currentTarget, nearest(event)),
        pointerleave: (event) => read(event.currentTarget, null),
        blur: (event) => read(event.currentTarget, null),
        keydown: step,
      },
    }),
    h(
      "details",
      { class: "as-table", on: { toggle: (event) => draw(event.currentTarget.parentNode.querySelector(".plot")) } },
      h("summary", null, "As a table"),
      h("div", {
        class: "scroll",
        tabindex: "0",
        role: "region",
        "aria-label": `${spec.title} as a table`,
        own: (box) => table(box, spec),
      }),
    ),
  );
}

function legend(spec) {
  return h(
    "span",
    { class: "legend" },
    spec.series.map((one, index) =>
      h(
        "span",
        { key: one.name, class: `series-${index + 1}` },
        h("span", { class: "swatch", "aria-hidden": "true" }),
        one.name,
        " ",
        h("b", null, latest(spec, one)),
      ),
    ),
  );
}

/** What each series is now; null: not known. */
const present = (spec) => spec.series.map((one) => one.live?.() ?? null);

/** Adds what the series are now, if that is known, as the last point: the newest measured one is older. */
function withPresent(spec, now) {
  if (!spec.times.length || now.every((value) => value === null)) return spec;
  const series = spec.series.map((one, index) => ({ ...one, values: [...one.values, now[index]] }));
  return { ...spec, times: [...spec.times, spec.at?.() ?? Date.now()], series };
}

function latest(spec, one) {
  const value = one.live ? one.live() : one.values.at(-1);
  return value === null || value === undefined ? NONE : spec.format(value);
}

function draw(plot) {
  const place = places.get(plot);
  if (!place) return;
  const now = present(place.spec);
  const spec = withPresent(place.spec, now);
  Object.assign(place, { drawnAt: Date.now(), now: String(now), points: spec });
  const width = Math.max(plot.clientWidth, 160);
  const until = Math.max(Date.now(), spec.times.at(-1) ?? 0);
  const since = until - spec.hours * HOUR_MS;
  const top =
    spec.top ??
    nice(Math.max(spec.least ?? 0, ...spec.series.flatMap((one) => one.values).filter((value) => value !== null)), spec.inSeconds);
  const x = (time) => EDGE.left + ((time - since) / (until - since)) * (width - EDGE.left - EDGE.right);
  const y = (value) => HEIGHT - EDGE.bottom - (Math.min(value, top) / top) * (HEIGHT - EDGE.top - EDGE.bottom);
  place.scale = { x, width };
  const at = place.at !== null && place.at < spec.times.length ? place.at : null;
  describe(plot, spec, at);
  render(
    plot,
    h(
      "svg",
      { width, height: HEIGHT, viewBox: `0 0 ${width} ${HEIGHT}`, "aria-hidden": "true" },
      (spec.times.length ? [0, top / 2, top] : []).map((value) => [
        h("line", {
          key: `g${value}`,
          class: "grid",
          x1: EDGE.left,
          x2: width - EDGE.right,
          y1: y(value),
          y2: y(value),
        }),
        h(
          "text",
          { key: `t${value}`, class: "tick", x: EDGE.left - 6, y: y(value) + 4, "text-anchor": "end" },
          spec.format(value),
        ),
      ]),
      timeTicks(spec, since, until, width).map((time) =>
        h(
          "text",
          { key: `x${time}`, class: "tick", x: Math.min(x(time), width - 26), y: HEIGHT - 5, "text-anchor": "middle" },
          spec.hours > 24 ? day(time) : clock(time),
        ),
      ),
      spec.series.map((one, index) => line(one, index, spec, x, y, since)),
      at === null ? null : cursor(spec, at, x, y),
    ),
    at === null && spec.times.length === 0 ? h("p", { class: "nothing" }, spec.nothing ?? "no data in this time range") : null,
    at === null ? null : readout(spec, at, x, width),
  );
}

function line(one, index, spec, x, y, since) {
  const runs = [];
  let run = null;
  const gap = Math.max(3.5 * MINUTE_MS, (3 * spec.hours * HOUR_MS) / POINTS);
  const measured = one.values.map((value, at) => [spec.times[at], value]);
  measured.forEach(([time, value]) => {
    if (value === null || value === undefined || time < since) {
      run = null;
      return;
    }
    if (!run || time - run.at(-1)[0] > gap) runs.push((run = []));
    run.push([time, value]);
  });
  const point = ([time, value]) => `${x(time).toFixed(1)} ${y(value).toFixed(1)}`;
  const path = runs.map((points) => `M${points.map(point).join("L")}`).join("");
  const alone = runs.filter((points) => points.length === 1).map(([points]) => points);
  const floor = y(0).toFixed(1);
  const area = runs
    .filter((points) => points.length > 1)
    .map(
      (points) =>
        `M${x(points[0][0]).toFixed(1)} ${floor}L${points.map(point).join("L")}L${x(points.at(-1)[0]).toFixed(1)} ${floor}Z`,
    )
    .join("");
  return h(
    "g",
    { key: one.name, class: `series-${index + 1}` },
    index === 0 ? h("path", { class: "area", d: area }) : null,
    h("path", { class: "line", d: path }),
    alone.map(([time, value]) => h("circle", { key: time, class: "point", cx: x(time), cy: y(value), r: 2.5 })),
  );
}

function cursor(spec, at, x, y) {
  const place = x(spec.times[at]);
  return h(
    "g",
    { key: "cursor" },
    h("line", { class: "cursor", x1: place, x2: place, y1: EDGE.top, y2: HEIGHT - EDGE.bottom }),
    spec.series.map((one, index) =>
      one.values[at] === null || one.values[at] === undefined
        ? null
        : h("circle", { key: one.name, class: `point series-${index + 1}`, cx: place, cy: y(one.values[at]), r: 3.5 }),
    ),
  );
}

function readout(spec, at, x, width) {
  const place = x(spec.times[at]);
  const side =
    place > width / 2 ? { right: `${width - place + 8}px`, left: "auto" } : { left: `${place + 8}px`, right: "auto" };
  return h(
    "div",
    { class: "readout", css: side, "aria-hidden": "true" },
    h("b", null, when(spec, at)),
    spec.series.map((one) => h("span", { key: one.name }, `${one.name} ${valueText(spec, one, at)}`)),
  );
}

const when = (spec, at) => `${spec.hours > 1 ? `${day(spec.times[at])} ` : ""}${clock(spec.times[at])}`;

function valueText(spec, one, at) {
  const value = one.values[at];
  return value === null || value === undefined ? "not measured" : spec.format(value);
}

/** Sets the ARIA values, which screen readers announce. */
function describe(plot, spec, at) {
  const last = Math.max(0, spec.times.length - 1);
  const of = at ?? last;
  plot.setAttribute("aria-valuemin", "0");
  plot.setAttribute("aria-valuemax", String(last));
  plot.setAttribute("aria-valuenow", String(of));
  const text = spec.times.length
    ? `${when(spec, of)}: ${spec.series.map((one) => `${one.name} ${valueText(spec, one, of)}`).join(", ")}`
    : "no data";
  plot.setAttribute("aria-valuetext", text);
}

function read(plot, at) {
  const place = places.get(plot);
  if (place.at === at) return;
  place.at = at;
  draw(plot);
}

function nearest(event) {
  const { points: spec, scale } = places.get(event.currentTarget);
  const pointed = event.clientX - event.currentTarget.getBoundingClientRect().left;
  let best = null;
  spec.times.forEach((time, at) => {
    const distance = Math.abs(scale.x(time) - pointed);
    if (distance < 40 && (best === null || distance < best.distance)) best = { at, distance };
  });
  return best?.at ?? null;
}

function step(event) {
  const plot = event.currentTarget;
  const { points: spec, at } = places.get(plot);
  const last = spec.times.length - 1;
  const from = at ?? last;
  const to = {
    ArrowLeft: from - 1,
    ArrowDown: from - 1,
    ArrowRight: from + 1,
    ArrowUp: from + 1,
    PageDown: from - 10,
    PageUp: from + 10,
    Home: 0,
    End: last,
  }[event.key];
  if (to === undefined || last < 0) return;
  event.preventDefault();
  read(plot, Math.min(last, Math.max(0, to)));
}

function timeTicks(spec, since, until, width) {
  const usual = TICKS[spec.hours] ?? HOUR_MS;
  const every = usual * Math.ceil((LABEL_PX * (until - since)) / (usual * (width - EDGE.left - EDGE.right)));
  const offset = new Date(until).getTimezoneOffset() * MINUTE_MS;
  const ticks = [];
  for (let time = Math.ceil((since - offset) / every) * every + offset; time <= until; time += every) {
    if (time - since > (until - since) * 0.04 && until - time > (until - since) * 0.04) ticks.push(time);
  }
  return ticks;
}

/** Returns a round number that is not below the value and whose half is round too. */
function nice(value, inTime) {
  if (value <= 0) return 1;
  if (inTime && value > 10) return ROUND_SECONDS.find((one) => one >= value) ?? Math.ceil(value / DAY_S) * DAY_S;
  const size = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 4, 5, 8, 10].find((one) => one * size >= value) * size;
}

/** Draws the table, newest row first, only while it is open. */
function table(box, given) {
  if (!box.parentNode?.open) return render(box);
  const spec = withPresent(given, present(given));
  const every = Math.ceil(spec.times.length / TABLE_ROWS);
  const rows = spec.times
    .map((_, at) => at)
    .filter((at) => (spec.times.length - 1 - at) % every === 0)
    .reverse();
  render(
    box,
    h(
      "table",
      { class: "figures" },
      h(
        "thead",
        null,
        h(
          "tr",
          null,
          h("th", { scope: "col" }, "Time"),
          spec.series.map((one) => h("th", { key: one.name, scope: "col" }, one.name)),
        ),
      ),
      h(
        "tbody",
        null,
        rows.map((at) =>
          h(
            "tr",
            { key: spec.times[at] },
            h("th", { scope: "row" }, when(spec, at)),
            spec.series.map((one) => h("td", { key: one.name }, valueText(spec, one, at))),
          ),
        ),
      ),
    ),
  );
}
