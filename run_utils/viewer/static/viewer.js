// Puts slide, overlay and panel together, and answers mouse and keys.

import { Density } from "./cells.js";
import { Overlay } from "./overlay.js";
import { Panel, swatch } from "./panel.js";

const SETTLED_MS = 120; // after the last movement, until numbers in view are asked for
const MAX_BAR = 150; // screen pixels
const UM_TIMES_POWER = 10; // a magnification of 40 is about 0.25 µm to a pixel
const MODES = { contours: "Contours", centres: "Centres", density: "Density" };

const byId = (id) => document.getElementById(id);
const number = new Intl.NumberFormat("en");

async function get(address) {
  const answer = await fetch(address);
  if (!answer.ok) throw new Error(await answer.text());
  return answer;
}

async function start() {
  const info = await (await get("/info")).json();
  const density = new Density(info.density, info.types.length, await (await get("/density")).arrayBuffer());
  const viewer = openSlide();
  await new Promise((resolve, reject) => {
    viewer.addOnceHandler("open", resolve);
    viewer.addOnceHandler("open-failed", (event) => reject(new Error(event.message)));
  });
  const overlay = new Overlay(viewer, info, density, showFailure);
  const panel = new Panel(info, (style) => overlay.changeStyle(style));
  followView(viewer, overlay, panel, info);
  followMouse(viewer, overlay, panel, info);
  followKeys(viewer, overlay, panel);
}

function openSlide() {
  const viewer = OpenSeadragon({
    id: "slide",
    tileSources: "/slide.dzi",
    drawer: "canvas",
    showNavigationControl: false,
    visibilityRatio: 0.5,
    minZoomImageRatio: 0.6,
    maxZoomPixelRatio: 16,
    animationTime: 0.5,
    springStiffness: 9,
    zoomPerScroll: 1.3,
    imageLoaderLimit: 6,
    maxImageCacheCount: 300,
    gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true },
    gestureSettingsTouch: { pinchRotate: false },
  });
  byId("zoom-in").onclick = () => zoomBy(viewer, 1.6);
  byId("zoom-out").onclick = () => zoomBy(viewer, 1 / 1.6);
  byId("zoom-fit").onclick = () => viewer.viewport.goHome();
  return viewer;
}

function zoomBy(viewer, factor) {
  viewer.viewport.zoomBy(factor);
  viewer.viewport.applyConstraints();
}

function followView(viewer, overlay, panel, info) {
  let timer, latest = 0;
  const askCounts = async () => {
    const { left, top, right, bottom } = overlay.view;
    const box = [top, left, bottom, right].map(Math.round).join("_");
    const mine = ++latest;
    const counts = await (await get(`/counts/${box}`)).json();
    if (mine === latest) panel.showCounts(counts);
  };
  const update = () => {
    const { zoom } = overlay.view;
    showScale(zoom, info.mpp);
    byId("mode").textContent = MODES[overlay.modeOf(overlay.view)];
    byId("zoom-text").textContent = info.mpp ? `${+((zoom * UM_TIMES_POWER) / info.mpp).toPrecision(2)}×` : "";
    clearTimeout(timer);
    timer = setTimeout(askCounts, SETTLED_MS);
  };
  viewer.addHandler("viewport-change", update);
  viewer.addHandler("resize", update);
  update();
}

// A bar of 1, 2 or 5 times a power of ten, in µm or mm; in pixels where µm/px is unknown.
function showScale(zoom, mpp) {
  const perUnit = mpp ? zoom / mpp : zoom;
  const longest = MAX_BAR / perUnit;
  const power = 10 ** Math.floor(Math.log10(longest));
  const length = [5, 2, 1].find((digit) => digit * power <= longest) * power;
  const [value, unit] = mpp && length >= 1000 ? [length / 1000, "mm"] : [length, mpp ? "µm" : "px"];
  byId("scale-text").textContent = `${number.format(value)} ${unit}`;
  byId("scale-line").style.width = `${length * perUnit}px`;
  byId("scale-bar").hidden = false;
}

