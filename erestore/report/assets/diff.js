"use strict";
/* The page of a spectral diff: one tensor at a time beside the map of all. */
(async () => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const placeOf = new Map(data.tensors.map((tensor, place) => [tensor.name, place]));
  await erestore.start();

  const choice = document.getElementById("tensor");
  const at = (path, from) => path.split(".").reduce((value, key) => value?.[key], from);

  function share(value) {
    return value === null || value === undefined ? "-" : `${(100 * value).toPrecision(3)} %`;
  }

  function lines(id, found) {
    const body = document.querySelector(`#${id} tbody`);
    const hasTokens = found.some(line => line.token !== null);
    if (id === "rows") document.querySelector("#rows thead th:nth-child(2)").hidden = !hasTokens;
    const most = Math.max(...found.map(line => line.share), 0);
    body.replaceChildren(...found.map(line => {
      const row = erestore.element("tr");
      row.append(erestore.element("th", line.index, { scope: "row" }));
      if (id === "rows" && hasTokens) row.append(erestore.element("td", line.token ?? ""));
      const cell = erestore.element("td");
      const bar = erestore.element("span", undefined, { class: "bar", "aria-hidden": "true" });
      bar.style.width = `${Math.round(90 * line.share / most)}px`;
      cell.append(bar, share(line.share));
      row.append(cell);
      return row;
    }));
  }

  function facts(tensor, found) {
    const parts = [
      `${tensor.shape.join("×")} ${tensor.dtype}`,
      tensor.relative_norm === null ? "grew from nothing" : `moved by ${share(tensor.relative_norm)} of its norm`,
      `${share(tensor.share)} of the whole squared change`,
      `effective rank ${tensor.effective_rank.toFixed(1)} of ${tensor.full_rank}`,
    ];
    if (found.kept) parts.push(`stored as ${found.kept.sections.join(" + ") || "nothing"}${found.kept.rank === null ? "" : ` of rank ${found.kept.rank}`} in ${found.kept.bytes.toLocaleString("en")} bytes (${found.kept.bits.toFixed(2)} bits an element)`);
    if (found.angles) parts.push(`ranks of the two changes ${found.angles.rank_a} and ${found.angles.rank_b}${found.angles.cosine === null ? "" : `, cosine ${found.angles.cosine.toFixed(3)}`}`);
    document.getElementById("facts").textContent = parts.join("; ") + ".";
  }

  function choose(place) {
    const tensor = data.tensors[place], found = data.details[tensor.name];
    choice.value = place;
    const ranks = found.spectrum.ranks, full = ranks[ranks.length - 1];
    for (const chart of ["spectrum", "energy"]) {
      erestore.redraw(chart, figure => {
        for (const trace of figure.data) {
          trace.x = ranks.map(rank => rank / full);
          trace.y = at(trace.meta, found) ?? [];
        }
      });
    }
    if (erestore.charts.has("angles")) {
      document.getElementById("angles-box").hidden = !found.angles;
      erestore.redraw("angles", figure => {
        figure.layout.xaxis.dtick = erestore.step(0, Math.max(0, ...["rows", "columns"].map(side => found.angles?.[side]?.length ?? 0)));
        for (const trace of figure.data) {
          const [, side, chance] = trace.meta.split(".");
          const cosines = found.angles?.[side] ?? [];
          trace.x = cosines.map((_, place) => place + 1);
          trace.y = chance ? cosines.map(() => Math.sqrt(found.angles[side === "rows" ? "row_chance" : "column_chance"])) : cosines;
        }
      });
    }
    lines("rows", found.rows);
    lines("columns", found.columns);
    facts(tensor, found);
  }

  if (choice) {
    choice.addEventListener("change", () => choose(choice.value));
    const step = by => () => {
      const place = Math.min(Math.max(choice.selectedIndex + by, 0), choice.options.length - 1);
      choose(choice.options[place].value);
    };
    document.getElementById("previous").addEventListener("click", step(-1));
    document.getElementById("next").addEventListener("click", step(1));
    for (const name of ["map", "ratios"]) {
      document.getElementById(name)?.on?.("plotly_click", event => {
        const name = event.points[0].customdata;
        if (data.details[name]?.spectrum) choose(placeOf.get(name));
      });
    }
    for (const button of document.querySelectorAll("button[data-tensor]")) {
      button.addEventListener("click", () => {
        choose(button.dataset.tensor);
        document.getElementById("tensor-section").scrollIntoView();
      });
    }
    choose(choice.value);
  }

  const measure = document.getElementById("measure");
  measure?.addEventListener("change", () => erestore.redraw("map", figure => {
    for (const trace of figure.data) trace.visible = trace.meta === measure.value;
  }));

  const table = document.getElementById("tensors");
  if (table) {
    erestore.sortable(table);
    erestore.filterable(document.getElementById("filter"), table, document.getElementById("count"));
  }
  document.documentElement.dataset.ready = "all";
})();
