"use strict";
/* What names take: bars of those that the filter leaves, and a table of all. */
(async () => {
  const data = JSON.parse(document.getElementById("data").textContent);
  await erestore.start(["usage"]);
  const MOST = 40;
  const table = document.getElementById("names"), chart = document.getElementById("usage");
  const list = erestore.listed(table, document.getElementById("more"));
  const rows = new Map(list.rows().map(row => [row.querySelector("a").textContent, row]));
  const filter = document.getElementById("filter"), kind = document.getElementById("kind"), first = document.getElementById("first");
  const total = usage => usage.own_bytes + usage.shared_bytes;
  const orders = {
    total: (a, b) => total(b) - total(a),
    own: (a, b) => b.own_bytes - a.own_bytes,
    name: () => 0,
  };
  const short = name => erestore.escaped(name.length > 28 ? `${name.slice(0, 27)}…` : name);

  function show() {
    const has = erestore.wanted(filter);
    const shown = data.variants.filter(usage => (!kind.value || usage.kind === kind.value) && has(usage.name.toLowerCase()));
    const found = new Set(shown.map(usage => rows.get(usage.name)));
    list.filter(row => found.has(row));
    document.getElementById("count").textContent = shown.length === rows.size ? `${rows.size}` : `${shown.length} of ${rows.size}`;
    const drawn = shown.toSorted(orders[first.value]).slice(0, MOST);
    return erestore.later("usage", () => erestore.redraw("usage", figure => {
      const places = drawn.map((_, place) => place);
      for (const trace of figure.data) {
        trace.y = places;
        trace.x = drawn.map(usage => usage[trace.meta]);
        trace.customdata = drawn.map(usage => usage.name);
        trace.hovertext = drawn.map(usage => `${erestore.escaped(usage.name)}: ${usage[trace.meta].toLocaleString("en")} bytes ${trace.name}`);
      }
      figure.layout.height = 110 + 20 * Math.max(3, drawn.length);
      figure.layout.yaxis.range = [drawn.length - .5, -.5];
      figure.layout.yaxis.tickvals = places;
      figure.layout.yaxis.ticktext = drawn.map(usage => short(usage.name));
    }));
  }

  for (const input of [filter, kind, first]) input.addEventListener("input", show);
  chart.on("plotly_doubleclick", show);
  chart.on("plotly_click", event => ui.go(rows.get(event.points[0].customdata).querySelector("a").href));
  erestore.sortable(table, list);
  await show();
  document.documentElement.dataset.ready = "all";
})();
