// Keeps how far each address of the browser's history was scrolled, so that Back and reloading return to the same place.
// An entry of the history has a key of its own in its state, beside the address behind an open job.

const KEPT = 50;
const SAVED = "wanworks-places";
const PATIENCE_MS = 3_000;

const places = new Map(read()); // pixels, by key
let here = null; // the key of the present entry
let attempts = 0;

history.scrollRestoration = "manual"; // the browser would scroll before the view is drawn
addEventListener("pagehide", () => {
  keep();
  try {
    sessionStorage.setItem(SAVED, JSON.stringify([...places]));
  } catch {
    // full, or forbidden: then reloading starts at the top
  }
});
// What the user does goes first.
for (const event of ["wheel", "touchstart", "pointerdown", "keydown"]) addEventListener(event, () => (attempts += 1), { passive: true });

function read() {
  try {
    return JSON.parse(sessionStorage.getItem(SAVED)) ?? [];
  } catch {
    return [];
  }
}

function keep() {
  if (here === null) return;
  places.delete(here);
  places.set(here, scrollY);
  if (places.size > KEPT) places.delete(places.keys().next().value);
}

/**
 * Notes that the address has changed. Returns how far its entry was scrolled when it was left; null: it is new. Call it
 * before the new view is drawn.
 */
export function enter() {
  keep();
  const known = history.state?.key;
  here = known ?? crypto.getRandomValues(new Uint32Array(2)).join("-");
  if (!known) note({});
  return known ? (places.get(known) ?? 0) : null;
}

/** Keeps facts with the present entry of the history. */
export const note = (facts) => history.replaceState({ ...history.state, key: here, ...facts }, "");

/** Changes the address of the present entry. */
export const rename = (address) => history.replaceState(history.state, "", `#${address}`);

/** Scrolls to a place as soon as the view is high enough, unless the user does something before. */
export function goTo(top) {
  attempts += 1;
  const mine = attempts;
  const until = Date.now() + PATIENCE_MS;
  const step = () => {
    if (mine !== attempts) return;
    scrollTo({ top, behavior: "instant" });
    if (scrollY < top - 1 && Date.now() < until) requestAnimationFrame(step);
  };
  step();
}
