"use strict";
// What a page adds to being read: values at marks, series that hide, tables that sort. Without it all of it is shown.
(() => {
  const REACH = 22; // pixels from a mark within which the pointer means it
  const tip = document.createElement("div");
  tip.id = "tip";
  tip.setAttribute("role", "tooltip");
  tip.hidden = true;
  document.body.append(tip);

  function show(mark) {
    tip.hidden = !mark;
    if (!mark) return;
    tip.textContent = mark.getAttribute("aria-label");
    const box = mark.getBoundingClientRect(), own = tip.getBoundingClientRect();
    const left = (box.left + box.right - own.width) / 2, above = box.top - own.height - 8;
    tip.style.left = `${Math.max(4, Math.min(left, document.documentElement.clientWidth - own.width - 4))}px`;
    tip.style.top = `${above < 4 ? box.bottom + 8 : above}px`;
  }

  const seen = (part) => !part.closest(".off");

  function nearest(marks, x, y) {
    let found = null, least = [REACH, Infinity];
    for (const mark of marks.filter(seen)) {
      const box = mark.getBoundingClientRect();
      const outside = Math.hypot(Math.max(box.left - x, x - box.right, 0), Math.max(box.top - y, y - box.bottom, 0));
      const centre = Math.hypot((box.left + box.right) / 2 - x, (box.top + box.bottom) / 2 - y);
      if (outside < least[0] || (outside === least[0] && centre < least[1])) {
        found = mark;
        least = [outside, centre];
      }
    }
    return found;
  }

  function toggle(group, series) {
    for (const mark of group.querySelectorAll("[data-series]")) {
      if (mark.dataset.series === series) mark.classList.toggle("off");
    }
    for (const entry of group.querySelectorAll("[data-entry]")) {
      if (entry.dataset.entry !== series) continue;
      const hidden = entry.classList.toggle("quiet");
      if (entry.hasAttribute("role")) entry.setAttribute("aria-pressed", String(!hidden));
    }
  }

  const press = (entry) => entry.dispatchEvent(new Event("click"));

  // One stop of the tab key for each figure; arrows go on from its legend's entries to its marks.
  function walk(svg, items) {
    let at = items[0];
    const go = (item) => {
      at.setAttribute("tabindex", "-1");
      at = item;
      at.setAttribute("tabindex", "0");
    };
    items.forEach((item) => item.setAttribute("tabindex", item === at ? "0" : "-1"));
    svg.addEventListener("focusin", (event) => {
      const item = items.find((one) => one === event.target);
      if (item) go(item);
      show(item && item.getAttribute("role") === "img" ? item : null);
    });
    svg.addEventListener("focusout", (event) => {
      show(null);
      if (!svg.contains(event.relatedTarget)) go(items[0]); // which is never hidden, as another may be by then
    });
    svg.addEventListener("keydown", (event) => {
      const shown = items.filter(seen), here = shown.indexOf(at), last = shown.length - 1;
      const [on, back] = [here + 1, here - 1];
      const step = { ArrowRight: on, ArrowDown: on, ArrowLeft: back, ArrowUp: back, Home: 0, End: last };
      if (event.key in step) shown[Math.max(0, Math.min(last, step[event.key]))].focus();
      else if (event.key === "Escape") show(null);
      else if (at.getAttribute("role") === "button" && ["Enter", " "].includes(event.key)) press(at);
      else return;
      event.preventDefault();
    });
  }

  for (const svg of document.querySelectorAll("figure svg")) {
    const group = svg.closest(".panels, #answer") || svg, marks = [], entries = [];
    for (const title of svg.querySelectorAll("[data-series] title")) {
      const mark = title.parentElement;
      mark.setAttribute("role", "img");
      mark.setAttribute("aria-label", title.textContent);
      title.remove(); // or the browser shows it too
      marks.push(mark);
    }
    const drawn = new Set([...svg.querySelectorAll("[data-series]")].map((mark) => mark.dataset.series));
    for (const entry of svg.querySelectorAll("[data-entry]")) {
      if (!drawn.has(entry.dataset.entry)) continue;
      entry.classList.add("entry");
      entry.addEventListener("click", () => toggle(group, entry.dataset.entry));
      if (!entry.querySelector("text")) continue; // the sign beside the text
      entry.setAttribute("role", "button");
      entry.setAttribute("aria-pressed", "true");
      entry.setAttribute("aria-label", entry.dataset.entry);
      entries.push(entry);
    }
    if (!marks.length) continue;
    svg.setAttribute("role", "group");
    for (const kind of ["pointermove", "pointerdown"]) {
      svg.addEventListener(kind, (event) => show(nearest(marks, event.clientX, event.clientY)));
    }
    svg.addEventListener("pointerleave", () => show(null));
    walk(svg, [...entries, ...marks]);
  }

  function value(cell, numeric) {
    const text = cell.dataset.value ?? cell.textContent.trim();
    return numeric ? (text === "" ? NaN : Number(text)) : text;
  }

  function compare(first, second) {
    return typeof first === "number" ? first - second : first < second ? -1 : first > second ? 1 : 0;
  }

  for (const table of document.querySelectorAll("table[id]")) {
    const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
    if (body.rows.length < 2) continue;
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const turn = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", turn > 0 ? "ascending" : "descending");
        const numeric = head.classList.contains("number");
        const rows = [...body.rows].map((row) => [value(row.cells[column], numeric), row]);
        const known = rows.filter(([one]) => one === one), unknown = rows.filter(([one]) => one !== one); // NaN: last
        known.sort(([one], [other]) => turn * compare(one, other));
        body.append(...[...known, ...unknown].map(([, row]) => row));
      });
    });
  }
})();
