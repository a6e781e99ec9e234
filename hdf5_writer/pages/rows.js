"use strict";
(() => {
  const pieces = JSON.parse(document.getElementById("pieces").textContent);
  const status = document.getElementById("token");
  const FIRST = 300; // tokens of a long run that are shown before "show all" is clicked
  let picked = null;

  // Positions marked as different, parsed from "12-15 40-41".
  const changedOf = (side) => {
    if (!side.changedSet) {
      side.changedSet = new Set();
      for (const span of side.dataset.changed.split(" ").filter(Boolean)) {
        const [start, end] = span.split("-").map(Number);
        for (let p = start; p < end; p++) side.changedSet.add(p);
      }
    }
    return side.changedSet;
  };

  const fill = (box, all) => {
    const side = box.closest(".side");
    const table = pieces[Number(side.dataset.side)];
    const changed = changedOf(side);
    const ids = box.dataset.ids.split(" ");
    const start = Number(box.dataset.at);
    const last = all ? ids.length : Math.min(ids.length, FIRST);
    const fragment = document.createDocumentFragment();
    for (let i = box.childElementCount; i < last; i++) {
      const token = document.createElement("span");
      token.className = changed.has(start + i) ? "t changed" : "t";
      token.dataset.p = start + i;
      token.dataset.id = ids[i];
      const piece = table[ids[i]];
      token.textContent = piece === "<0x0A>" ? "⏎" : piece.replaceAll("\n", "⏎");
      fragment.append(token);
    }
    box.append(fragment);
  };

  const open = (run, box, button) => {
    run.classList.remove("clamped");
    fill(box, true);
    button.remove();
  };

  const fillRow = (row) => {
    if (row.dataset.filled) return;
    row.dataset.filled = "1";
    for (const box of row.querySelectorAll(".tokens")) {
      const start = Number(box.dataset.at);
      const count = box.dataset.ids.split(" ").length;
      const changed = [...changedOf(box.closest(".side"))];
      // Marked differences are never hidden.
      const all = changed.some((p) => p >= start + FIRST && p < start + count);
      fill(box, all);
      if (all || count <= FIRST) continue;
      const run = box.closest(".run");
      run.classList.add("clamped");
      const button = document.createElement("button");
      button.textContent = `show all ${count.toLocaleString("en")} tokens`;
      button.addEventListener("click", () => open(run, box, button));
      box.after(button);
    }
    const folds = [...row.querySelectorAll("details.fold")];
    for (const fold of folds) fold.open = fold.querySelector(".changed") !== null;
  };

  // Rows are filled shortly before they scroll into view, so that a page of many long rows opens quickly.
  const rows = [...document.querySelectorAll(".row")];
  const observer = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) fillRow(entry.target);
  }, { rootMargin: "1500px" });
  for (const row of rows) observer.observe(row);
  rows.slice(0, 3).forEach(fillRow);
  addEventListener("beforeprint", () => {
    rows.forEach(fillRow);
    for (const button of document.querySelectorAll(".run button")) button.click();
    for (const fold of document.querySelectorAll(".row details.fold, .row details.sample")) fold.open = true;
  });

  const show = (event) => {
    const token = event.target.closest(".t");
    if (picked) picked.classList.remove("picked");
    picked = token;
    if (!token) {
      status.textContent = "";
      return;
    }
    const side = token.closest(".side");
    const position = Number(token.dataset.p);
    const piece = pieces[Number(side.dataset.side)][token.dataset.id];
    const supervised = token.parentElement.classList.contains("supervised");
    token.classList.add("picked");
    status.textContent = `${piece}   id ${token.dataset.id} · position ${position}`
      + (position === Number(side.dataset.used) ? " (label only)" : "")
      + (supervised ? ` · supervised, loss at ${position - 1}` : " · context, no loss");
  };
  document.addEventListener("mouseover", show);
  document.addEventListener("click", show);

  const main = document.querySelector("main");
  const tokens = document.getElementById("show-tokens");
  tokens.addEventListener("change", () => main.classList.toggle("no-tokens", !tokens.checked));
  const ids = document.getElementById("show-ids");
  ids.addEventListener("change", () => main.classList.toggle("ids", ids.checked));
})();
