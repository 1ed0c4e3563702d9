// Nuclei over the slide: contours near by, centres further off, a density from afar. What is drawn is kept in
// square pieces at zooms of powers of two, so that moving costs no more than putting the pieces in place.

import { Cells, decodeContours, decodeDots, findContour } from "./cells.js";

const PIECE = 512; // screen pixels a side at its own zoom
const MARGIN = 6; // screen pixels of a piece that lie over its neighbours, for the rims of centres
const KEPT_PIECES = 120;
const FRAME_MS = 7; // of each frame, for drawing new pieces
const CONTOURS_FROM = 0.25; // screen pixels to a level-0 pixel
const MAX_CONTOURS = 30000; // in view, below twice that zoom
const MAX_DOTS = 50000; // in view
const BATCH = 256; // contours in one path: longer ones take the browser more than proportionally long

export class Overlay {
  constructor(viewer, info, density, onFailure) {
    this.viewer = viewer;
    this.info = info;
    this.density = density;
    this.colours = info.types.map((type) => `rgb(${type.colour.join(" ")})`);
    this.isVisible = info.types.map(() => true);
    this.isFilled = false;
    this.opacity = 0.9;
    this.hovered = null;
    this.selected = null;
    this.version = 0;
    this.pieces = new Map();
    this.cells = new Cells(() => this.redraw(), onFailure);
    this.canvas = document.createElement("canvas");
    this.canvas.className = "overlay";
    viewer.canvas.appendChild(this.canvas);
    this.context = this.canvas.getContext("2d");
    this.densityCanvas = document.createElement("canvas");
    this.changeStyle({});
    viewer.addHandler("update-viewport", () => this.draw());
    viewer.addHandler("resize", () => this.redraw());
  }

  changeStyle({ isVisible = this.isVisible, isFilled = this.isFilled, opacity = this.opacity }) {
    const needsPieces = isVisible !== this.isVisible || isFilled !== this.isFilled;
    Object.assign(this, { isVisible, isFilled, opacity });
    if (needsPieces) this.version += 1;
    this.density.paint(this.densityCanvas, this.info.types.map((type) => type.colour), this.isVisible);
    this.redraw();
  }