function followMouse(viewer, overlay, panel, info) {
  const stage = viewer.element, tooltip = byId("tooltip");
  let mouse = null, isWaiting = false;
  const look = () => {
    isWaiting = false;
    const nucleus = mouse && find(overlay, mouse);
    if (nucleus?.id !== overlay.hovered?.id) {
      overlay.hovered = nucleus;
      overlay.redraw();
    }
    stage.classList.toggle("on-nucleus", Boolean(nucleus));
    showTooltip(tooltip, nucleus, mouse, info, stage);
    byId("position").textContent = mouse ? placeText(overlay, mouse, info) : "";
  };
  const lookSoon = () => {
    if (!isWaiting) requestAnimationFrame(look);
    isWaiting = true;
  };
  stage.addEventListener("pointermove", (event) => {
    const box = stage.getBoundingClientRect();
    mouse = { x: event.clientX - box.left, y: event.clientY - box.top };
    lookSoon();
  });
  stage.addEventListener("pointerleave", () => {
    mouse = null;
    lookSoon();
  });
  viewer.addHandler("viewport-change", lookSoon);
  viewer.addHandler("canvas-click", (event) => {
    if (event.quick) select(overlay, panel, find(overlay, event.position));
  });
}

function find(overlay, { x, y }) {
  const { zoom, left, top } = overlay.view;
  return overlay.find(left + x / zoom, top + y / zoom);
}

function placeText(overlay, { x, y }, info) {
  const { zoom, left, top } = overlay.view;
  const column = Math.floor(left + x / zoom), row = Math.floor(top + y / zoom);
  const isOutside = column < 0 || row < 0 || column >= info.width || row >= info.height;
  return isOutside ? "" : `x ${number.format(column)}  y ${number.format(row)} px`;
}

function showTooltip(tooltip, nucleus, mouse, info, stage) {
  tooltip.hidden = !nucleus;
  if (!nucleus) return;
  const type = info.types[nucleus.type];
  const share = info.has_types ? `${type.name} · ${Math.round(100 * nucleus.share)} %` : `nucleus ${number.format(nucleus.id)}`;
  tooltip.replaceChildren(swatch(type.colour), share);
  const x = Math.min(mouse.x + 14, stage.clientWidth - tooltip.offsetWidth - 6);
  const y = mouse.y > 44 ? mouse.y - 36 : mouse.y + 20;
  tooltip.style.transform = `translate(${Math.round(x)}px, ${Math.round(y)}px)`;
}

async function select(overlay, panel, nucleus) {
  overlay.selected = nucleus;
  overlay.redraw();
  const measures = nucleus && (await (await get(`/nucleus/${nucleus.id}`)).json());
  if (overlay.selected === nucleus) panel.showNucleus(measures);
}

function followKeys(viewer, overlay, panel) {
  viewer.addHandler("canvas-key", (event) => {
    if (/^[rf0-9]$/i.test(event.originalEvent.key)) event.preventDefaultAction = true; // it would turn the slide
  });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const isOnSlide = !event.target.closest(".panel, .zoom");
    if (/^[1-9]$/.test(event.key)) panel.toggleType(Number(event.key) - 1);
    else if (event.key === "o") panel.toggleFill();
    else if (event.key === "h") panel.toggleHidden();
    else if (event.key === "0") viewer.viewport.goHome();
    else if ((event.key === "+" || event.key === "-") && !isOnSlide) zoomBy(viewer, event.key === "+" ? 1.6 : 1 / 1.6);
    else if (event.key === "Enter" && isOnSlide) {
      const { clientWidth, clientHeight } = viewer.canvas;
      select(overlay, panel, find(overlay, { x: clientWidth / 2, y: clientHeight / 2 }));
    } else if (event.key === "Escape") select(overlay, panel, null);
  });
}

function showFailure(error) {
  byId("failure").textContent = `No answer from the viewer (${error.message.trim()}). Start it again and reload the page.`;
  byId("failure").hidden = false;
}

addEventListener("unhandledrejection", (event) => showFailure(event.reason));
start();
