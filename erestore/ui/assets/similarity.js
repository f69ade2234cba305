"use strict";
/* The map of how alike variants are. */
(async () => {
  const data = JSON.parse(document.getElementById("data").textContent);
  await erestore.start();
  const chart = document.getElementById("map"), said = document.getElementById("cell");
  /* The figure comes in the order of clusters, its values in one packed array. */
  const first = chart._fullData[0], count = data.names.length;
  const rows = first.z.map(row => Float32Array.from(row, value => value ?? NaN));
  const at = data.order;
  const inverse = new Int32Array(count);
  at.forEach((variant, place) => { inverse[variant] = place; });
  const byName = [...at.keys()].map(place => at[place]).sort((a, b) => data.names[a] < data.names[b] ? -1 : 1);

  /* No taller than wide, so that cells are about square. */
  const tallest = erestore.charts.get("map").layout.height;
  await erestore.redraw("map", figure => { figure.layout.height = Math.min(tallest, Math.max(340, Math.round(.95 * chart.clientWidth))); });

  document.getElementById("order").addEventListener("change", event => {
    const order = event.target.value === "name" ? byName : at;
    erestore.redraw("map", figure => {
      const [trace] = figure.data, names = order.map(variant => erestore.escaped(data.names[variant]));
      trace.x = names;
      trace.y = names;
      trace.z = order.map(one => Float32Array.from(order, two => rows[inverse[one]][inverse[two]]));
      for (const axis of ["xaxis", "yaxis"]) {
        const held = figure.layout[axis];
        if (held.tickvals) {
          const texts = new Map(held.tickvals.map((value, place) => [value, held.ticktext[place]]));
          held.tickvals = names;
          held.ticktext = names.map(name => texts.get(name));
        }
      }
    });
  });

  /* A cell that was chosen is said, with a link: a map alone is nothing for a keyboard, the table of pairs is. */
  chart.on("plotly_click", event => {
    const { pointNumber: [row, column], z } = event.points[0];
    const order = document.getElementById("order").value === "name" ? byName : at;
    const [one, two] = [data.names[order[row]], data.names[order[column]]];
    said.replaceChildren(`${one} and ${two}: cosine ${z.toFixed(3)}. `);
    if (one !== two) said.append(erestore.element("a", "Compare", { href: `${ui.top}compare?rev=${encodeURIComponent(one)}&rev=${encodeURIComponent(two)}` }));
  });
  document.documentElement.dataset.ready = "all";
})();
