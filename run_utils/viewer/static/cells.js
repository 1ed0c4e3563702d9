// What the server knows of a square of the slide, asked for once and kept while it is in use.

const KEPT = 400;
const AT_ONCE = 6;

// Answers by address, the least recently used forgotten; `get` gives undefined until one is there.
export class Cells {
  constructor(onLoad, onFailure) {
    this.onLoad = onLoad;
    this.onFailure = onFailure;
    this.cells = new Map();
    this.waiting = new Map();
    this.running = 0;
  }

  get(address, decode) {
    const cell = this.cells.get(address);
    if (cell) {
      this.cells.delete(address);
      this.cells.set(address, cell);
      return cell;
    }
    if (!this.waiting.has(address)) this.waiting.set(address, { decode, isRunning: false });
    this.#start();
    return undefined;
  }

  has(address) {
    return this.cells.has(address);
  }

  // What is no longer looked at is not asked for: called before each drawing.
  forgetWaiting() {
    for (const [address, job] of this.waiting) if (!job.isRunning) this.waiting.delete(address);
  }

  get isIdle() {
    return this.waiting.size === 0;
  }

  #start() {
    for (const [address, job] of this.waiting) {
      if (this.running >= AT_ONCE) return;
      if (job.isRunning) continue;
      job.isRunning = true;
      this.running += 1;
      this.#load(address, job.decode);
    }
  }

  async #load(address, decode) {
    let cell = null;
    try {
      const answer = await fetch(address);
      if (!answer.ok) throw new Error(await answer.text());
      cell = decode(await answer.arrayBuffer());
    } catch (error) {
      this.onFailure(error);
    }
    this.running -= 1;
    this.waiting.delete(address);
    this.cells.set(address, cell || EMPTY);
    if (this.cells.size > KEPT) this.cells.delete(this.cells.keys().next().value);
    this.#start();
    this.onLoad();
  }
}

const EMPTY = { length: 0 };

// The contours of a cell: ids, starts, points (x, y) in steps from the cell's corner, boxes, types, shares.
export function decodeContours(buffer) {
  const [length, numPoints] = new Uint32Array(buffer, 0, 2);
  let offset = 8;
  const take = (type, count) => {
    const array = new type(buffer, offset, count);
    offset += count * type.BYTES_PER_ELEMENT;
    return array;
  };
  const ids = take(Uint32Array, length);
  const starts = take(Uint32Array, length + 1);
  const points = take(Int16Array, 2 * numPoints);
  const types = take(Uint8Array, length);
  const shares = take(Uint8Array, length);
  return { length, ids, starts, points, boxes: boxesOf(starts, points, length), types, shares };
}

// The centroids of a cell: x and y in 65,536ths of it, types.
export function decodeDots(buffer) {
  const [length] = new Uint32Array(buffer, 0, 1);
  return {
    length,
    x: new Uint16Array(buffer, 4, length),
    y: new Uint16Array(buffer, 4 + 2 * length, length),
    types: new Uint8Array(buffer, 4 + 4 * length, length),
  };
}

// Which contour of a cell holds a point, in its steps; -1 for none.
export function findContour(cell, x, y, isVisible) {
  for (let row = 0; row < cell.length; row++) {
    const box = 4 * row;
    if (x < cell.boxes[box] || y < cell.boxes[box + 1] || x > cell.boxes[box + 2] || y > cell.boxes[box + 3]) continue;
    if (isVisible[cell.types[row]] && isInside(cell, row, x, y)) return row;
  }
  return -1;
}

function isInside(cell, row, x, y) {
  const { points, starts } = cell;
  let inside = false;
  for (let i = starts[row]; i < starts[row + 1] - 1; i++) {
    const x1 = points[2 * i], y1 = points[2 * i + 1], x2 = points[2 * i + 2], y2 = points[2 * i + 3];
    if ((y1 > y) !== (y2 > y) && x < x1 + ((y - y1) * (x2 - x1)) / (y2 - y1)) inside = !inside;
  }
  return inside;
}

function boxesOf(starts, points, length) {
  const boxes = new Int16Array(4 * length);
  for (let row = 0; row < length; row++) {
    let left = 32767, top = 32767, right = -32768, bottom = -32768;
    for (let i = starts[row]; i < starts[row + 1]; i++) {
      const x = points[2 * i], y = points[2 * i + 1];
      if (x < left) left = x;
      if (x > right) right = x;
      if (y < top) top = y;
      if (y > bottom) bottom = y;
    }
    boxes.set([left, top, right, bottom], 4 * row);
  }
  return boxes;
}

// How many nuclei each type has in each cell of the whole slide, and how many a box of the slide holds.
export class Density {
  constructor(facts, numTypes, buffer) {
    Object.assign(this, facts);
    this.numTypes = numTypes;
    this.counts = new Uint16Array(buffer);
    const stride = this.width + 1;
    this.sums = new Float64Array(stride * (this.height + 1));
    this.totals = new Float64Array(this.width * this.height);
    for (let i = 0; i < this.counts.length; i++) this.totals[i % this.totals.length] += this.counts[i];
    for (let row = 0; row < this.height; row++) {
      let sum = 0;
      for (let column = 0; column < this.width; column++) {
        sum += this.totals[row * this.width + column];
        this.sums[(row + 1) * stride + column + 1] = this.sums[row * stride + column + 1] + sum;
      }
    }
    const there = this.totals.filter((total) => total > 0).sort();
    this.full = there.length ? there[Math.floor(0.98 * (there.length - 1))] : 1;
  }

  // About how many nuclei lie in a box of level-0 pixels: whole cells count.
  estimate(left, top, right, bottom) {
    const clip = (value, limit) => Math.min(Math.max(value, 0), limit);
    const [x1, x2] = [clip(Math.floor(left / this.cell), this.width), clip(Math.ceil(right / this.cell), this.width)];
    const [y1, y2] = [clip(Math.floor(top / this.cell), this.height), clip(Math.ceil(bottom / this.cell), this.height)];
    const at = (row, column) => this.sums[row * (this.width + 1) + column];
    return x1 < x2 && y1 < y2 ? at(y2, x2) - at(y1, x2) - at(y2, x1) + at(y1, x1) : 0;
  }

  // One pixel a cell: the mean colour of the nuclei that are shown, the more opaque the more there are.
  paint(canvas, colours, isVisible) {
    canvas.width = this.width;
    canvas.height = this.height;
    const context = canvas.getContext("2d");
    const image = context.createImageData(this.width, this.height);
    const size = this.totals.length;
    for (let cell = 0; cell < size; cell++) {
      let total = 0, red = 0, green = 0, blue = 0;
      for (let type = 0; type < this.numTypes; type++) {
        const count = isVisible[type] ? this.counts[type * size + cell] : 0;
        if (!count) continue;
        total += count;
        red += count * colours[type][0];
        green += count * colours[type][1];
        blue += count * colours[type][2];
      }
      if (!total) continue;
      const strength = Math.min(1, total / this.full);
      image.data.set([red / total, green / total, blue / total, 30 + 150 * strength], 4 * cell);
    }
    context.putImageData(image, 0, 0);
  }
}
