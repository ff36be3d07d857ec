"use strict";
// Filters, search, sorting, keys and links of a report. Nothing here makes markup from data.
for (const gallery of document.querySelectorAll("[data-gallery]")) {
  const grid = gallery.querySelector(".grid"), tools = gallery.querySelector(".tools");
  const cards = [...grid.children], texts = new Map();
  const search = tools.querySelector("[data-search]"), problem = tools.querySelector("[data-problem]");
  const sort = tools.querySelector("[data-sort]"), bars = [...gallery.querySelectorAll("[data-bar]")];
  const text = (card) => { if (!texts.has(card)) texts.set(card, card.textContent.toLowerCase()); return texts.get(card); };
  const inBar = (card, bar) => {
    const value = card.getAttribute("data-" + bar.dataset.bar);
    if (bar.dataset.low === undefined) return value === bar.dataset.value;
    if (value === null) return false;
    const last = !bar.nextElementSibling, low = +bar.dataset.low, high = +bar.dataset.high;
    return +value >= low && (last ? +value <= high : +value < high);
  };
  const update = () => {
    const words = search.value.toLowerCase().trim(), pressed = bars.filter((bar) => bar.ariaPressed === "true");
    let shown = 0;
    for (const card of cards) {
      const fits = (!words || text(card).includes(words))
        && [...tools.querySelectorAll("[data-field]")].every((one) => !one.value || card.getAttribute("data-" + one.dataset.field) === one.value)
        && (!problem || !problem.value || (problem.value === "*" ? card.dataset.problems : card.dataset.problems.split("|").includes(problem.value)))
        && pressed.every((bar) => inBar(card, bar));
      card.hidden = !fits;
      shown += fits ? 1 : 0;
    }
    tools.querySelector("[data-count]").textContent = shown.toLocaleString("en") + " shown";
  };
  const order = () => {
    const name = "data-" + sort.value;
    const value = (card) => card.hasAttribute(name) ? +card.getAttribute(name) : Infinity;
    grid.append(...(sort.value ? [...cards].sort((a, b) => value(a) - value(b)) : cards));
  };
  for (const bar of bars) bar.addEventListener("click", () => {
    const on = bar.ariaPressed !== "true";
    for (const other of bars) if (other.dataset.bar === bar.dataset.bar) other.ariaPressed = "false";
    bar.ariaPressed = String(on);
    update();
  });
  tools.addEventListener("input", update);
  tools.addEventListener("submit", (event) => event.preventDefault());
  tools.addEventListener("reset", () => setTimeout(() => { for (const bar of bars) bar.ariaPressed = "false"; if (sort) order(); update(); }));
  if (sort) sort.addEventListener("change", order);
  gallery.reveal = (card) => { if (card.hidden) { tools.reset(); for (const bar of bars) bar.ariaPressed = "false"; card.hidden = false; } };
  update();
}
const go = (card) => { card.focus({preventScroll: true}); card.scrollIntoView({block: "nearest"}); };
const follow = () => {
  const card = document.getElementById(location.hash.slice(1));
  if (card && card.classList.contains("card")) { card.closest("[data-gallery]").reveal(card); go(card); }
};
addEventListener("hashchange", follow);
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea, pre, .scroll, .pictures[tabindex]")) return;
  const step = {j: 1, ArrowRight: 1, ArrowDown: 1, k: -1, ArrowLeft: -1, ArrowUp: -1}[event.key];
  const current = document.activeElement.closest(".card");
  if (!step || (!current && event.key.startsWith("Arrow"))) return;
  const cards = [...(current ? current.closest(".grid") : document).querySelectorAll(".card:not([hidden])")];
  const next = cards[current ? cards.indexOf(current) + step : 0];
  if (next) { event.preventDefault(); go(next); history.replaceState(null, "", "#" + next.id); }
});
document.getElementById("theme").addEventListener("click", () => {
  const dark = getComputedStyle(document.documentElement).colorScheme === "dark"
    || (!document.documentElement.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
  document.documentElement.dataset.theme = dark ? "light" : "dark";
});
if (location.hash) follow();
