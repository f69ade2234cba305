"use strict";
/* The shell around the pages: a link puts its page into this one's place, and pages that were left are kept as they were. */
const ui = (() => {
  const MOST = 8, AGAIN = 300, PATIENCE = 5000, REST = 50, FRESH = 5000;
  const kept = new Map();
  const picked = new Set(JSON.parse(sessionStorage.getItem("picked") ?? "[]"));
  const changed = document.getElementById("changed"), bar = document.getElementById("picked");
  let current = { address: location.href, state: view().dataset.state };
  let turn = 0;

  function view() { return document.getElementById("view"); }
  const top = view().dataset.top;
  const look = () => `${matchMedia("(prefers-color-scheme: dark)").matches} ${innerWidth}`;

  /* Scripts of pages run whenever a page comes into place, once it is on the screen; they say when they are done. */
  function start() {
    const name = view().dataset.script, waiting = view().querySelector("[data-working]");
    document.documentElement.dataset.ready = "no";
    sync();
    if (waiting) { setTimeout(again, AGAIN, turn); }
    if (name) {
      const script = erestore.element("script", undefined, { src: `${top}assets/${name}` });
      script.addEventListener("load", () => script.remove());
      requestAnimationFrame(() => setTimeout(() => document.body.append(script)));
    } else {
      document.documentElement.dataset.ready = waiting ? "working" : "all";
    }
  }

  /* A page is not taken away while its script is at work on it. */
  async function settled() {
    const until = Date.now() + PATIENCE;
    while (!["all", "working"].includes(document.documentElement.dataset.ready) && Date.now() < until) await new Promise(done => setTimeout(done, 10));
  }

  async function fetched(address) {
    try {
      const answer = await fetch(address, { headers: { accept: "text/html" } });
      return new DOMParser().parseFromString(await answer.text(), "text/html");
    } catch {
      const found = new DOMParser().parseFromString("<title>Gone</title><div id='view'><header><h1>The server does not answer</h1></header><main><p class='lead' role='alert'>Start <code>erestore ui</code> again, and open the address that it prints.</p></main></div>", "text/html");
      found.getElementById("view").dataset.top = top;
      return found;
    }
  }

  /* What a pointer rests on, or a keyboard comes to, is likely to be asked for next; what would be computed from weights waits until it is. */
  const READ = /^(commit\/[0-9a-f]+|storage)?$/;
  let ahead, resting;
  function expect(event) {
    clearTimeout(resting);
    const address = event.target.closest?.("a[href]")?.href, place = `${location.origin}${top}`;
    if (!address?.startsWith(place) || !READ.test(address.slice(place.length)) || kept.has(address)) return;
    resting = setTimeout(() => {
      if (ahead?.address !== address || !isFresh(ahead)) ahead = { address, since: Date.now(), found: fetched(address) };
    }, REST);
  }
  const isFresh = ({ since }) => Date.now() - since < FRESH;

  function asked(address) {
    const held = ahead?.address === address && isFresh(ahead) ? ahead.found : undefined;
    ahead = undefined;
    return held ?? fetched(address);
  }

  function leave() {
    if (!view().dataset.state) return;
    const scrolls = [...view().querySelectorAll(".scroll")].map(each => [each, each.scrollTop, each.scrollLeft]);
    kept.delete(current.address);
    kept.set(current.address, { node: view(), charts: new Map(erestore.charts), title: document.title, nav: document.getElementById("views"), look: look(), scrolls, scroll: scrollY });
    if (kept.size > MOST) kept.delete(kept.keys().next().value);
  }

  function place(node, nav, title) {
    view().replaceWith(node);
    document.getElementById("views").replaceWith(nav);
    document.title = title;
  }

  async function go(address, { isNew = true, isKept = true } = {}) {
    const own = ++turn;
    const held = isKept ? kept.get(address) : undefined;
    clearTimeout(resting);
    const found = held ? undefined : await (isKept ? asked(address) : fetched(address));
    await settled();
    if (own !== turn) return;
    leave();
    if (isNew && address !== location.href) history.pushState(null, "", address);
    current = { address };
    erestore.charts.clear();
    if (held) {
      place(held.node, held.nav, held.title);
      for (const [name, figure] of held.charts) erestore.charts.set(name, figure);
      for (const [each, up, left] of held.scrolls) each.scrollTo(left, up);
      scrollTo(0, held.scroll);
      if (held.look !== look()) erestore.refit();
      erestore.resume();
      sync();
      document.documentElement.dataset.ready = "all";
    } else {
      put(found);
      scrollTo(0, 0);
    }
    current.state = view().dataset.state;
    const heading = view().querySelector("h1");
    heading?.setAttribute("tabindex", "-1");
    heading?.focus({ preventScroll: true });
    check();
  }

  function put(found) {
    const next = found.getElementById("view");
    /* A parser takes what is there for browsers without scripts for part of the page. */
    for (const each of next.querySelectorAll("noscript")) each.remove();
    place(document.adoptNode(next), document.adoptNode(found.getElementById("views") ?? document.getElementById("views").cloneNode(true)), found.title);
    start();
  }

  /* Ask again for what is being worked on. */
  async function again(own) {
    if (own !== turn) return;
    const found = await fetched(current.address);
    await settled();
    if (own !== turn) return;
    put(found);
    current.state = view().dataset.state;
  }

  function reload() {
    kept.clear();
    ahead = undefined;
    changed.hidden = true;
    view().dataset.state = "";
    return go(location.href, { isNew: false, isKept: false });
  }

  /* Names may have moved since this was read; what is shown stays until somebody asks for more. */
  async function check() {
    if (!current.state) return;
    try {
      const { state } = await (await fetch(`${top}state`)).json();
      changed.hidden = !state || !current.state || state === current.state;
    } catch { /* the next click says that the server is gone */ }
  }

  function sync() {
    for (const box of view().querySelectorAll("input[data-pick]")) box.checked = picked.has(box.dataset.pick);
    sessionStorage.setItem("picked", JSON.stringify([...picked]));
    const names = [...picked], link = bar.querySelector("a");
    bar.hidden = !names.length;
    bar.querySelector("span").textContent = `${names.length} picked: ${names.slice(0, 3).join(", ")}${names.length > 3 ? ` and ${names.length - 3} more` : ""}`;
    link.hidden = names.length < 2;
    link.href = `${top}compare?${names.map(name => `rev=${encodeURIComponent(name)}`).join("&")}`;
  }

  document.addEventListener("click", event => {
    const link = event.target.closest("a[href]");
    if (!link || event.defaultPrevented || event.button || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
    if (!link.href.startsWith(`${location.origin}${top}`)) return;
    event.preventDefault();
    go(link.href);
  });
  for (const kind of ["pointerover", "focusin"]) document.addEventListener(kind, expect, { passive: true });
  document.addEventListener("change", event => {
    const box = event.target.closest("input[data-pick]");
    if (!box) return;
    box.checked ? picked.add(box.dataset.pick) : picked.delete(box.dataset.pick);
    sync();
  });
  bar.querySelector("button").addEventListener("click", () => { picked.clear(); sync(); });
  changed.querySelector("button").addEventListener("click", reload);
  addEventListener("popstate", () => go(location.href, { isNew: false }));
  addEventListener("focus", check);
  history.scrollRestoration = "manual";
  start();
  return { go, reload, top };
})();