  redraw() {
    if (this.frame) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = null;
      this.draw();
    });
  }

  // The part of the slide that is seen: level-0 pixels, and screen pixels to one of them.
  get view() {
    const bounds = this.viewer.viewport.getBoundsNoRotate(true);
    const { clientWidth, clientHeight } = this.viewer.canvas;
    const zoom = clientWidth / (bounds.width * this.info.width);
    const left = bounds.x * this.info.width, top = bounds.y * this.info.width;
    return { zoom, left, top, right: left + clientWidth / zoom, bottom: top + clientHeight / zoom };
  }

  modeOf(view) {
    const inView = this.density.estimate(view.left, view.top, view.right, view.bottom);
    if (view.zoom >= CONTOURS_FROM && (inView <= MAX_CONTOURS || view.zoom >= 2 * CONTOURS_FROM)) return "contours";
    return inView <= MAX_DOTS ? "centres" : "density";
  }

  draw() {
    const { canvas, context } = this;
    const ratio = window.devicePixelRatio || 1;
    const { clientWidth, clientHeight } = this.viewer.canvas;
    if (!clientWidth || !clientHeight || !this.viewer.viewport) return;
    const width = Math.round(clientWidth * ratio), height = Math.round(clientHeight * ratio);
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const view = this.view;
    this.mode = this.modeOf(view);
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, width, height);
    context.globalAlpha = this.opacity;
    if (this.mode === "density") this.#drawDensity(view, ratio);
    else this.#drawPieces(view, ratio);
    this.#drawMarked(view, ratio);
    canvas.dataset.mode = this.mode;
  }

  // The nucleus at a place of the slide in level-0 pixels, null where none is drawn.
  find(x, y) {
    if (this.mode !== "contours" || x < 0 || y < 0 || !this.opacity) return null;
    const { cell: side, contour_steps: steps } = this.info;
    const column = Math.floor(x / side), row = Math.floor(y / side);
    const address = `/contours/${column}_${row}`;
    if (!this.cells.has(address)) return null;
    const cell = this.cells.get(address);
    const index = findContour(cell, (x - column * side) * steps, (y - row * side) * steps, this.isVisible);
    if (index < 0) return null;
    const points = cell.points.subarray(2 * cell.starts[index], 2 * cell.starts[index + 1]);
    const origin = { left: column * side, top: row * side };
    return { id: cell.ids[index], type: cell.types[index], share: cell.shares[index] / 255, points, origin };
  }

  #drawDensity(view, ratio) {
    const { cell, width, height } = this.density;
    const scale = view.zoom * ratio;
    this.context.imageSmoothingEnabled = true;
    this.context.imageSmoothingQuality = "high";
    this.context.drawImage(
      this.densityCanvas, -view.left * scale, -view.top * scale, width * cell * scale, height * cell * scale,
    );
    canvasIdle(this.canvas, true);
  }

  #drawPieces(view, ratio) {
    const isContours = this.mode === "contours";
    const level = Math.max(Math.round(-Math.log2(view.zoom)), isContours ? -6 : 1);
    const side = PIECE * 2 ** level;
    const until = performance.now() + FRAME_MS;
    let isComplete = true;
    this.cells.forgetWaiting();
    for (const [column, row] of cellsOf(view, side, this.info)) {
      const key = `${this.mode} ${level} ${column} ${row}`;
      let piece = this.pieces.get(key);
      if (!piece || piece.version !== this.version || piece.ratio !== ratio) {
        const fresh = performance.now() < until ? this.#makePiece(piece, level, column, row, ratio) : null;
        if (fresh) this.pieces.set(key, (piece = fresh));
        else isComplete = false;
      }
      if (piece) {
        this.pieces.delete(key);
        this.pieces.set(key, piece);
        this.#putPiece(piece, side, column, row, view, ratio);
      } else this.#putAncestor(level, column, row, view, ratio);
    }
    if (!isComplete && this.cells.isIdle) this.redraw();
    canvasIdle(this.canvas, isComplete);
    while (this.pieces.size > KEPT_PIECES) this.pieces.delete(this.pieces.keys().next().value);
  }

  // Contours end at the piece's edge, so that no seam shows; centres reach over it with their rims.
  #putPiece(piece, side, column, row, view, ratio) {
    if (!piece.canvas) return;
    const scale = view.zoom * ratio;
    const rim = this.mode === "centres" ? MARGIN : 0;
    const reach = (rim / PIECE) * side;
    const left = Math.round((column * side - reach - view.left) * scale);
    const top = Math.round((row * side - reach - view.top) * scale);
    const right = Math.round(((column + 1) * side + reach - view.left) * scale);
    const bottom = Math.round(((row + 1) * side + reach - view.top) * scale);
    const first = Math.round((MARGIN - rim) * ratio), size = piece.canvas.width - 2 * first;
    this.context.drawImage(piece.canvas, first, first, size, size, left, top, right - left, bottom - top);
  }

  // Until a piece is drawn, the same place of a coarser one stands in.
  #putAncestor(level, column, row, view, ratio) {
    const side = PIECE * 2 ** level, scale = view.zoom * ratio;
    for (let up = 1; up <= 4; up++) {
      const piece = this.pieces.get(`${this.mode} ${level + up} ${column >> up} ${row >> up}`);
      if (!piece) continue;
      if (!piece.canvas) return;
      const part = 1 / 2 ** up, pixels = PIECE * piece.ratio;
      const [fractionX, fractionY] = [column * part - (column >> up), row * part - (row >> up)];
      this.context.drawImage(
        piece.canvas, fractionX * pixels + MARGIN * piece.ratio, fractionY * pixels + MARGIN * piece.ratio,
        part * pixels, part * pixels, (column * side - view.left) * scale, (row * side - view.top) * scale,
        side * scale, side * scale,
      );
      return;
    }
  }

  // A piece, or null while the server has not sent all that is in it. An empty one has no canvas.
  #makePiece(old, level, column, row, ratio) {
    const side = PIECE * 2 ** level;
    const sources = this.mode === "contours" ? this.#contourCells(side, column, row) : this.#dotCells(level, column, row);
    if (sources.some(({ cell }) => cell === undefined)) return null;
    const piece = { version: this.version, ratio, canvas: null };
    if (sources.every(({ cell }) => cell.length === 0)) return piece;
    const pixels = Math.round((PIECE + 2 * MARGIN) * ratio);
    piece.canvas = (old && old.canvas) || document.createElement("canvas");
    Object.assign(piece.canvas, { width: pixels, height: pixels });
    const context = piece.canvas.getContext("2d");
    const scale = 2 ** -level * ratio;
    const x = column * side, y = row * side, rim = MARGIN * ratio;
    for (const { cell, left, top, size } of sources) {
      if (this.mode === "centres") {
        this.#paintDots(context, cell, scale, rim, ratio);
        continue;
      }
      const area = {
        left: Math.max(left, x), top: Math.max(top, y),
        right: Math.min(left + size, x + side), bottom: Math.min(top + size, y + side),
      };
      context.save();
      context.translate(rim, rim);
      context.scale(scale, scale);
      context.translate(-x, -y);
      context.beginPath();
      context.rect(area.left, area.top, area.right - area.left, area.bottom - area.top);
      context.clip();
      context.translate(left, top);
      this.#paintContours(context, cell, { left, top }, area, scale, ratio);
      context.restore();
    }
    return piece;
  }

  #contourCells(side, column, row) {
    const { cell: size, width, height } = this.info;
    const area = { left: column * side, top: row * side, right: (column + 1) * side, bottom: (row + 1) * side };
    return [...cellsOf(area, size, { width, height })].map(([x, y]) => ({
      cell: this.cells.get(`/contours/${x}_${y}`, decodeContours), left: x * size, top: y * size, size,
    }));
  }

  #dotCells(level, column, row) {
    const power = level - Math.log2(this.info.cell / PIECE);
    return [{ cell: this.cells.get(`/dots/${power}/${column}_${row}`, decodeDots) }];
  }

  #paintContours(context, cell, origin, area, scale, ratio) {
    const steps = this.info.contour_steps;
    const [left, top] = [(area.left - origin.left) * steps, (area.top - origin.top) * steps];
    const [right, bottom] = [(area.right - origin.left) * steps, (area.bottom - origin.top) * steps];
    const rows = this.isVisible.map(() => []);
    for (let row = 0; row < cell.length; row++) {
      const box = 4 * row;
      const isNear = cell.boxes[box] <= right && cell.boxes[box + 2] >= left
        && cell.boxes[box + 1] <= bottom && cell.boxes[box + 3] >= top;
      if (isNear && this.isVisible[cell.types[row]]) rows[cell.types[row]].push(row);
    }
    context.scale(1 / steps, 1 / steps);
    context.lineJoin = "round";
    const pixel = (steps * ratio) / scale; // a screen pixel in steps
    const width = Math.min(Math.max(1.5, 1.7 + Math.log2(scale / ratio) * 0.4), 2.8);
    rows.forEach((list, type) => {
      for (let first = 0; first < list.length; first += BATCH) {
        const path = new Path2D();
        for (const row of list.slice(first, first + BATCH)) tracePoints(path, cell.points, cell.starts[row], cell.starts[row + 1]);
        if (this.isFilled) {
          context.globalAlpha = 0.55;
          context.fillStyle = this.colours[type];
          context.fill(path);
          context.globalAlpha = 1;
        }
        context.strokeStyle = this.colours[type];
        context.lineWidth = (this.isFilled ? 0.7 * width : width) * pixel;
        context.stroke(path);
      }
    });
  }

  #paintDots(context, cell, scale, rim, ratio) {
    const radius = Math.min(Math.max(9 * scale, 1.5 * ratio), 3 * ratio);
    const sprites = this.colours.map((colour) => disc(colour, radius, ratio));
    const size = PIECE * ratio;
    for (let i = 0; i < cell.length; i++) {
      if (!this.isVisible[cell.types[i]]) continue;
      const sprite = sprites[cell.types[i]];
      const half = sprite.width / 2;
      context.drawImage(sprite, rim + (cell.x[i] / 65536) * size - half, rim + (cell.y[i] / 65536) * size - half);
    }
  }

  #drawMarked(view, ratio) {
    const { context } = this;
    context.globalAlpha = 1;
    for (const nucleus of [this.selected, this.hovered]) {
      if (!nucleus || this.mode !== "contours") continue;
      const path = new Path2D();
      tracePoints(path, nucleus.points, 0, nucleus.points.length / 2);
      const scale = (view.zoom * ratio) / this.info.contour_steps;
      context.setTransform(
        scale, 0, 0, scale, (nucleus.origin.left - view.left) * view.zoom * ratio, (nucleus.origin.top - view.top) * view.zoom * ratio,
      );
      context.lineJoin = "round";
      for (const [colour, width] of nucleus === this.selected ? [["#111", 6], ["#fff", 3]] : [["rgb(255 255 255 / 85%)", 5.5], [this.colours[nucleus.type], 3]]) {
        context.strokeStyle = colour;
        context.lineWidth = (width * ratio) / scale;
        context.stroke(path);
      }
    }
    context.setTransform(1, 0, 0, 1, 0, 0);
  }
}

