"use strict";
/* The page of a lineage: the graph and the list show the same commits, those that the filter leaves. */
(async () => {
  const data = JSON.parse(document.getElementById("data").textContent);
  await erestore.start(["lineage"]);
  const table = document.getElementById("commits");
  if (!table) { document.documentElement.dataset.ready = "all"; return; }

  const LABELLED = 40;
  const byOid = new Map(data.entries.map(entry => [entry.commit, entry]));
  const list = erestore.listed(table, document.getElementById("more"));
  const rows = new Map(list.rows().map(row => [row.dataset.commit, row]));
  const search = new Map([...rows].map(([oid, row]) => [oid, row.dataset.search]));
  const chart = document.getElementById("lineage"), figure = erestore.charts.get("lineage");
  const across = document.getElementById("across"), filter = document.getElementById("filter");
  const count = document.getElementById("count");
  /* How each commit is drawn, as the figure came. */
  const marks = new Map();
  for (const trace of figure.data) {
    trace.customdata.forEach((oid, at) => marks.set(oid, { about: trace.hovertext[at], size: trace.marker.size[at] }));
  }
  const branches = new Set(data.entries.filter(({ refs, tags }) => refs.some(ref => !tags.includes(ref))).map(({ commit }) => commit));
  const chosen = new Set();

  function name(oid) {
    const entry = byOid.get(oid);
    return entry?.refs.find(ref => !entry.tags.includes(ref)) ?? entry?.refs[0] ?? oid.slice(0, 12);
  }

  const times = new Map(data.entries.map(({ commit, time }) => [commit, Date.parse(time)]));
  const column = oid => across.value === "time" ? times.get(oid) : data.places[oid][0];
  /* Which lines turn, and which lead straight. */
  const ways = new Map(figure.layout.shapes.map(({ name, path }) => [name, !path.includes("L")]));
  /* Former versions have no name, their oids would cover those of later ones. */
  const label = oid => byOid.get(oid).refs.length ? erestore.escaped(name(oid).length > 22 ? `${name(oid).slice(0, 21)}…` : name(oid)) : "";

  /* Ends of the axis, with room for names to the right of marks. */
  function ends(values, isLabelled) {
    const first = values.reduce((one, two) => Math.min(one, two), Infinity), last = values.reduce((one, two) => Math.max(one, two), -Infinity);
    if (!values.length) return [0, 1];
    const room = across.value === "time" ? Math.max((last - first) / 12, 30_000) : 1;
    return [first - .3 * room, last + .3 * room + (isLabelled ? .25 * (last - first + room) : 0)];
  }

  const step = (from, to) => across.value === "time" ? null : erestore.step(from, to);

  /* Lines from commits to their parents: straight, or along a lane and up or down where the parent is. */
  function path(entries, lane, turns) {
    const below = new Map();
    for (const { commit, parents } of entries) {
      for (const parent of parents) {
        if (byOid.has(parent)) below.has(parent) ? below.get(parent).push(commit) : below.set(parent, [commit]);
      }
    }
    const parts = [];
    for (const [parent, children] of below) {
      const x = column(parent), y = lane(parent), lanes = children.map(lane);
      if (turns) parts.push(`M${x},${Math.min(y, ...lanes)}V${Math.max(y, ...lanes)}`);
      children.forEach((child, at) => parts.push(turns ? `M${x},${lanes[at]}H${column(child)}` : `M${x},${y}L${column(child)},${lanes[at]}`));
    }
    return parts.join("") || "M0,0";
  }

  /* Commits that are shown, and those that they were made from, faint; lanes that stay empty are left out. */
  function draw(shown) {
    const faint = new Set();
    const waiting = shown.size === byOid.size ? [] : [...shown];
    while (waiting.length) {
      for (const parent of byOid.get(waiting.pop()).parents) {
        if (byOid.has(parent) && !shown.has(parent) && !faint.has(parent)) { faint.add(parent); waiting.push(parent); }
      }
    }
    const drawn = data.entries.filter(({ commit }) => shown.has(commit) || faint.has(commit));
    const used = [...new Set(drawn.map(({ commit }) => data.places[commit][1]))].sort((a, b) => a - b);
    const lanes = new Map(used.map((lane, at) => [lane, at]));
    const lane = oid => lanes.get(data.places[oid][1]);
    const isLabelled = used.length <= LABELLED;
    return erestore.redraw("lineage", held => {
      for (const trace of held.data) {
        const oids = drawn.filter(entry => entry.edge === trace.name).map(entry => entry.commit);
        trace.x = oids.map(column);
        trace.y = oids.map(lane);
        trace.customdata = oids;
        trace.hovertext = oids.map(oid => marks.get(oid).about);
        trace.mode = isLabelled ? "markers+text" : "markers";
        trace.text = isLabelled ? oids.map(label) : [];
        trace.marker.size = oids.map(oid => marks.get(oid).size + (chosen.has(oid) ? 8 : 0));
        trace.marker.opacity = faint.size ? oids.map(oid => shown.has(oid) ? 1 : .3) : 1;
        trace.visible = oids.length ? true : "legendonly";
      }
      for (const lines of held.layout.shapes) lines.path = path(drawn.filter(entry => entry.edge === lines.name), lane, ways.get(lines.name));
      held.layout.height = Math.min(620, Math.max(260, 110 + 26 * used.length));
      held.layout.xaxis.type = across.value === "time" ? "date" : "linear";
      held.layout.xaxis.title.text = across.value;
      held.layout.xaxis.tickformat = across.value === "time" ? "" : "d";
      held.layout.xaxis.range = ends(drawn.map(({ commit }) => column(commit)), isLabelled);
      held.layout.xaxis.dtick = step(...held.layout.xaxis.range);
      const edge = Math.max(.6, .02 * used.length);
      held.layout.yaxis.range = [used.length - 1 + edge, -edge];
    });
  }

  function wanted() {
    const has = erestore.wanted(filter);
    const kind = document.getElementById("kind").value, base = document.getElementById("base")?.value ?? "";
    const named = document.getElementById("named").checked;
    return new Set(data.entries.map(entry => entry.commit).filter(oid => {
      const { kind: its, base: on } = rows.get(oid).dataset;
      return (!kind || its === kind) && (!base || on === base) && (!named || branches.has(oid))
        && has(search.get(oid));
    }));
  }

  /* The list answers at once; the graph, which takes longer, when it is on the screen, and only for the last of several keys. */
  function show() {
    const shown = wanted();
    list.filter(row => shown.has(row.dataset.commit));
    count.textContent = shown.size === rows.size ? `${rows.size}` : `${shown.size} of ${rows.size}`;
    return erestore.later("lineage", () => draw(shown));
  }

  function zoom(factor) {
    const ranges = {};
    for (const axis of ["xaxis", "yaxis"]) {
      const { range, r2l, l2r } = chart._fullLayout[axis];
      const [from, to] = range.map(r2l), middle = (from + to) / 2;
      ranges[`${axis}.range`] = [middle + (from - middle) * factor, middle + (to - middle) * factor].map(l2r);
    }
    Plotly.relayout(chart, ranges);
  }

  function choose(oid) {
    for (const other of chosen) rows.get(other)?.classList.remove("chosen");
    chosen.clear();
    chosen.add(oid);
    rows.get(oid).classList.add("chosen");
    list.reach(rows.get(oid));
    rows.get(oid).scrollIntoView({ block: "nearest" });
    details(byOid.get(oid));
  }

  /* What the list's entry says, for a page that has no other pages to lead to. */
  function details(entry) {
    const place = document.getElementById("details");
    const root = data.places[entry.commit][2];
    const bytes = value => `${value.toLocaleString("en")} bytes`;
    const facts = {
      Commit: entry.commit,
      Names: entry.refs.map(ref => entry.tags.includes(ref) ? `${ref} (tag)` : ref).join(", "),
      Kind: entry.edge,
      From: entry.parents.map(name).join(", "),
      Base: root && root !== entry.commit ? name(root) : "",
      Author: entry.author,
      Date: entry.time,
      Stored: bytes(entry.stored_bytes),
      Checkpoint: bytes(entry.original_bytes),
      Exact: entry.exact ? "yes" : "no",
      "Relative error": entry.relative_error,
      "Error at most": entry.relative_error === null ? entry.error_bound : "",
      "Without the exact remainder": entry.exact && entry.lossy_error ? entry.lossy_error : "",
      ...Object.fromEntries(Object.entries(entry.metrics).map(([key, value]) => [`Metric ${key}`, value])),
    };
    place.querySelector("h2").textContent = name(entry.commit);
    place.querySelector("dl").replaceChildren(...Object.entries(facts).flatMap(([key, value]) =>
      value === "" || value === null ? [] : [erestore.element("dt", key), erestore.element("dd", value)]));
    place.querySelector("pre").textContent = entry.message;
    place.hidden = false;
  }

  for (const id of ["filter", "kind", "base", "named", "across"]) document.getElementById(id)?.addEventListener("input", show);
  document.getElementById("nearer").addEventListener("click", () => zoom(.5));
  document.getElementById("farther").addEventListener("click", () => zoom(2));
  document.getElementById("whole").addEventListener("click", show);
  chart.on("plotly_doubleclick", show);
  /* Names of what is zoomed in on, where there is room for them. */
  chart.on("plotly_relayout", () => {
    const { xaxis, yaxis } = chart._fullLayout, [bottom, top] = yaxis.range, [left, right] = xaxis.range.map(xaxis.r2l);
    const inside = (x, y) => y <= bottom && y >= top && xaxis.d2l(x) >= left && xaxis.d2l(x) <= right;
    const dtick = step(left, right), isLabelled = bottom - top <= LABELLED;
    if ((chart.layout.xaxis.dtick ?? null) !== dtick) { Plotly.relayout(chart, { "xaxis.dtick": dtick }); return; }
    const texts = figure.data.map(trace => isLabelled
      ? trace.customdata.map((oid, at) => inside(trace.x[at], trace.y[at]) ? label(oid) : "") : []);
    if (texts.every((own, at) => own.join() === figure.data[at].text?.join())) return;
    Plotly.restyle(chart, { text: texts, mode: isLabelled ? "markers+text" : "markers" });
  });
  erestore.sortable(table, list);

  if (document.getElementById("details")) {
    chart.on("plotly_click", event => choose(event.points[0].customdata));
    table.addEventListener("click", event => {
      if (event.target.matches("button.name")) choose(event.target.closest("tr").dataset.commit);
    });
  } else {
    chart.on("plotly_click", event => ui.go(rows.get(event.points[0].customdata).querySelector("a").href));
  }
  await show();
  document.documentElement.dataset.ready = "all";
})();
