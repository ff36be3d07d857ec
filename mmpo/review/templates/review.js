// The keyboard of the review page, and marking spans. Deciding works without it: the page is a form.
"use strict";
(() => {
  const find = (selector) => document.querySelector(selector);
  const typing = (target) => target.closest("input, textarea, select");

  // --- marked spans: places in a side's text, in characters as Python counts them ------------------------------------

  const marks = () => JSON.parse(find("#spans")?.value || "[]");
  const length = (text) => [...text].length;

  function selectedSpan() {
    const selection = getSelection();
    if (!selection.rangeCount || selection.isCollapsed) return null;
    const range = selection.getRangeAt(0);
    const said = range.startContainer.parentElement?.closest(".said");
    const side = ["chosen", "rejected"].find((name) => said?.closest(".side")?.classList.contains(name));
    if (!side || !said.contains(range.endContainer)) return null;
    const before = document.createRange();
    before.setStart(said, 0);
    before.setEnd(range.startContainer, range.startOffset);
    const text = range.toString();
    const start = length(before.toString());
    return { side, start, end: start + length(text), text };
  }

  function mark() {
    const span = selectedSpan();
    if (!span) return say("Select words of one side first, then mark them.");
    const all = marks();
    if (!all.some((one) => one.side === span.side && one.start === span.start && one.end === span.end)) all.push(span);
    find("#spans").value = JSON.stringify(all);
    getSelection().removeAllRanges();
    say("");
    showMarks();
  }

  function rangeOf(span) {
    const said = find(`.side.${span.side} .said`);
    const walker = document.createTreeWalker(said, NodeFilter.SHOW_TEXT);
    const range = document.createRange();
    let at = 0;
    for (let node = walker.nextNode(); node; node = walker.nextNode()) {
      const size = length(node.data);
      const offset = (place) => [...node.data].slice(0, place - at).join("").length;
      if (at <= span.start && span.start <= at + size) range.setStart(node, offset(span.start));
      if (at < span.end && span.end <= at + size) range.setEnd(node, offset(span.end));
      at += size;
    }
    return range;
  }

  function showMarks() {
    const shown = find("#marked");
    if (!shown) return;
    const all = marks();
    shown.textContent = all.map((span) => `“${span.text}” (${span.side})`).join(", ");
    find("#unmark").hidden = !all.length;
    if (window.CSS?.highlights) CSS.highlights.set("marked", new Highlight(...all.map(rangeOf)));
  }

  // --- messages ------------------------------------------------------------------------------------------------------

  function say(text) {
    const message = find("#message");
    message.textContent = text;
    message.hidden = !text;
  }

  function openEdit() {
    const edit = find("#edit");
    if (!edit) return;
    edit.open = true;
    edit.querySelector("textarea").focus();
  }

  // --- events --------------------------------------------------------------------------------------------------------

  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") return event.target.blur?.();
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && find("#edit")?.open) {
      event.preventDefault();
      return find("#edit .save").click();
    }
    if (event.key === "Enter" && event.target.matches("#decide input")) return event.preventDefault();
    if (typing(event.target) || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    const others = {
      ArrowRight: () => find("#next").click(), ArrowLeft: () => find("#previous").click(), m: mark,
      x: () => find("#unmark")?.click(), t: () => find("#note")?.focus(),
    };
    const button = [...document.querySelectorAll("#verdicts button")].find((one) => one.dataset.key === event.key);
    if (!button && !others[event.key]) return;
    event.preventDefault();
    if (button) button.click();
    else others[event.key]();
  });

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button?.id === "open-edit") openEdit();
    if (button?.id === "mark") mark();
    if (button?.id === "unmark") {
      find("#spans").value = "";
      showMarks();
    }
  });
  document.addEventListener("mousedown", (event) => {
    if (event.target.closest("#mark")) event.preventDefault(); // the selection stays
  });

  document.addEventListener("htmx:afterSwap", showMarks);
  document.addEventListener("htmx:sendError", () => say("Not kept: mmpo review does not answer. Start it again, and open the address that it prints."));
  document.addEventListener("htmx:responseError", (event) => say(`Not kept: ${event.detail.xhr.responseText.slice(0, 300)}`));
  showMarks();
})();