function* cellsOf(area, side, { width, height }) {
  const lastColumn = Math.min(Math.ceil(Math.min(area.right, width) / side), Math.ceil(width / side));
  const lastRow = Math.min(Math.ceil(Math.min(area.bottom, height) / side), Math.ceil(height / side));
  for (let row = Math.max(0, Math.floor(area.top / side)); row < lastRow; row++) {
    for (let column = Math.max(0, Math.floor(area.left / side)); column < lastColumn; column++) yield [column, row];
  }
}

function tracePoints(path, points, first, last) {
  path.moveTo(points[2 * first], points[2 * first + 1]);
  for (let i = first + 1; i < last - 1; i++) path.lineTo(points[2 * i], points[2 * i + 1]);
  path.closePath();
}

function disc(colour, radius, ratio) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 2 * Math.ceil(radius + ratio);
  const context = canvas.getContext("2d");
  context.arc(canvas.width / 2, canvas.height / 2, radius, 0, 2 * Math.PI);
  context.fillStyle = colour;
  context.fill();
  context.lineWidth = 0.5 * ratio;
  context.strokeStyle = "rgb(0 0 0 / 30%)";
  context.stroke();
  return canvas;
}

function canvasIdle(canvas, isIdle) {
  canvas.dataset.complete = isIdle ? "yes" : "no";
}
