// The panel beside the slide: types and their numbers, how they are drawn, and one nucleus's measures.

const number = new Intl.NumberFormat("en");
const byId = (id) => document.getElementById(id);

export function swatch(colour) {
  const dot = document.createElement("span");
  dot.className = "swatch";
  dot.style.background = `rgb(${colour.join(" ")})`;
  return dot;
}

function element(tag, content = "", className = "") {
  const made = document.createElement(tag);
  made.append(content);
  if (className) made.className = className;
  return made;
}

export class Panel {
  constructor(info, onStyle) {
    this.info = info;
    this.onStyle = onStyle;
    this.isHidden = false;
    const total = info.types.reduce((sum, type) => sum + type.count, 0);
    const facts = [`${number.format(total)} nuclei`, `${number.format(info.width)} × ${number.format(info.height)} px`];
    if (info.mpp) facts.push(`${+info.mpp.toFixed(4)} µm/px`);
    document.title = `${info.name} – nuclei`;
    byId("name").textContent = info.name;
    byId("facts").replaceChildren(...facts.map((fact) => element("span", fact)));
    byId("slide-total").textContent = number.format(total);
    this.boxes = info.types.map((type, index) => this.#addType(type, index));
    byId("all-types").onclick = () => this.#showTypes(true);
    byId("no-types").onclick = () => this.#showTypes(false);
    byId("opacity").oninput = () => this.#apply();
    for (const radio of document.getElementsByName("style")) radio.onchange = () => this.#apply();
    this.showCounts(null);
    this.showNucleus(null);
    this.#apply();
  }

  toggleType(shown) {
    const box = this.boxes.filter((candidate) => candidate)[shown];
    if (!box) return;
    box.checked = !box.checked;
    this.#apply();
  }

  toggleFill() {
    const wanted = this.isFilled ? "outline" : "fill";
    for (const radio of document.getElementsByName("style")) radio.checked = radio.value === wanted;
    this.#apply();
  }

  toggleHidden() {
    this.isHidden = !this.isHidden;
    this.#apply();
  }

  showCounts(counts) {
    this.cells.forEach((cell, index) => {
      if (cell) cell.textContent = counts ? number.format(counts[index]) : "–";
    });
    byId("view-total").textContent = counts ? number.format(counts.reduce((sum, count) => sum + count, 0)) : "–";
  }

  showNucleus(nucleus) {
    const place = byId("nucleus");
    place.replaceChildren();
    if (!nucleus) {
      place.append(element("p", "Zoom in and click a contour for its measures.", "hint"));
      return;
    }
    const type = this.info.types[nucleus.type];
    const title = element("div", "", "type");
    const share = nucleus.share === null ? "" : element("span", `${Math.round(100 * nucleus.share)} %`, "share");
    if (share) share.title = "share of its pixels that are of this type";
    title.append(swatch(type.colour), type.name, share, element("small", `no. ${number.format(nucleus.id)}`));
    place.append(title, this.#measures(nucleus));
    if (nucleus.probabilities) place.append(this.#bars(nucleus.probabilities));
  }

  get isFilled() {
    return document.querySelector("input[name=style]:checked").value === "fill";
  }

  #addType(type, index) {
    this.cells ||= [];
    this.cells.push(null);
    if (index === 0 && this.info.types.length > 1 && !type.count) return null; // background
    const box = element("input");
    box.type = "checkbox";
    box.checked = true;
    box.onchange = () => this.#apply();
    const label = element("label");
    label.append(box, swatch(type.colour), type.name);
    const row = element("tr"), head = element("th");
    head.scope = "row";
    head.append(label);
    this.cells[index] = element("td");
    row.append(head, this.cells[index], element("td", number.format(type.count)));
    document.querySelector("#types tbody").append(row);
    return box;
  }

  #showTypes(isVisible) {
    for (const box of this.boxes) if (box) box.checked = isVisible;
    this.#apply();
  }

  #apply() {
    const opacity = Number(byId("opacity").value);
    byId("opacity-text").textContent = this.isHidden ? "hidden" : `${opacity} %`;
    for (const box of this.boxes) if (box) box.closest("tr").classList.toggle("off", !box.checked);
    const isVisible = this.boxes.map((box) => !box || box.checked);
    const isSame = this.isVisible && isVisible.every((value, index) => value === this.isVisible[index]);
    if (!isSame) this.isVisible = isVisible;
    this.onStyle({ isVisible: this.isVisible, isFilled: this.isFilled, opacity: this.isHidden ? 0 : opacity / 100 });
  }

  #measures(nucleus) {
    const { unit } = nucleus;
    const [x, y] = nucleus.centroid_xy_level0;
    const rows = [
      ["Area", `${nucleus.area.toFixed(1)} ${unit}²`],
      ["Perimeter", `${nucleus.perimeter.toFixed(1)} ${unit}`],
      ["Axes", `${nucleus.major_axis.toFixed(1)} × ${nucleus.minor_axis.toFixed(1)} ${unit}`],
      ["Circularity", nucleus.circularity.toFixed(2)],
      ["Eccentricity", nucleus.eccentricity.toFixed(2)],
      ["Solidity", nucleus.solidity.toFixed(2)],
      ["Centre (x, y)", `${number.format(Math.round(x))}, ${number.format(Math.round(y))} px`],
    ];
    const table = element("table");
    for (const [name, value] of rows) {
      const row = table.insertRow();
      row.append(element("td", name), element("td", value));
    }
    return table;
  }

  #bars(probabilities) {
    const bars = element("div", "", "bars");
    probabilities.forEach((probability, index) => {
      const fill = element("i");
      fill.style.width = `${100 * probability}%`;
      fill.style.background = `rgb(${this.info.types[index].colour.join(" ")})`;
      const bar = element("span", fill, "bar");
      const percent = probability < 0.005 ? "0 %" : `${Math.round(100 * probability)} %`;
      bars.append(element("span", this.info.types[index].name, "name"), bar, element("span", percent));
    });
    return bars;
  }
}
