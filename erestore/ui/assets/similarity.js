"use strict";
/* The map of how alike variants are. */
(async () => {
  const data = JSON.parse(document.getElementById("data").textContent);
  await erestore.start(["map"]);
  const chart = document.getElementById("map"), order = document.getElementById("order"), said = document.getElementById("cell");
  const count = data.names.length;
  const orders = { clustered: data.order, name: [...data.order].sort((a, b) => data.names[a] < data.names[b] ? -1 : 1) };

  /* The figure comes in the order of clusters, its values in one packed array of float32, little endian. */
  const { data: [trace], layout } = erestore.charts.get("map");
  const packed = atob(trace.z.bdata), bytes = new Uint8Array(packed.length);
  for (let at = 0; at < packed.length; at++) bytes[at] = packed.charCodeAt(at);
  const cosines = new Float32Array(bytes.buffer);
  const places = new Int32Array(count);
  data.order.forEach((variant, place) => { places[variant] = place; });
  const texts = new Map(layout.xaxis.tickvals?.map((value, at) => [value, layout.xaxis.ticktext[at]]));

  /* No taller than wide, so that cells are about square. */
  layout.height = Math.min(layout.height, Math.max(340, Math.round(.95 * chart.clientWidth)));

  let shown;
  function show() {
    return erestore.later("map", () => erestore.redraw("map", () => {
      shown = orders[order.value];
      const columns = Int32Array.from(shown, variant => places[variant]);
      const names = shown.map(variant => erestore.escaped(data.names[variant]));
      trace.x = names;
      trace.y = names;
      trace.z = shown.map(variant => {
        const row = new Float32Array(count), start = places[variant] * count;
        for (let at = 0; at < count; at++) row[at] = cosines[start + columns[at]];
        return row;
      });
      layout.xaxis.range = [-.5, count - .5];
      layout.yaxis.range = [count - .5, -.5];
      for (const axis of [layout.xaxis, layout.yaxis]) {
        if (!axis.tickvals) continue;
        axis.tickvals = names;
        axis.ticktext = names.map(name => texts.get(name));
      }
    }));
  }

  order.addEventListener("change", show);
  chart.on("plotly_doubleclick", show);

  /* A cell that was chosen is said, with a link: a map alone is nothing for a keyboard, the table of pairs is. */
  chart.on("plotly_click", event => {
    const { pointNumber: [row, column], z } = event.points[0];
    const [one, two] = [row, column].map(place => data.names[shown[place]]);
    said.replaceChildren(`${one} and ${two}: cosine ${z.toFixed(3)}. `);
    if (one !== two) said.append(erestore.element("a", "Compare", { href: `${ui.top}compare?rev=${encodeURIComponent(one)}&rev=${encodeURIComponent(two)}` }));
  });
  await show();
  document.documentElement.dataset.ready = "all";
})();
