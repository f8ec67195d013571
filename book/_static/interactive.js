// Draws the rate-accuracy figures of a page with plotly. Their pictures stay for paper, and wherever this does not run.
window.addEventListener("load", () => {
  const ink = "#767c85"; // as in the pictures: it reads on light and dark pages
  const scripts = [...document.querySelectorAll("script.rate-accuracy")];
  if (!scripts.length) return;

  // One panel in a row on narrow screens, else two; the legend, of all panels, is below.
  function arranged(layout, width, methods) {
    const axes = Object.keys(layout).filter((name) => name.startsWith("xaxis"));
    const columns = width < 600 || axes.length < 2 ? 1 : 2;
    const rows = Math.ceil(axes.length / columns);
    const shared = { color: ink, gridcolor: ink + "40", zeroline: false, automargin: true };
    const placed = { ...layout };
    axes.forEach((x, k) => {
      const left = (k % columns) / columns, top = 1 - Math.floor(k / columns) / rows;
      const y = x.replace("x", "y"), at = x.slice(5);
      const wide = columns > 1 ? [left + (left ? 0.06 : 0), left + (left ? 0.5 : 0.44)] : [0, 1];
      placed[x] = { ...shared, ...layout[x], type: "log", anchor: "y" + at, domain: wide, title: { text: "bits per pixel", standoff: 4 } };
      placed[y] = { ...shared, ...layout[y], anchor: "x" + at, domain: [top - 0.8 / rows, top] };
    });
    placed.title = { ...layout.title, x: 0.5, font: { size: 15 } };
    if (width < 600) placed.title = { text: layout.title.text.replace(", ", ",<br>"), x: 0.5, font: { size: 13 } };
    placed.title.subtitle = { text: "hover for numbers, click a method to hide it", font: { size: 12 } };
    placed.legend = { orientation: "h", y: 0, yref: "container", yanchor: "bottom" };
    placed.font = { color: ink };
    placed.paper_bgcolor = placed.plot_bgcolor = "rgba(0, 0, 0, 0)";
    placed.margin = { l: 8, r: 8, t: width < 600 ? 88 : 64, b: 24 + 20 * Math.ceil((170 * methods) / width) };
    placed.height = 300 * rows + placed.margin.t + placed.margin.b;
    placed.hovermode = "closest";
    return placed;
  }

  function draw(script) {
    const picture = document.querySelector(`img[src*="${script.dataset.picture}"]`);
    if (!picture) return;
    const { data, layout } = JSON.parse(script.textContent);
    const place = document.createElement("div");
    place.className = "interactive";
    (picture.closest("a") || picture).before(place);
    const methods = data.filter((trace) => trace.showlegend).length;
    const width = () => place.clientWidth;
    const fitted = () => arranged(layout, width(), methods);
    const how = { displayModeBar: false, responsive: true };
    Plotly.newPlot(place, data, fitted(), how).then(() => picture.classList.add("drawn-over"));
    let narrow = width() < 600;
    window.addEventListener("resize", () => {
      if (width() < 600 === narrow) return;
      narrow = !narrow;
      Plotly.relayout(place, fitted());
    });
  }

  const bundle = document.createElement("script");
  bundle.src = `${document.documentElement.dataset.content_root || ""}_static/plotly.min.js`;
  bundle.onload = () => scripts.forEach(draw);
  document.head.append(bundle);
});
