"use strict";
/* The page of a commit: its tensors, and what it takes, which is counted for the whole store. */
(() => {
  const table = document.getElementById("tensors"), place = document.getElementById("usage");
  const list = erestore.listed(table, document.getElementById("more")), filter = document.getElementById("filter");
  const texts = new Map(list.rows().map(row => [row, row.textContent.toLowerCase()]));
  function show() {
    const has = erestore.wanted(filter), shown = new Set(list.rows().filter(row => has(texts.get(row))));
    document.getElementById("count").textContent = shown.size === texts.size ? `${texts.size}` : `${shown.size} of ${texts.size}`;
    list.filter(row => shown.has(row));
  }
  filter.addEventListener("input", show);
  erestore.sortable(table, list);
  show();
  const bytes = value => `${value.toLocaleString("en")} bytes`;

  async function count() {
    if (!place.isConnected) return;
    const answer = await fetch(`${ui.top}usage/${place.dataset.oid}`);
    const { usages, error } = await answer.json();
    if (answer.status === 202) { setTimeout(count, 500); return; }
    place.replaceChildren(...(usages ?? []).flatMap((usage, at) => [
      ...(at ? [document.createElement("br")] : []),
      `${usages.length > 1 ? `${usage.name}: ` : ""}${bytes(usage.own_bytes)} of its own, ${bytes(usage.shared_bytes)} shared`,
    ]));
    if (error) place.textContent = error;
    place.dataset.known = "yes";
  }

  if (!("unnamed" in place.dataset)) count();
  document.documentElement.dataset.ready = "all";
})();
