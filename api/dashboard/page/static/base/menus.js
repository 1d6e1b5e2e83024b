// Menus are `<details>`: a click beside one, or Escape in it, closes it; so does a choice of what to copy. One that has
// no room below opens upwards, and one that has none to the right ends where its button ends.

const OPEN = "details.menu[open], details.copies[open]";
const MARGIN = 12; // pixels
const HEAD = 64; // of a dialog or of the page, which stays above what scrolls
const LEAST = 120;

export function listen() {
  addEventListener("click", (event) => {
    const chosen = event.target.closest?.(".copies[open] button")?.closest("details");
    for (const menu of document.querySelectorAll(OPEN)) if (!menu.contains(event.target) || menu === chosen) menu.open = false;
    chosen?.querySelector("summary").focus();
  });
  addEventListener("hashchange", () => {
    for (const menu of document.querySelectorAll(OPEN)) menu.open = false;
  });
  addEventListener("keydown", (event) => {
    const menu = event.key === "Escape" && event.target.closest?.(OPEN);
    if (!menu) return;
    event.preventDefault(); // the dialog around it stays open
    menu.open = false;
    menu.querySelector("summary").focus();
  });
  addEventListener("toggle", ({ target }) => target.matches?.(OPEN) && place(target), true);
}

/** Opens the menu where its dialog, or the window, has more room, and lets it scroll where that is not enough. */
function place(menu) {
  const list = menu.querySelector(":scope > :not(summary)");
  menu.classList.remove("up", "end");
  list.style.removeProperty("max-height");
  const { top, bottom } = menu.getBoundingClientRect();
  const around = menu.closest("dialog")?.getBoundingClientRect();
  const right = Math.min(innerWidth, around?.right ?? innerWidth);
  menu.classList.toggle("end", list.getBoundingClientRect().right > right - MARGIN);
  const below = Math.min(innerHeight, around?.bottom ?? innerHeight) - bottom - MARGIN;
  const above = top - Math.max(0, around?.top ?? 0) - HEAD;
  if (list.offsetHeight <= below) return;
  const up = above > below;
  menu.classList.toggle("up", up);
  list.style.setProperty("max-height", `${Math.max(up ? above : below, LEAST)}px`);
}
