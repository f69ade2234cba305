"use strict";
/* What every page needs: charts drawn in the colours of the theme, and tables that sort and filter. */
const erestore = (() => {
  const charts = new Map();
  const config = { displayModeBar: false, responsive: true, displaylogo: false };

  function color(name) {
    return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  }

  /* Text and grid take the theme's colours; series keep theirs, which are legible on both. */
  function themed(layout) {
    const text = color("--text"), grid = color("--grid"), card = color("--card");
    const found = { ...layout, font: { ...layout.font, color: text }, hoverlabel: { ...layout.hoverlabel, bgcolor: card, bordercolor: color("--edge"), font: { color: text } } };
    for (const key of Object.keys(layout)) {
      if (/^[xy]axis\d*$/.test(key)) found[key] = { ...layout[key], gridcolor: grid, linecolor: color("--edge") };
    }
    return found;
  }

  function blank({ height, margin, paper_bgcolor, plot_bgcolor }) {
    return { height, margin, paper_bgcolor, plot_bgcolor, xaxis: { visible: false }, yaxis: { visible: false } };
  }

  async function draw(name, isDrawn) {
    const held = document.querySelector(`script[data-figure="${name}"]`);
    const figure = JSON.parse(held.textContent), place = document.getElementById(name);
    charts.set(name, figure);
    /* An empty chart can be listened to. Plotly would go back to what it showed at first, which is nothing: its page goes back to all. */
    figure.config = isDrawn ? config : { ...config, doubleClick: false };
    await Plotly.newPlot(place, isDrawn ? figure.data : [], themed(isDrawn ? figure.layout : blank(figure.layout)), figure.config);
    place.dataset.drawn = isDrawn ? "yes" : "no";
  }

  /* Draw again with what `change` does to the figure. */
  function redraw(name, change) {
    const figure = charts.get(name);
    change(figure);
    const place = document.getElementById(name);
    place.style.minHeight = `${figure.layout.height}px`;
    return Plotly.react(place, figure.data, themed(figure.layout), figure.config);
  }

  /* The step of an axis of whole numbers, which Plotly divides into halves where it is short. */
  const FEW = 8;
  function step(from, to) { return to - from < FEW ? 1 : null; }

  /* Draw when the next frame is on the screen, unless another wish comes before; `data-drawn` says whether one is open. */
  const wishes = new WeakMap();
  function later(name, drawing) {
    const place = document.getElementById(name);
    wishes.set(place, drawing);
    place.dataset.drawn = "no";
    return new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(async () => {
      if (wishes.get(place) === drawing && place.isConnected) {
        wishes.delete(place);
        await drawing();
        if (!wishes.has(place)) place.dataset.drawn = "yes";
      }
      done();
    }))));
  }

  /* Draw what was wished for in a page that was left before, and is there again. */
  function resume() {
    for (const place of document.querySelectorAll(".chart")) if (wishes.has(place)) later(place.id, wishes.get(place));
  }

  /* At another width a legend has other rows, and Plotly leaves it where it was, on the chart. */
  function redrawAll() {
    return Promise.all([...charts].map(async ([name, { layout }]) => {
      const place = await redraw(name, () => {});
      if (layout.showlegend) await Plotly.relayout(place, { "legend.y": layout.legend.y });
    }));
  }

  /* Draw at the width that there is now; Plotly goes first, a little later, and leaves out what is hidden. */
  async function refit() {
    await Promise.allSettled([...charts.keys()].map(name => Plotly.Plots.resize(document.getElementById(name))));
    await redrawAll();
  }

  function element(tag, text, attributes = {}) {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  }

  /* Plotly reads marks of HTML in texts. */
  function escaped(text) {
    return text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  }

  /* Rows sort by `data-value`, else by their text; a second press turns the order round. */
  function sortable(table, list = { rows: () => [...table.tBodies[0].rows], put: rows => table.tBodies[0].append(...rows) }) {
    for (const head of table.querySelectorAll("thead th")) {
      const button = head.querySelector("button");
      if (!button) continue;
      button.addEventListener("click", () => {
        const at = head.cellIndex, isDown = head.getAttribute("aria-sort") !== "descending";
        for (const other of table.querySelectorAll("thead th")) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", isDown ? "descending" : "ascending");
        const sign = isDown ? -1 : 1;
        const keyed = list.rows().map(row => [row.cells[at].dataset.value ?? row.cells[at].textContent, row]);
        const isNumber = keyed.every(([key]) => key !== "" && !Number.isNaN(Number(key)));
        keyed.sort(([a], [b]) => sign * (isNumber ? Number(a) - Number(b) : -a.localeCompare(b)));
        list.put(keyed.map(([, row]) => row));
      });
    }
  }

  /* A long table: of the rows that fit only the first are in the page, as laying out thousands takes longer than a person waits;
     a button brings more. Rows are given as they came, or sorted. */
  function listed(table, button, most = 100) {
    const body = table.tBodies[0];
    let rows = [...body.rows], fits = () => true, count = most;
    function show() {
      const fitting = rows.filter(fits), left = fitting.length - count;
      const shown = fitting.slice(0, count);
      for (const row of shown) row.hidden = false;
      body.replaceChildren(...shown);
      button.hidden = left <= 0;
      button.textContent = `Show ${Math.min(left, most)} more of ${fitting.length}`;
    }
    button.addEventListener("click", () => { count += most; show(); });
    return {
      rows: () => rows,
      put(sorted) { rows = sorted; show(); },
      filter(test) { fits = test; count = most; show(); },
      /* Bring one row into the page. */
      reach(row) { while (!row.isConnected && count < rows.length) { count += most; show(); } },
    };
  }

  /* Whether a text has all words of an input; what is in quotes is one. */
  function wanted(input) {
    const words = (input.value.toLowerCase().match(/"[^"]*"?|\S+/g) ?? []).map(word => word.replaceAll('"', ""));
    return text => words.every(word => text.includes(word));
  }

  function filterable(input, table, count) {
    const rows = [...table.tBodies[0].rows].map(row => [row.textContent.toLowerCase(), row]);
    const show = () => {
      const wanted = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const [text, row] of rows) {
        const fits = wanted.every(word => text.includes(word));
        row.hidden = !fits;
        shown += fits;
      }
      count.textContent = shown === rows.length ? `${rows.length}` : `${shown} of ${rows.length}`;
    };
    input.addEventListener("input", show);
    show();
  }

  let isStarted = false;

  /* Draw what is in the page, but for charts that its own script draws at once; once more where another page was put in its place. */
  async function start(own = []) {
    await Promise.all([...document.querySelectorAll("script[data-figure]")].map(({ dataset: { figure } }) => draw(figure, !own.includes(figure))));
    for (const box of document.querySelectorAll("input[data-log]")) {
      box.addEventListener("change", () => redraw(box.dataset.log, figure => {
        const axis = figure.layout[`${box.dataset.axis}axis`];
        axis.type = box.checked ? "log" : "linear";
        if (axis.range) { axis.linear ??= axis.range; }
        axis.range = undefined;
        if (!box.checked && axis.linear) axis.range = axis.linear;
        axis.autorange = axis.range ? false : true;
      }));
    }
    if (isStarted) return;
    isStarted = true;
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redrawAll);
    let width = innerWidth;
    addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; refit(); } });
    /* On paper it is always light. */
    addEventListener("beforeprint", redrawAll);
    addEventListener("afterprint", redrawAll);
    document.documentElement.dataset.ready = "yes";
  }

  return { charts, color, redraw, refit, step, later, resume, element, escaped, sortable, listed, wanted, filterable, start };
})();
